"""The embedded Reber grammar: strings of a chosen length, and which symbols may follow at every place."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

LETTERS = "BTPSXVE"
SHORTEST = 9  # symbols of the shortest string, such as BTBTXSETE

# What may follow at each node of Reber's grammar: a symbol, and the node it leads to; 7 is the end.
INNER = (
    (("B", 1),),
    (("T", 2), ("P", 3)),
    (("S", 2), ("X", 4)),
    (("T", 3), ("V", 5)),
    (("X", 3), ("S", 6)),
    (("P", 4), ("V", 6)),
    (("E", 7),),
)


def _embedded() -> tuple[tuple[tuple[str, int], ...], ...]:
    """The grammar B, T or P, a string of Reber's, the same letter again, E: one copy of INNER for each letter."""
    inside = [tuple((symbol, node + first) for symbol, node in branches) for first in (2, 10) for branches in INNER]
    upper, lower = inside[:7], inside[7:]
    return ((("B", 1),), (("T", 2), ("P", 10)), *upper, (("T", 18),), *lower, (("P", 18),), (("E", 19),), ())


GRAMMAR = _embedded()
END = len(GRAMMAR) - 1
# Two ways on from each node, the same one twice where there is but one: symbol and node (20, 2).
WAYS = torch.tensor([[(LETTERS.index(s), node) for s, node in (*b, *b)[:2]] for b in GRAMMAR[:-1]] + [[(0, END)] * 2])
NEXT = torch.full((END + 1, len(LETTERS)), END)  # the node that a symbol leads to
LEGAL = torch.zeros(END + 1, len(LETTERS), dtype=torch.bool)
for _place, _branches in enumerate(GRAMMAR):
    for _symbol, _node in _branches:
        NEXT[_place, LETTERS.index(_symbol)] = _node
        LEGAL[_place, LETTERS.index(_symbol)] = True


@cache
def _chances(length: int) -> Tensor:
    """How likely a string ends after exactly k more symbols, at each node: (length + 1, nodes), float64."""
    chances = torch.zeros(length + 1, END + 1, dtype=torch.float64)
    chances[0, END] = 1
    for k in range(1, length + 1):
        chances[k, :END] = chances[k - 1][WAYS[:END, :, 1]].mean(1)
    return chances


def strings(length: int, rows: int, generator: torch.Generator) -> Tensor:
    """Draw strings of exactly `length` symbols, each as likely as where a fair coin picks every way on.

    >>> drawn = strings(9, 2, torch.Generator().manual_seed(0))   # (length, B)
    >>> ["".join(LETTERS[symbol] for symbol in row) for row in drawn.T.tolist()]
    ['BTBTXSETE', 'BPBTXSEPE']
    """
    chances, node = _chances(length), torch.zeros(rows, dtype=torch.long)
    drawn = []
    for k in range(length - 1, -1, -1):
        first, second = chances[k][WAYS[node, :, 1]].T  # (B,) each
        way = (torch.rand(rows, generator=generator, dtype=torch.float64) * (first + second) >= first).long()
        symbol, node = WAYS[node, way].T
        drawn.append(symbol)
    return torch.stack(drawn)  # (length, B)


def followers(symbols: Tensor) -> Tensor:
    """Which symbols may follow after each of a string's: (T, B) to bool (T, B, 7)."""
    node, found = torch.zeros_like(symbols[0]), []
    for symbol in symbols:
        node = NEXT[node, symbol]
        found.append(node)
    return LEGAL[torch.stack(found)]
