"""Trace: runs a step on a few example rows and writes down, below PyTorch's autograd, what happens to columns."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch._decomp import core_aten_decompositions, decomposition_table
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map_only

from cellwright.step.aten import BILINEAR, CREATIONS, LINEAR, MOVES, RULES, SUMS
from cellwright.step.atoms import COLUMN_BITS, Atom, Atoms, Read, Refs, Weight, segments
from cellwright.step.shadow import ROW_BITS, Mixed, Shadows
from cellwright.step.tape import Entry, Tape, Value

Zeros = NDArray[np.bool_]
MOST_OWN = 64  # results of a product within a row: each becomes a sum of its own
SKIPPED = (str(Path(torch.__file__).parent), str(Path(__file__).parent))


class Refused(Exception):  # noqa: N818
    """This step cannot become loops; the message names the operation, the second argument the line."""

    def __init__(self, reason: str, where: str = "") -> None:
        super().__init__(f"{reason}{f' ({where})' if where else ''}")


class Trace(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """The atoms of a step and the tape of what it does to its weights, filled while the step runs under it."""

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
        self.decompositions = _decompositions()
        self.in_step = True
        self._values: dict[tuple[Any, ...], int] = {}
        self._kept: list[Any] = []
        self._fixed: set[int] = set()  # where weights and buffers lie
        self._lifted: dict[tuple[Any, ...], Tensor] = {}

    # Inputs.

    def add_rows(self, tensor: Tensor, op: str, detail: Any) -> int:
        """Declare a tensor (batch, columns) as a leaf of the atoms."""
        atom = self.atoms.add(Atom(op, tensor.shape[1], (), detail))
        self.shadows.put(tensor, self.shadows.rows(self.atoms.refs(atom)))
        return atom

    def add_weight(self, tensor: Tensor, name: Any) -> int:
        """Declare a tensor that has no rows as a leaf of the tape."""
        self._fixed.add(tensor.untyped_storage().data_ptr())
        return self._note(tensor, self.tape.add(Entry(None, leaf=name)))

    def _note(self, tensor: Tensor, number: int) -> int:
        self._kept.append(tensor)
        self._values[_key(tensor)] = number
        return number

    # What is known of a tensor.

    def value(self, tensor: Tensor) -> int:
        """The number of a tensor on the tape; one that nothing made here is a constant."""
        number = self._values.get(_key(tensor))
        if number is None:
            number = self._note(tensor, self.tape.add(Entry(None, leaf=tensor)))
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

    def _is_fixed(self, tensor: Tensor) -> bool:
        """Whether a tensor lies in the memory of one that the step found, not made."""
        place = tensor.untyped_storage().data_ptr()
        known = self.value(tensor) if not self.has_rows(tensor) else None
        return place in self._fixed or (known is not None and isinstance(self.tape.entries[known].leaf, Tensor))

    def has_rows(self, value: Any) -> bool:
        return isinstance(value, Tensor) and self.shadows.get(value) is not None

    def where(self) -> str:
        """The line of the cell that is being run; nothing while its derivative is."""
        frame = sys._getframe() if self.in_step else None
        while frame is not None and frame.f_code.co_filename.startswith(SKIPPED):
            frame = frame.f_back
        return "" if frame is None else f"{frame.f_code.co_filename}:{frame.f_lineno}"

    # One operation.

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        base = name[:-1] if name.endswith("_") and not name.endswith("__") else name
        tensors = [value for value in tree_flatten((args, kwargs))[0] if isinstance(value, Tensor)]
        rows = [tensor for tensor in tensors if self.has_rows(tensor)]
        if torch.Tag.nondeterministic_seeded in func.tags:
            reason = f"{name} draws random numbers inside a step: draw them outside and pass them in x"
            raise Refused(reason, self.where())
        if func is torch.ops.aten._local_scalar_dense.default and not (tensors and self._is_constant(tensors[0])):
            raise Refused("a Python decision or number depends on the values of tensors", self.where())
        if base != name and self._is_fixed(args[0]):
            raise Refused(f"{name} changes a weight, a buffer or another tensor of the module", self.where())
        handled = base in RULES or base in MOVES or base in CREATIONS or base in SUMS or hasattr(self, f"_do_{base}")
        if rows and not handled and not _is_view(func) and func in self.decompositions:
            with self:
                return self.decompositions[func](*args, **(kwargs or {}))
        result = func(*args, **(kwargs or {}))
        self._kept.append(result)
        self._follow(func, base, name != base, args, kwargs or {}, result, rows)
        return result

    def _follow(
        self, func: Any, base: str, writes: bool, args: Any, kwargs: Any, result: Any, rows: list[Tensor]
    ) -> None:
        outputs = [value for value in tree_flatten(result)[0] if isinstance(value, Tensor)]
        for output in outputs:
            if output.is_floating_point() and output.dtype != self.dtype and output.dim():
                raise Refused(f"{base} gives {output.dtype} among {self.dtype}", self.where())
        creates = base in CREATIONS
        many = any(_has_dim(output, self.shadows.batch) for output in outputs)
        lost = bool(rows) and not all(self.has_rows(output) for output in outputs)
        if creates and (many or rows):
            self._create(base, result)
        elif lost and base in MOVES:  # a copy that could have been a view
            self._compute(base, writes, args, kwargs, result)
        elif (not rows and not (many and not _is_view(func))) or creates:
            self._record(func, writes, args, kwargs, result)
        elif _is_view(func):
            if not all(self.has_rows(output) for output in outputs):  # a batch-free tensor stretched over rows
                self._record(func, writes, args, kwargs, result)
        else:
            self._compute(base, writes, args, kwargs, result)

    def _is_constant(self, tensor: Tensor) -> bool:
        number = self._values.get(_key(tensor))
        return not self.has_rows(tensor) and (number is None or isinstance(self.tape.entries[number].leaf, Tensor))

    def _create(self, base: str, result: Tensor) -> None:
        known = result.numel() and "empty" not in base  # what lies in memory that nobody wrote is no number
        first = result.flatten()[0].item() if known else 0.0
        constant = self.atoms.constant(float(first) if bool((result == first).all()) else 0.0)
        self.shadows.put(result, torch.full(result.shape, constant << ROW_BITS))

    def _record(self, func: Any, writes: bool, args: Any, kwargs: Any, result: Any) -> None:
        base = func.overloadpacket.__name__
        if writes and args[0].numel() * args[0].element_size() == args[0].untyped_storage().nbytes():
            func = getattr(getattr(torch.ops.aten, base[:-1]), func._overloadname)  # all of it: as good as a new one
        elif writes:
            raise Refused(f"{base} writes into a tensor that has no rows", self.where())
        used: list[int] = []

        def number(tensor: Tensor) -> Value:
            used.append(self.value(tensor))
            return Value(used[-1])

        new_args, new_kwargs = tree_map_only(Tensor, number, (tuple(args), kwargs))
        summed = [self.tape.entries[one].summed for one in used]
        if any(summed) and not _is_view(func):
            alone = sum(summed) == 1 and summed[0]
            allowed = base in LINEAR or (base in BILINEAR and (alone or (base != "div" and sum(summed) == 1)))
            allowed = allowed or ("_backward" in base and alone)  # these are linear in the gradient, their first
            if not allowed:
                raise Refused(f"{base} is applied to a sum over the batch", self.where())
        entry = Entry(func, new_args, new_kwargs, summed=any(summed))
        outputs = [result] if isinstance(result, Tensor) else list(result)
        for part, output in enumerate(outputs):
            place = None if isinstance(result, Tensor) else part
            self._note(output, self.tape.add(entry._replace(part=place)))

    def _compute(self, base: str, writes: bool, args: Any, kwargs: Any, result: Any) -> None:
        try:
            if base in RULES:
                self._arithmetic(base, args, kwargs, result)
            elif base in MOVES:
                self._move(base, args, kwargs, result)
            elif base in SUMS:
                self._sum(base, args, kwargs, result)
            elif hasattr(self, f"_do_{base}"):
                getattr(self, f"_do_{base}")(args, kwargs, result)
            else:
                raise Refused(f"{base} is not among the operations that loops know", self.where())
        except Mixed:
            raise Refused(f"{base} lets one row of the batch depend on another", self.where()) from None

    # Kinds of operations.

    def _arithmetic(self, base: str, args: Sequence[Any], kwargs: dict[str, Any], result: Tensor) -> None:
        operands = [self.shadow(value) if isinstance(value, Tensor) else value for value in args]
        shadows = [value for value in operands if isinstance(value, Tensor)]
        axis = self.shadows.axis([torch.broadcast_to(s, result.shape) for s in shadows])
        if axis is None and self.shadows.batch in result.shape:  # numbers for every row
            axis = list(result.shape).index(self.shadows.batch) - result.dim()
        shape = list(result.shape)
        if axis is not None:
            shape[axis] = 1
        numbers = [self._flat(value, result, axis) if isinstance(value, Tensor) else value for value in operands]
        kwargs = {key: value for key, value in kwargs.items() if key in ("alpha", "value", "rounding_mode")}
        refs = RULES[base](partial(self._emit, int(np.prod(shape))), *numbers, **kwargs)
        columns = torch.from_numpy(refs).view(shape)
        self.shadows.put(result, columns << ROW_BITS if axis is None else self.shadows.spread(columns, axis))

    def _flat(self, shadow: Tensor, result: Tensor, axis: int | None) -> Refs:
        whole = torch.broadcast_to(shadow, result.shape)
        if axis is None:
            alike: Refs = (whole >> ROW_BITS).reshape(-1).numpy()
            return alike
        refs: Refs = self.shadows.columns(whole, axis).reshape(-1).numpy()
        return refs

    def _emit(self, columns: int, op: str, *operands: Any) -> Refs:
        refs = [o if isinstance(o, np.ndarray) else np.full(columns, self.atoms.constant(o)) for o in operands]
        if self.in_step:
            return self.atoms.elementwise(op, refs, self.where())
        zero = np.stack([operand == self.atoms.constant(0.0) for operand in refs])
        return self._emit_derivative(op, refs, zero) if zero.any() else self.atoms.elementwise(op, refs, "")

    def _emit_derivative(self, op: str, refs: list[Refs], zero: Zeros) -> Refs:
        """Gradients that are zero stay zero, whatever they are multiplied by, and nothing is added for them."""
        none = np.zeros_like(zero[0])
        still = {"mul": zero.any(0), "div": zero[0], "where": zero[1:].all(0), "neg": zero[0], "copy": zero[0]}
        gone = still.get(op, none)
        first = zero[-1] if op in ("add", "sub") else none  # a + 0, a - 0
        second = zero[0] & ~first if op == "add" else none  # 0 + b
        result = np.where(gone, self.atoms.constant(0.0), np.where(first, refs[0], refs[-1]))
        rest = ~(gone | first | second)
        if rest.any():
            result[rest] = self.atoms.elementwise(op, [operand[rest] for operand in refs], "")
        return result

    def _move(self, base: str, args: Any, kwargs: Any, result: Tensor) -> None:
        if base in ("_to_copy", "to", "lift_fresh", "conj_physical"):
            self.shadows.put(result, self.shadow(args[0]))
            return
        if base in ("index", "reshape"):
            shadow = self.shadow(args[0])
            self.shadows.put(result, getattr(torch.ops.aten, base)(shadow, *self._constants(args[1:])))
            return
        if base == "copy":
            self.shadows.put(result, torch.broadcast_to(self.shadow(args[1]), result.shape))
            return
        fills: dict[int, int] = {}
        if base == "constant_pad_nd":
            fills[2] = self.atoms.constant(args[2] if len(args) > 2 else 0) << ROW_BITS
        moved = [fills.get(place, value) for place, value in enumerate(args)]
        if base == "constant_pad_nd" and len(moved) == 2:
            moved.append(fills[2])
        known = ("dim", "start", "end", "step", "dims", "shifts")
        kwargs = {key: value for key, value in kwargs.items() if key in known}
        function = getattr(torch.ops.aten, base)
        self.shadows.put(result, function(*tree_map_only(Tensor, self.shadow, tuple(moved)), **kwargs))

    def _constants(self, args: Any) -> Any:
        """These arguments, if no weight or row is in them: what they say holds for good."""
        for tensor in tree_flatten(args)[0]:
            if isinstance(tensor, Tensor):
                known = self._values.get(_key(tensor))
                made = () if known is None else self.tape.ancestors([known])
                if self.has_rows(tensor) or any(isinstance(self.tape.entries[one].leaf, str) for one in made):
                    raise Refused("an index depends on weights or rows", self.where())
        return args

    def _sum(self, base: str, args: Sequence[Any], kwargs: dict[str, Any], result: Tensor) -> None:
        tensor: Tensor = args[0]
        dims = args[1] if len(args) > 1 else kwargs.get("dim")
        dims = list(range(tensor.dim())) if dims is None or dims == [] else [dims] if isinstance(dims, int) else dims
        places = {dim % tensor.dim() for dim in dims}
        shadow = self.shadow(tensor)
        axis = self.shadows.axis([shadow])
        if axis is None:
            raise Mixed
        rows = axis + tensor.dim()
        columns = self.shadows.columns(shadow, axis)
        inner = sorted(places - {rows})
        if inner:
            columns = self._reduce(SUMS[base], columns, inner)
        count = int(np.prod([tensor.shape[dim] for dim in places]))
        if base == "mean":
            flat = columns.reshape(-1).numpy()
            columns = torch.from_numpy(self._emit(len(flat), "mul", flat, 1 / count)).view(columns.shape)
        if rows in places:
            if base not in ("sum", "mean"):
                raise Mixed
            self._sum_rows(columns, result)
            return
        self.shadows.put(result, self.shadows.spread(columns, axis).view(result.shape))

    def _reduce(self, op: str, columns: Tensor, dims: list[int]) -> Tensor:
        rest = [dim for dim in range(columns.dim()) if dim not in dims]
        kept = [1 if dim in dims else columns.shape[dim] for dim in range(columns.dim())]
        lines = columns.permute(*rest, *dims).reshape(int(np.prod(kept)), -1).numpy()
        if not lines.shape[1]:  # a sum over nothing
            return torch.full(kept, self.atoms.constant(0.0))
        found = [self.atoms.add(Atom(op, 1, segments(line)), self.where()) for line in lines]
        return torch.from_numpy(np.concatenate([self.atoms.refs(atom) for atom in found])).view(kept)

    def _is_zero(self, columns: Refs) -> bool:
        return bool((columns == self.atoms.constant(0.0)).all())

    def _bears_gradient(self, *columns: Refs) -> bool:
        """Whether one of these columns depends on the incoming gradient; in a derivative, a sum of others is zero."""
        stack = [int(atom) for refs in columns for atom in np.unique(refs >> COLUMN_BITS)]
        seen: set[int] = set()
        while stack and not self.in_step:
            atom = stack.pop()
            if self.atoms.items[atom].op in ("dy", "dstate"):
                return True
            if atom not in seen:
                seen.add(atom)
                stack += [arg.atom for arg in self.atoms.items[atom].args]
        return self.in_step

    def _note_zeros(self, result: Tensor) -> None:
        """A sum over the rows of what is zero."""
        zeros = Entry(torch.ops.aten.zeros.default, (list(result.shape),), {"dtype": self.dtype}, summed=True)
        self._note(result, self.tape.add(zeros))

    def _sum_rows(self, columns: Tensor, result: Tensor) -> None:
        if not self._bears_gradient(columns.numpy()):
            self._note_zeros(result)
            return
        self.sums.append(columns.reshape(-1).numpy())
        leaf = ("sum", len(self.sums) - 1, tuple(result.shape))
        self._note(result, self.tape.add(Entry(None, leaf=leaf, summed=True)))

    def _do_var(self, args: Any, kwargs: Any, result: Tensor) -> None:
        tensor = args[0]
        dims = args[1] if len(args) > 1 and args[1] is not None else list(range(tensor.dim()))
        kept = list(tensor.shape)
        for dim in dims:
            kept[dim] = 1
        count = tensor.numel() // max(int(np.prod(kept)), 1)
        with self:
            centred = tensor - tensor.mean(dims, True)
            correction = args[2] if len(args) > 2 else kwargs.get("correction", 1)
            spread = (centred * centred).sum(dims, True) / (count - correction)
        self.shadows.put(result.view(kept), self.shadow(spread))

    def _do_index_put(self, args: Any, kwargs: Any, result: Tensor) -> None:
        tensor, places, value = args[:3]
        if len(places) != 1 or places[0].shape != tensor.shape or value.numel() != 1 or any(args[3:]):
            raise Refused("index_put with places that are not one mask of the tensor's shape", self.where())
        self._arithmetic("where", (places[0], value, tensor), {}, result)

    def _do_cumsum(self, args: Any, kwargs: Any, result: Tensor) -> None:
        shadow = self.shadow(args[0])
        axis = self.shadows.axis([shadow])
        dim = args[1] % result.dim()
        if axis is None or dim == axis + result.dim():
            raise Mixed
        columns = self.shadows.columns(shadow, axis).movedim(dim, -1)
        lines = columns.reshape(-1, columns.shape[-1]).numpy()
        found = [self.atoms.add(Atom("cumsum", len(line), self._in_memory(line)), self.where()) for line in lines]
        refs = torch.from_numpy(np.stack([self.atoms.refs(atom) for atom in found])).view(columns.shape)
        self.shadows.put(result, self.shadows.spread(refs.movedim(-1, dim), axis))

    # Products.

    def _do_mm(self, args: Any, kwargs: Any, result: Tensor) -> None:
        self._product(args[0].unsqueeze(0), args[1].unsqueeze(0), result.unsqueeze(0), (False,))

    def _do_bmm(self, args: Any, kwargs: Any, result: Tensor) -> None:
        self._product(args[0], args[1], result, (True,))

    def _do_addmm(self, args: Any, kwargs: Any, result: Tensor) -> None:
        self._add_product(torch.mm, args, kwargs, result)

    def _do_baddbmm(self, args: Any, kwargs: Any, result: Tensor) -> None:
        self._add_product(torch.bmm, args, kwargs, result)

    def _add_product(self, product: Callable[..., Tensor], args: Any, kwargs: Any, result: Tensor) -> None:
        with self:
            total = product(args[1], args[2])
            alpha, beta = kwargs.get("alpha", 1), kwargs.get("beta", 1)
            total = total if alpha == 1 else total * alpha
            total = total if beta == 0 else total + (args[0] if beta == 1 else args[0] * beta)
        self.shadows.put(result, self.shadow(total))

    def _product(self, left: Tensor, right: Tensor, result: Tensor, batched: tuple[bool]) -> None:
        a, b = self.shadows.get(left), self.shadows.get(right)
        if a is not None and b is not None:
            if batched[0] and self.shadows.axis([a]) == self.shadows.axis([b]) == -3:
                self._own_product(a, b, result)
            else:
                self._sum_product(a, b, result, batched[0])
            return
        rows = a if a is not None else b
        assert rows is not None
        axis = self.shadows.axis([rows])
        flipped = a is None  # W @ h.T: the same as (h @ W.T).T
        if axis != (-1 if flipped else -2):
            raise Mixed
        lines = self.shadows.columns(rows, axis).movedim(axis, -2).squeeze(-2).numpy()  # (batched, K)
        weight = left if flipped else right
        found = [self._one_product(line, weight, place, batched[0], flipped) for place, line in enumerate(lines)]
        refs = torch.from_numpy(np.stack(found)).unsqueeze(axis)  # (batched, 1, N) or (batched, N, 1)
        self.shadows.put(result, self.shadows.spread(refs, axis))

    def _one_product(self, line: Refs, weight: Tensor, place: int, batched: bool, flipped: bool) -> Refs:
        number = self.value(weight if batched else weight[0])
        if self.tape.entries[number].summed:
            raise Refused("a sum over the batch flows back into rows", self.where())
        matrix = Weight(number, (place,) if batched else (), flipped, 0, 0)
        columns = weight.shape[1] if flipped else weight.shape[2]
        if not self.in_step and self._is_zero(line):
            return np.full(columns, self.atoms.constant(0.0))
        args, details, row = [], [], 0
        for part in self._in_memory(line):
            args.append(part)
            details.append(matrix._replace(row=row))
            row += part.width
        return self.atoms.refs(self.atoms.add(Atom("mm", columns, tuple(args), tuple(details)), self.where()))

    def _in_memory(self, line: Refs) -> tuple[Read, ...]:
        """Reads of columns that lie side by side in memory: numbers and columns apart are copied there."""
        found = []
        for part in segments(line):
            if (part.step != 1 and part.width > 1) or self.atoms.items[part.atom].op == "const":
                copied = self.atoms.add(Atom("copy", part.width, (part,)), self.where())
                part = Read(copied, 0, 1, part.width)
            found.append(part)
        return tuple(found)

    def _own_product(self, a: Tensor, b: Tensor, result: Tensor) -> None:
        """A product of two matrices that every row of the batch has of its own: products and sums of columns."""
        if result[0].numel() > MOST_OWN:
            raise Refused(f"a product of two tensors that both differ from row to row, over {MOST_OWN}", self.where())
        left = self.shadows.columns(a, -3)[0].numpy()  # (M, K)
        right = self.shadows.columns(b, -3)[0].numpy()  # (K, N)
        found = []
        for m in range(left.shape[0]):
            for n in range(right.shape[1]):
                line = self._emit(left.shape[1], "mul", left[m], right[:, n])
                found.append(self.atoms.refs(self.atoms.add(Atom("sum", 1, segments(line)), self.where())))
        refs = torch.from_numpy(np.concatenate(found)).view(1, left.shape[0], right.shape[1])
        self.shadows.put(result, self.shadows.spread(refs, -3))

    def _sum_product(self, a: Tensor, b: Tensor, result: Tensor, batched: bool) -> None:
        if self.shadows.axis([a]) != -1 or self.shadows.axis([b]) != -2:
            raise Refused("a product of two tensors that both differ from row to row", self.where())
        left = self.shadows.columns(a, -1).squeeze(-1).numpy()  # (batched, M)
        right = self.shadows.columns(b, -2).squeeze(-2).numpy()  # (batched, N)
        if self._is_zero(left) or self._is_zero(right) or not self._bears_gradient(left, right):
            self._note_zeros(result if batched else result[0])
            return
        first = len(self.products)
        self.products += list(zip(left, right, strict=True))
        leaf = ("product", first, len(left) if batched else None)
        self._note(result if batched else result[0], self.tape.add(Entry(None, leaf=leaf, summed=True)))


def _key(tensor: Tensor) -> tuple[Any, ...]:
    place = tensor.untyped_storage().data_ptr()
    return place, tensor.storage_offset(), tuple(tensor.shape), tensor.stride(), tensor.dtype


def _has_dim(tensor: Tensor, batch: int) -> bool:
    return any(size == batch and stride != 0 for size, stride in zip(tensor.shape, tensor.stride(), strict=True))


def _is_view(func: Any) -> bool:
    return bool(func.is_view) if hasattr(func, "is_view") else False


def _decompositions() -> dict[Any, Callable[..., Any]]:
    global _TABLE
    if not _TABLE:
        _TABLE = {**decomposition_table, **core_aten_decompositions(), torch.ops.aten.var_mean.correction: _var_mean}
    return _TABLE


def _var_mean(
    a: Tensor, dims: Any = None, *, correction: float | None = None, keepdim: bool = False
) -> tuple[Tensor, Tensor]:
    """Variance and mean, of which PyTorch's own decomposition imports all of torch._dynamo: two seconds."""
    dims = [dim % a.dim() for dim in (range(a.dim()) if dims is None else dims)]
    mean = a.mean(dims, True)
    count = math.prod(a.shape[dim] for dim in dims)
    centred = a - mean
    var = (centred * centred).sum(dims, True) / max(count - (1 if correction is None else correction), 0)
    if keepdim:
        return var, mean
    return var.squeeze(dims), mean.squeeze(dims)


_TABLE: dict[Any, Callable[..., Any]] = {}
