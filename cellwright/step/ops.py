"""The table of operations on columns: how each is written in pseudocode and in C, and what it costs."""

from __future__ import annotations

from typing import NamedTuple


class Op(NamedTuple):
    """One row of the table: pseudocode and C for the arguments {0}, {1}, ...; whether it is worth keeping."""

    text: str
    c: str
    costly: bool = False


def _call(name: str, arguments: int = 1, costly: bool = True) -> Op:
    places = ", ".join(f"{{{place}}}" for place in range(arguments))
    return Op(f"{name}({places})", f"v_{name}({places})", costly)


def _test(sign: str) -> Op:
    return Op(f"({{0}} {sign} {{1}})", f"v_where({{0}} {sign} {{1}}, v_set1(1), v_set1(0))")


OPS: dict[str, Op] = {
    "add": Op("({0} + {1})", "({0} + {1})"),
    "sub": Op("({0} - {1})", "({0} - {1})"),
    "mul": Op("{0} * {1}", "({0} * {1})"),
    "div": Op("{0} / {1}", "({0} / {1})"),
    "neg": Op("-{0}", "(-{0})"),
    "copy": Op("{0}", "{0}"),
    "abs": _call("abs", costly=False),
    "sign": _call("sign", costly=False),
    "floor": _call("floor", costly=False),
    "ceil": _call("ceil", costly=False),
    "round": _call("round", costly=False),
    "trunc": _call("trunc", costly=False),
    "relu": _call("relu", costly=False),
    "minimum": Op("min({0}, {1})", "v_min({0}, {1})"),
    "maximum": Op("max({0}, {1})", "v_max({0}, {1})"),
    "where": Op("where({0}, {1}, {2})", "v_where({0} != v_set1(0), {1}, {2})"),
    "eq": _test("=="),
    "ne": _test("!="),
    "lt": _test("<"),
    "le": _test("<="),
    "gt": _test(">"),
    "ge": _test(">="),
    "sqrt": _call("sqrt"),
    "rsqrt": _call("rsqrt"),
    "reciprocal": Op("1 / {0}", "v_recip({0})", True),
    "sigmoid": _call("sigmoid"),
    "tanh": _call("tanh"),
    "exp": _call("exp"),
    "expm1": _call("expm1"),
    "log": _call("log"),
    "log1p": _call("log1p"),
    "erf": _call("erf"),
    "sin": _call("sin"),
    "cos": _call("cos"),
    "atan": _call("atan"),
    "pow": _call("pow", 2),
}
