"""What is stored is enough for all that is wanted, and takes the least memory."""

from itertools import combinations
from types import SimpleNamespace

from hypothesis import given
from hypothesis import strategies as st

from cellwright.program.cut import least
from cellwright.step.atoms import Atom, Read


@st.composite
def problems(draw):
    """Up to eight atoms that read earlier ones: which are cheap, in memory, wanted."""
    count = draw(st.integers(1, 8))
    atoms, cheap = [], set()
    for place in range(count):
        args = draw(st.sets(st.integers(0, place - 1), max_size=3)) if place else set()
        atoms.append(Atom("copy", draw(st.integers(1, 4)), tuple(Read(arg, 0, 1, 1) for arg in sorted(args))))
        if args and draw(st.booleans()):
            cheap.add(place)
    there = draw(st.sets(st.integers(0, count - 1), max_size=2))
    wanted = draw(st.sets(st.integers(0, count - 1), min_size=1, max_size=4))
    return SimpleNamespace(atoms=atoms), cheap, there, wanted


def enough(graph, cheap, memory, wanted):
    """Whether all that is wanted can be had from memory."""

    def had(atom):
        return atom in memory or (atom in cheap and all(had(arg.atom) for arg in graph.atoms[atom].args))

    return all(map(had, wanted))


def width(graph, atoms):
    return sum(graph.atoms[atom].width for atom in atoms)


@given(problems())
def test_no_smaller_set_is_enough(problem):
    graph, cheap, there, wanted = problem
    found = least(graph, wanted, there.__contains__, cheap.__contains__)
    assert enough(graph, cheap, found | there, wanted)
    others = set(range(len(graph.atoms))) - there
    sets = [set(some) for count in range(len(others) + 1) for some in combinations(others, count)]
    assert width(graph, found) == min(width(graph, some) for some in sets if enough(graph, cheap, some | there, wanted))


def test_of_sets_as_small_the_one_nearest_to_what_is_wanted():
    atoms = [Atom("tanh", 2), Atom("neg", 2, (Read(0, 0, 1, 2),)), Atom("neg", 2, (Read(1, 0, 1, 2),))]
    assert least(SimpleNamespace(atoms=atoms), {2}, set().__contains__, {1, 2}.__contains__) == {2}


def test_one_value_serves_two_that_come_of_it():
    atoms = [Atom("tanh", 2), Atom("neg", 2, (Read(0, 0, 1, 2),)), Atom("abs", 2, (Read(0, 0, 1, 2),))]
    assert least(SimpleNamespace(atoms=atoms), {1, 2}, set().__contains__, {1, 2}.__contains__) == {0}
