"""Checkpoints: tensors and a few plain values in one safetensors file, written whole or not at all.

The format, version 1:

- A checkpoint is one safetensors file. Nothing in it is ever executed or unpickled.
- Its metadata has one entry, "cellwright": JSON with "version" (1), "kind" and "values".
- Kind "model" (`model.safetensors`): the weights that are used, by their names in the model.
- Kind "training" (`last.safetensors`): everything that going on needs. Tensors are named
  "model.NAME", "average.NAME" (running average of the weights), "optimizer.PLACE.KEY" (PLACE counts the
  optimizer's parameters), "carried.PLACE" (recurrent states of the whole batch, (L, B, H)),
  "random.cpu" and "random.cuda" (states of the random generators). "values" is the `Progress`.
- A file is written under another name, flushed to disk, and renamed over the old one: whenever the
  process is killed, the old or the new file is there, whole.
- A reader checks version, kind, and the name, shape and type of every tensor before it uses one.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from cellwright.errors import RunError
from cellwright.text.files import write_atomically

VERSION = 1
KEY = "cellwright"


def save_checkpoint(path: Path, kind: str, tensors: Mapping[str, Tensor], values: Mapping[str, Any]) -> None:
    """Write a checkpoint; the same tensors and values always give the same bytes.

    Raises:
        RunError: it cannot be written; what `path` held before is still there.
    """
    note = json.dumps({"version": VERSION, "kind": kind, "values": dict(values)}, sort_keys=True)
    # A copy of each tensor: safetensors refuses tensors that share memory, as tied weights do.
    plain = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in sorted(tensors.items())}
    write_atomically(path, safetensors.torch.save(plain, {KEY: note}))


def load_checkpoint(path: Path, kind: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors and values of a checkpoint.

    Raises:
        RunError: the file is missing, cut short, no checkpoint, or of another version or kind.
    """
    if not path.is_file():
        raise RunError(
            "a run keeps its weights in its directory", f"no file {path}", "let the run finish an epoch first"
        )
    try:
        with safe_open(path, framework="pt") as file:
            note = json.loads((file.metadata() or {}).get(KEY, "null"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    except (SafetensorError, OSError, ValueError) as error:
        raise _damaged(path, str(error)) from error
    if not isinstance(note, dict) or not isinstance(note.get("values"), dict):
        raise _damaged(path, "it is not from Cellwright")
    if note.get("version") != VERSION:
        raise RunError(
            f"this Cellwright reads checkpoints of version {VERSION}",
            f"version {note.get('version')!r} in {path}",
            "use the Cellwright that wrote it, or train again",
        )
    if note.get("kind") != kind:
        raise _damaged(path, f"it is of kind {note.get('kind')!r}, not {kind!r}")
    return tensors, note["values"]


def check_tensors(path: Path, found: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> None:
    """Refuse tensors that are not exactly the wanted ones by name, shape and type.

    Raises:
        RunError: naming the first that differs.
    """
    for name in sorted(found.keys() | wanted.keys()):
        if name not in found or name not in wanted:
            raise _damaged(path, f"tensor {name!r} is {'missing' if name not in found else 'unknown'}")
        ours, theirs = wanted[name], found[name]
        if ours.shape != theirs.shape or ours.dtype != theirs.dtype:
            raise _damaged(
                path, f"{name!r} is {tuple(theirs.shape)} {theirs.dtype}, not {tuple(ours.shape)} {ours.dtype}"
            )
        if theirs.is_floating_point() and not bool(theirs.isfinite().all()):
            raise _damaged(path, f"{name!r} holds values that are not finite numbers")


def _damaged(path: Path, reason: str) -> RunError:
    return RunError(
        "a checkpoint is a whole safetensors file that Cellwright wrote for this run",
        f"{path}: {' '.join(reason.split())}",
        "restore it from a copy, or train again",
    )
