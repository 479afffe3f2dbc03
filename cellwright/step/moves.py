"""Moves of a traced step: operations that only put elements in other places, done to their shadows."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_map_only

from cellwright.step.notes import Notes
from cellwright.step.refused import Refused
from cellwright.step.shadow import ROW_BITS


def move(notes: Notes, base: str, args: Any, kwargs: Any, result: Tensor) -> None:
    """An operation of the list of moves."""
    if base in ("_to_copy", "to", "lift_fresh", "conj_physical"):
        notes.shadows.put(result, notes.shadow(args[0]))
        return
    if base in ("index", "reshape"):
        shadow = notes.shadow(args[0])
        notes.shadows.put(result, getattr(torch.ops.aten, base)(shadow, *_constants(notes, args[1:])))
        return
    if base == "copy":
        notes.shadows.put(result, torch.broadcast_to(notes.shadow(args[1]), result.shape))
        return
    fills: dict[int, int] = {}
    if base == "constant_pad_nd":
        fills[2] = notes.atoms.constant(args[2] if len(args) > 2 else 0) << ROW_BITS
    moved = [fills.get(place, value) for place, value in enumerate(args)]
    if base == "constant_pad_nd" and len(moved) == 2:
        moved.append(fills[2])
    known = ("dim", "start", "end", "step", "dims", "shifts")
    kwargs = {key: value for key, value in kwargs.items() if key in known}
    function = getattr(torch.ops.aten, base)
    notes.shadows.put(result, function(*tree_map_only(Tensor, notes.shadow, tuple(moved)), **kwargs))


def _constants(notes: Notes, args: Any) -> Any:
    """These arguments, if no weight or row is in them: what they say holds for good."""
    for tensor in tree_flatten(args)[0]:
        if isinstance(tensor, Tensor):
            known = notes.known(tensor)
            made = () if known is None else notes.tape.ancestors([known])
            if notes.has_rows(tensor) or any(isinstance(notes.tape.entries[one].leaf, str) for one in made):
                raise Refused("an index depends on weights, buffers or rows", notes.where())
    return args
