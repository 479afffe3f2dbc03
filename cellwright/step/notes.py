"""Notes: what is known of every tensor while a step is traced, and what was written down of it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from cellwright.step.aten import CREATIONS
from cellwright.step.atoms import COLUMN_BITS, Atom, Atoms, Refs
from cellwright.step.refused import Refused
from cellwright.step.shadow import ROW_BITS, Shadows
from cellwright.step.tape import Entry, Tape

SKIPPED = (str(Path(torch.__file__).parent), str(Path(__file__).parent))


class Notes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """The atoms of a step, the tape of what it does to its weights, and which tensor is what of them."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # this would import all of torch._dynamo, a second or more

    def __init__(self, batch: int, dtype: torch.dtype) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.dtype = dtype
        self.atoms = Atoms()
        self.tape = Tape()
        self.shadows = Shadows(batch)
        self.products: list[tuple[Refs, Refs]] = []  # summed over rows and steps: (columns, columns) and (columns,)
        self.sums: list[Refs] = []
        self.in_step = True
        self._values: dict[tuple[Any, ...], int] = {}
        self._kept: list[Any] = []
        self._fixed: set[int] = set()  # where weights and buffers lie

    # Inputs.

    def add_rows(self, tensor: Tensor, op: str, detail: Any) -> int:
        """Declare a tensor (batch, columns) as a leaf of the atoms."""
        atom = self.atoms.add(Atom(op, tensor.shape[1], (), detail))
        self.shadows.put(tensor, self.shadows.rows(self.atoms.refs(atom)))
        return atom

    def add_weight(self, tensor: Tensor, name: Any) -> int:
        """Declare a tensor that has no rows as a leaf of the tape."""
        self._fixed.add(tensor.untyped_storage().data_ptr())
        shape = tuple(tensor.shape) if tensor.dtype == self.dtype else None
        return self.note(tensor, self.tape.add(Entry(None, leaf=name, shape=shape)))

    def note(self, tensor: Tensor, number: int) -> int:
        """Write down a tensor's number on the tape."""
        self.keep(tensor)
        self._values[_key(tensor)] = number
        return number

    def keep(self, value: Any) -> None:
        """Nothing else may lie in this memory while tensors are known by where they lie."""
        self._kept.append(value)

    # What is known of a tensor.

    def known(self, tensor: Tensor) -> int | None:
        """The number of a tensor on the tape, if it has one."""
        return self._values.get(_key(tensor))

    def value(self, tensor: Tensor) -> int:
        """The number of a tensor on the tape; one that nothing made here is a constant."""
        number = self.known(tensor)
        if number is None:
            number = self.note(tensor, self.tape.add(Entry(None, leaf=tensor)))
        return number

    def shadow(self, tensor: Any) -> Tensor:
        """The shadow of a tensor or number; a weight becomes a leaf of the atoms."""
        if not isinstance(tensor, Tensor):
            return torch.tensor(self.atoms.constant(tensor) << ROW_BITS)
        found = self.shadows.get(tensor)
        return self._lift(tensor) if found is None else found

    def _lift(self, tensor: Tensor) -> Tensor:
        number = self.value(tensor)
        if self.tape.entries[number].summed:
            raise Refused("sums over the batch flow back into rows", self.where())
        made: Any = self.tape.entries[number].function
        if tensor.numel() == 1 and made is not None and made.overloadpacket.__name__ in CREATIONS:
            return torch.full(tensor.shape, self.atoms.constant(tensor.item()) << ROW_BITS)
        if tensor.numel() == 1:
            single = self.atoms.add(Atom("weight", 1, (), (number, ())))
            return torch.full(tensor.shape, int(self.atoms.refs(single)[0]) << ROW_BITS)
        repeated = [dim for dim, stride in enumerate(tensor.stride()) if stride == 0]
        shape = [1 if dim in repeated else size for dim, size in enumerate(tensor.shape)]
        atom = self.atoms.add(Atom("weight", int(np.prod(shape)), (), (number, tuple(repeated))))
        return (torch.from_numpy(self.atoms.refs(atom, *shape)) << ROW_BITS).expand(tensor.shape)

    def has_rows(self, value: Any) -> bool:
        return isinstance(value, Tensor) and self.shadows.get(value) is not None

    def is_fixed(self, tensor: Tensor) -> bool:
        """Whether a tensor lies in the memory of one that the step found, not made."""
        place = tensor.untyped_storage().data_ptr()
        known = self.value(tensor) if not self.has_rows(tensor) else None
        return place in self._fixed or (known is not None and isinstance(self.tape.entries[known].leaf, Tensor))

    def is_constant(self, tensor: Tensor) -> bool:
        number = self.known(tensor)
        return not self.has_rows(tensor) and (number is None or isinstance(self.tape.entries[number].leaf, Tensor))

    def bears_gradient(self, *columns: Refs) -> bool:
        """Whether one of these columns depends on the incoming gradient; in a derivative, a sum of others is zero."""
        stack = [atom for refs in columns for atom in set((refs >> COLUMN_BITS).ravel().tolist())]
        seen: set[int] = set()
        while stack and not self.in_step:
            atom = stack.pop()
            if self.atoms.items[atom].op in ("dy", "dstate"):
                return True
            if atom not in seen:
                seen.add(atom)
                stack += [arg.atom for arg in self.atoms.items[atom].args]
        return self.in_step

    def where(self) -> str:
        """The line of the cell that is being run; nothing while its derivative is."""
        frame = sys._getframe() if self.in_step else None
        while frame is not None and frame.f_code.co_filename.startswith(SKIPPED):
            frame = frame.f_back
        return "" if frame is None else f"{frame.f_code.co_filename}:{frame.f_lineno}"


def _key(tensor: Tensor) -> tuple[Any, ...]:
    place = tensor.untyped_storage().data_ptr()
    return place, tensor.storage_offset(), tuple(tensor.shape), tensor.stride(), tensor.dtype
