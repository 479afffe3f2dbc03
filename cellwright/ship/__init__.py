"""8. Models as files that run elsewhere: ONNX and torch.export, checked against the model before they are written."""

from cellwright.ship.check import Exported as Exported
from cellwright.ship.onnx import export_onnx as export_onnx
