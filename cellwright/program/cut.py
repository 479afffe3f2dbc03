"""Cut: the fewest columns to store so that all that is wanted can be had from them by cheap arithmetic."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable, Iterable
from itertools import pairwise

from cellwright.program.graph import Graph

Node = tuple[int, bool]  # an atom, where it is made or (True) where it is read
SOURCE, SINK = (-1, True), (-2, False)
Rooms = defaultdict[Node, defaultdict[Node, float]]
"""Of every node, how much can still flow to others."""


def least(graph: Graph, wanted: Iterable[int], there: Callable[[int], bool], cheap: Callable[[int], bool]) -> set[int]:
    """The atoms to store, of least width together; of several such sets the one nearest to what is wanted.

    On every way from what is not cheap to what is wanted there must be one that is stored: a minimum cut, found as a
    maximum flow along shortest ways (Edmonds and Karp 1972, J. ACM 19(2)).

    Args:
        graph: of a step.
        wanted: what must be had.
        there: whether an atom is in memory anyway.
        cheap: whether an atom is had by cheap arithmetic from those that it reads.
    """
    rooms: Rooms = defaultdict(lambda: defaultdict(float))
    stack = [atom for atom in wanted if not there(atom)]
    for atom in stack:
        rooms[atom, True][SINK] = float("inf")
    while stack:
        atom = stack.pop()
        if (atom, False) not in rooms:
            rooms[atom, False][atom, True] = graph.atoms[atom].width
            before = [arg.atom for arg in graph.atoms[atom].args if not there(arg.atom)] if cheap(atom) else []
            for one in before:
                rooms[one, True][atom, False] = float("inf")
            if not cheap(atom):
                rooms[SOURCE][atom, False] = float("inf")
            stack += before
    while way := _way(rooms):
        _send(rooms, way)
    behind = _reaching(rooms)
    return {atom for atom, read in list(rooms) if not read and (atom, True) in behind and (atom, False) not in behind}


def _way(rooms: Rooms) -> list[Node]:
    """A shortest way on which something can still flow; empty if there is none."""
    came: dict[Node, Node] = {SOURCE: SOURCE}
    queue = deque([SOURCE])
    while queue:
        node = queue.popleft()
        for other, room in rooms[node].items():
            if room and other not in came:
                came[other] = node
                queue.append(other)
    way = [SINK] if SINK in came else []
    while way and way[-1] != SOURCE:
        way.append(came[way[-1]])
    return way[::-1]


def _send(rooms: Rooms, way: list[Node]) -> None:
    steps = list(pairwise(way))
    most = min(rooms[one][other] for one, other in steps)
    for one, other in steps:
        rooms[one][other] -= most
        rooms[other][one] += most


def _reaching(rooms: Rooms) -> set[Node]:
    """The nodes from which something could still flow to the end."""
    found, stack = {SINK}, [SINK]
    while stack:
        node = stack.pop()
        new = [one for one, others in rooms.items() if others.get(node) and one not in found]
        found.update(new)
        stack += new
    return found
