"""8. A trained model leaves the workshop: as a file that runs elsewhere, checked against it first, or served."""

from cellwright.ship.check import Exported as Exported
from cellwright.ship.onnx import export_onnx as export_onnx
from cellwright.ship.pt2 import export_pt2 as export_pt2
from cellwright.ship.run import FORMATS as FORMATS
from cellwright.ship.run import export_run as export_run
