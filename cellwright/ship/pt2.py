"""PT2: layers and language models as programs of torch.export, for any length and batch size, checked like ONNX."""

from __future__ import annotations

import copy
import io
import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cellwright.errors import BackendError, ExportError
from cellwright.kernels import choose
from cellwright.ship.check import Exported, check_and_write, in_words
from cellwright.ship.signature import Signature, Value, signature_of
from cellwright.ship.stack import described, evaluated, layer_of, stack_of

EXAMPLE = (7, 5)  # T and B that are traced, and not among those checked
METADATA = "cellwright.json"


def export_pt2(model: nn.Module, path: str | Path, metadata: Mapping[str, str] | None = None) -> Exported:
    """Write a layer or a language model, as it evaluates, as a program of torch.export that runs at any length.

    >>> import tempfile
    >>> from cellwright.layers import GRU
    >>> layer = GRU(3, 5)
    >>> with tempfile.TemporaryDirectory() as directory:
    ...     path = export_pt2(layer, f"{directory}/layer.pt2").path
    ...     program = torch.export.load(path).module()
    >>> y, h = program(torch.zeros(4, 2, 3), torch.zeros(1, 2, 5))   # called as the layer is

    Who loads it needs torch, `import cellwright` and, to run, a C compiler: the loop over time is one operation of
    ours, compiled anew where it runs. Without that operation torch.export would write out every step, which fixes the
    length; so cells that backend "c" does not run are refused. An ONNX file needs none of this.

    Args:
        model: a `cw.Recurrent`, `RNN`, `GRU`, `LSTM`, or the language model of a run; float32 or float64.
        path: the file to write.
        metadata: words to keep in the file, beside the version of Cellwright and the cell; the extra file METADATA
            holds them as JSON.

    Returns:
        What was written: its str() lists inputs, outputs and the check.

    Raises:
        ExportError: backend "c" does not run the cell, torch.export fails, or the file computes something else.
    """
    own = evaluated(model)
    signature = signature_of(own)
    content = _file(own, signature, {**described(own), **(metadata or {})})
    program: Any = torch.export.load(io.BytesIO(content)).module()

    def run(inputs: list[Tensor]) -> list[Tensor]:
        return signature.call(program, inputs)

    return check_and_write(Path(path), content, "a program of torch.export", run, own, signature)


def _file(model: nn.Module, signature: Signature, metadata: Mapping[str, str]) -> bytes:
    fused = copy.deepcopy(model)
    layer_of(fused).backend = "c"
    _refuse_unfused(layer_of(fused))
    x, *states = signature.draw(*EXAMPLE)
    sizes = [_free(value) for value in signature.inputs]
    alone = len(states) == 1
    arguments = (x, states[0] if alone else tuple(states))
    free = (sizes[0], sizes[1] if alone else tuple(sizes[1:]))
    buffer = io.BytesIO()
    with warnings.catch_warnings(), in_words("torch.export traces"):
        warnings.simplefilter("ignore")  # of torch's own parts
        program = torch.export.export(fused, arguments, dynamic_shapes=free)
        torch.export.save(program, buffer, extra_files={METADATA: json.dumps(dict(metadata))})
    return buffer.getvalue()


def _refuse_unfused(layer: Any) -> None:
    try:
        for cell in stack_of(layer).cells:
            choose(cell, "c")
    except BackendError as error:
        rule = "a program of torch.export holds cells that backend 'c' runs: the loop over time is one operation"
        raise ExportError(rule, error.came, "export it as ONNX, or change that line of the cell") from error


def _free(value: Value) -> dict[int, Any]:
    """Which dimensions of an input are free."""
    return {place: torch.export.Dim(size) for place, size in enumerate(value.shape) if isinstance(size, str)}
