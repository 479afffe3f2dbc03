"""Run: the language model of a trained run as a file, with its vocabulary and settings in it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from cellwright.errors import SettingError
from cellwright.ship.check import Exported
from cellwright.ship.onnx import export_onnx
from cellwright.ship.pt2 import export_pt2
from cellwright.text.run import Run

FORMATS: dict[str, Callable[..., Exported]] = {"onnx": export_onnx, "pt2": export_pt2}


def export_run(run: Run, path: Path | None = None, format: str = "onnx", cell: str | None = None) -> Exported:
    """Write the model of a run to a file: tokens and states in, scores of every next token and states out.

    Args:
        run: a trained run.
        path: the file (default: model.onnx or model.pt2 in the run's directory).
        format: one of FORMATS.
        cell: the cell's file, where the run was trained with a cell from a file.

    Returns:
        What was written: its str() lists inputs, outputs and the check.

    Raises:
        SettingError: there is no such format.
        ExportError: the model cannot be exported.
    """
    if format not in FORMATS:
        raise SettingError(f"a format is {' or '.join(FORMATS)}", repr(format), "write --format onnx, say")
    settings, vocabulary = run.settings(), run.vocabulary()
    metadata = {"cell": settings.model.cell, "cleaning": settings.data.cleaning}
    metadata["vocabulary"] = json.dumps(vocabulary.to_dict(), ensure_ascii=False)
    target = path or run.path / f"model.{format}"
    return FORMATS[format](run.model(cell), target, metadata=metadata)
