"""Numbers: constants of a step as C."""

from __future__ import annotations

import math


def number(value: float) -> str:
    """A constant in C."""
    if math.isnan(value):
        return "v_set1((real)NAN)"
    if math.isinf(value):
        return f"v_set1((real){'-' if value < 0 else ''}INFINITY)"
    return f"v_set1((real){value!r})"
