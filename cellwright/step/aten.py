"""What PyTorch's operations are on columns: one table for arithmetic, and lists of what moves, makes and sums."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from cellwright.step.atoms import Refs

LN2 = math.log(2)
Emit = Callable[..., Refs]  # emit(op, operand, ...) -> references to the result; operands are references or numbers

PLAIN = (
    *("neg", "abs", "floor", "ceil", "trunc", "relu", "minimum", "maximum", "where", "sign", "mul"),
    *("eq", "ne", "lt", "le", "gt", "ge", "sqrt", "rsqrt", "reciprocal", "sigmoid", "tanh"),
    *("exp", "expm1", "log", "log1p", "erf", "sin", "cos", "atan"),
)


def _scaled(op: str) -> Callable[..., Refs]:
    def rule(emit: Emit, a: Any, b: Any, alpha: float = 1) -> Refs:
        return emit(op, a, b if alpha == 1 else emit("mul", b, alpha))

    return rule


def _div(emit: Emit, a: Any, b: Any, *, rounding_mode: str | None = None) -> Refs:
    quotient = emit("mul", a, 1 / b) if isinstance(b, (int, float)) and _exact_inverse(b) else emit("div", a, b)
    return quotient if rounding_mode is None else emit(rounding_mode, quotient)


def _exact_inverse(b: float) -> bool:
    return b != 0 and abs(b) in {2.0**k for k in range(-60, 61)}


def _pow(emit: Emit, a: Any, b: Any) -> Refs:
    powers: dict[float, Callable[[], Refs]] = {
        1: lambda: emit("copy", a),
        2: lambda: emit("mul", a, a),
        3: lambda: emit("mul", emit("mul", a, a), a),
        0.5: lambda: emit("sqrt", a),
        -0.5: lambda: emit("rsqrt", a),
        -1: lambda: emit("reciprocal", a),
    }
    return powers[b]() if isinstance(b, (int, float)) and b in powers else emit("pow", a, b)


def _clamp(emit: Emit, a: Any, low: Any = None, high: Any = None) -> Refs:
    a = a if low is None else emit("maximum", a, low)
    return a if high is None else emit("minimum", a, high)


def _rounded(emit: Emit, a: Any, decimals: int) -> Refs:
    if decimals == 0:
        return emit("round", a)
    there, back = ("mul", "div") if decimals > 0 else ("div", "mul")
    return emit(back, emit("round", emit(there, a, 10.0 ** abs(decimals))), 10.0 ** abs(decimals))


def _asinh(emit: Emit, a: Any) -> Refs:
    """asinh(a) = log1p(a + a^2 / (1 + sqrt(1 + a^2))), for a >= 0: without the loss of a sum near 1."""
    square = emit("mul", a, a)
    return emit("add", a, emit("div", square, emit("add", 1, emit("sqrt", emit("add", 1, square)))))


def _odd(emit: Emit, a: Any, positive: Refs) -> Refs:
    return emit("where", emit("lt", a, 0), emit("neg", positive), positive)


RULES: dict[str, Callable[..., Refs]] = {
    **{name: lambda emit, *operands, _op=name: emit(_op, *operands) for name in PLAIN},
    "add": _scaled("add"),
    "sub": _scaled("sub"),
    "rsub": lambda emit, a, b, alpha=1: emit("sub", b, a if alpha == 1 else emit("mul", a, alpha)),
    "div": _div,
    "true_divide": _div,
    "pow": _pow,
    "remainder": lambda emit, a, b: emit("sub", a, emit("mul", emit("floor", emit("div", a, b)), b)),
    "fmod": lambda emit, a, b: emit("sub", a, emit("mul", emit("trunc", emit("div", a, b)), b)),
    "exp2": lambda emit, a: emit("exp", emit("mul", a, LN2)),
    "log2": lambda emit, a: emit("mul", emit("log", a), 1 / LN2),
    "asinh": lambda emit, a: _odd(emit, a, emit("log1p", _asinh(emit, emit("abs", a)))),
    "square": lambda emit, a: emit("mul", a, a),
    "sgn": lambda emit, a: emit("sign", a),
    "round": lambda emit, a, *, decimals=0: _rounded(emit, a, decimals),
    "clamp": _clamp,
    "clamp_min": lambda emit, a, low: emit("maximum", a, low),
    "clamp_max": lambda emit, a, high: emit("minimum", a, high),
    "logical_and": lambda emit, a, b: emit("mul", emit("ne", a, 0), emit("ne", b, 0)),
    "bitwise_and": lambda emit, a, b: emit("mul", a, b),
    "logical_or": lambda emit, a, b: emit("maximum", emit("ne", a, 0), emit("ne", b, 0)),
    "bitwise_or": lambda emit, a, b: emit("maximum", a, b),
    "logical_not": lambda emit, a: emit("eq", a, 0),
    "bitwise_not": lambda emit, a: emit("sub", 1, a),
    "isnan": lambda emit, a: emit("ne", a, a),
    "masked_fill": lambda emit, a, mask, value: emit("where", mask, value, a),
    "addcmul": lambda emit, a, b, c, *, value=1: emit("add", a, emit("mul", emit("mul", b, c), value)),
    "fill": lambda emit, a, value: emit("copy", value),
    "zero": lambda emit, a: emit("copy", 0),
    "sigmoid_backward": lambda emit, g, y: emit("mul", g, emit("mul", y, emit("sub", 1, y))),
    "tanh_backward": lambda emit, g, y: emit("mul", g, emit("sub", 1, emit("mul", y, y))),
    "threshold_backward": lambda emit, g, x, limit: emit("where", emit("le", x, limit), 0, g),
}

MOVES = {  # operations that only put elements in other places
    *("cat", "clone", "flip", "roll", "repeat", "constant_pad_nd", "slice_scatter", "select_scatter", "copy"),
    *("stack", "contiguous", "as_strided_scatter", "diagonal_scatter", "_to_copy", "to", "lift_fresh"),
    *("conj_physical", "index", "reshape"),
}

CREATIONS = {  # operations whose result does not depend on the values they are given
    *("zeros", "ones", "full", "empty", "new_zeros", "new_ones", "new_full", "new_empty", "new_empty_strided"),
    *("zeros_like", "ones_like", "full_like", "empty_like", "empty_strided", "scalar_tensor"),
}

SUMS = {"sum": "sum", "mean": "sum", "amax": "max", "amin": "min"}

LINEAR = {  # what may follow once rows and steps are summed: operations that are linear in the sum
    *("add", "sub", "neg", "sum", "mean", "cat", "clone", "copy", "stack", "contiguous", "constant_pad_nd", "_to_copy"),
    *("slice_scatter", "select_scatter", "flip", "roll", "repeat", "zeros_like", "new_zeros", "where", "conj_physical"),
}
BILINEAR = {"mul", "mm", "bmm", "matmul", "div"}
