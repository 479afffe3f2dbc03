"""The table of operations on columns: how each is written in pseudocode, in code and in ONNX, and what it costs."""

from __future__ import annotations

from typing import NamedTuple


class Op(NamedTuple):
    """One row of the table: an operation on the arguments {0}, {1}, ... in three languages.

    Code is C and Triton at once: both have the same operators, and functions by the same names. ONNX is written as
    calls of its operators, those that need no attributes; tests give 1 and 0.
    """

    text: str
    code: str
    onnx: str
    costly: bool = False
    """Whether its result is worth keeping."""


def _call(name: str, onnx: str = "", arguments: int = 1, costly: bool = True) -> Op:
    places = ", ".join(f"{{{place}}}" for place in range(arguments))
    return Op(f"{name}({places})", f"v_{name}({places})", onnx or f"{name.capitalize()}({places})", costly)


def _test(sign: str, onnx: str) -> Op:
    return Op(
        f"({{0}} {sign} {{1}})",
        f"v_where({{0}} {sign} {{1}}, v_set1(1), v_set1(0))",
        f"Where({onnx}({{0}}, {{1}}), 1, 0)",
    )


LOG1P = "Where(Equal(Add({0}, 1), 1), {0}, Mul(Log(Add({0}, 1)), {share}))"  # what 1 + x rounds off is made good
SHARE = "Where(Equal(Sub(Add({0}, 1), 1), {0}), 1, Div({0}, Sub(Add({0}, 1), 1)))"

OPS: dict[str, Op] = {
    "add": Op("({0} + {1})", "({0} + {1})", "Add({0}, {1})"),
    "sub": Op("({0} - {1})", "({0} - {1})", "Sub({0}, {1})"),
    "mul": Op("{0} * {1}", "({0} * {1})", "Mul({0}, {1})"),
    "div": Op("{0} / {1}", "({0} / {1})", "Div({0}, {1})"),
    "neg": Op("-{0}", "(-{0})", "Neg({0})"),
    "copy": Op("{0}", "{0}", "{0}"),
    "abs": _call("abs", costly=False),
    "sign": _call("sign", costly=False),
    "floor": _call("floor", costly=False),
    "ceil": _call("ceil", costly=False),
    "round": _call("round", costly=False),
    "trunc": _call("trunc", "Mul(Sign({0}), Floor(Abs({0})))", costly=False),
    "relu": _call("relu", costly=False),
    "minimum": Op("min({0}, {1})", "v_min({0}, {1})", "Min({0}, {1})"),
    "maximum": Op("max({0}, {1})", "v_max({0}, {1})", "Max({0}, {1})"),
    "where": Op("where({0}, {1}, {2})", "v_where({0} != v_set1(0), {1}, {2})", "Where(Equal({0}, 0), {2}, {1})"),
    "eq": _test("==", "Equal"),
    "ne": Op("({0} != {1})", "v_where({0} != {1}, v_set1(1), v_set1(0))", "Where(Equal({0}, {1}), 0, 1)"),
    "lt": _test("<", "Less"),
    "le": _test("<=", "LessOrEqual"),
    "gt": _test(">", "Greater"),
    "ge": _test(">=", "GreaterOrEqual"),
    "sqrt": _call("sqrt"),
    "rsqrt": _call("rsqrt", "Reciprocal(Sqrt({0}))"),
    "reciprocal": Op("1 / {0}", "v_recip({0})", "Reciprocal({0})", True),
    "sigmoid": _call("sigmoid"),
    "tanh": _call("tanh"),
    "exp": _call("exp"),
    "expm1": _call("expm1", "Mul(Tanh(Mul({0}, 0.5)), Add(Exp({0}), 1))"),
    "log": _call("log"),
    "log1p": _call("log1p", LOG1P.replace("{share}", SHARE)),
    "erf": _call("erf"),
    "sin": _call("sin"),
    "cos": _call("cos"),
    "atan": _call("atan"),
    "pow": _call("pow", arguments=2),
}
