"""gate_behaviour: at each step, does a unit remember, add, erase or overwrite?"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from cellwright.errors import SettingError
from cellwright.probe.record import Recording, Values

# What a unit does by whether its input gate is open, and whether its forget gate is (which then keeps): i + 2 f.
REGIMES = ("erase", "overwrite", "remember", "add")
# Which gates keep the old and let in the new, by their words; with one gate, what is not kept is let in.
GATES: tuple[tuple[str, str | None], ...] = (("forget gate", "input gate"), ("update gate", None))
OPEN = 0.5  # a gate is open above


@dataclass(frozen=True)
class Behaviour:
    """What the units of one cell do.

    `regimes` (T, B, H) has for every step and unit its place in REGIMES, -1 beyond a sequence's end; `by_unit`
    (4, H) the share of steps in each, and `shares` the same over all units.
    """

    where: str
    regimes: Tensor
    by_unit: Tensor

    @property
    def shares(self) -> dict[str, float]:
        """Of all units and steps, the share of each regime."""
        return dict(zip(REGIMES, self.by_unit.mean(1).tolist(), strict=True))

    def __str__(self) -> str:
        lines = [f"{self.where}: {', '.join(f'{name} {share:.1%}' for name, share in self.shares.items())}"]
        for name, shares in zip(REGIMES, self.by_unit, strict=True):
            if not shares.any():
                continue
            units = shares.argsort(descending=True, stable=True)[:3].tolist()
            most = ", ".join(f"{unit} ({shares[unit]:.0%})" for unit in units)
            lines.append(f"  units that {name} most: {most}")
        return "\n".join(lines)


def gate_behaviour(recording: Recording, keep: str | None = None, enter: str | None = None) -> tuple[Behaviour, ...]:
    """Read from its gates what every unit does at every step.

    >>> from cellwright.cells import LSTM
    >>> from cellwright.probe import record
    >>> behaviour = gate_behaviour(record(LSTM(3, 5), torch.randn(7, 2, 3)))[0]
    >>> behaviour.regimes.shape, round(sum(behaviour.shares.values()), 6)
    (torch.Size([7, 2, 5]), 1.0)

    ============  ===========  =========
    input gate    forget gate  the unit
    ============  ===========  =========
    0             1            remembers
    1             1            adds
    0             0            erases
    1             0            overwrites
    ============  ===========  =========

    A gate counts as 1 above 0.5. A GRU's update gate z keeps with z and lets in with 1 - z: it remembers or overwrites.

    Args:
        recording: of a layer.
        keep: name of the value that keeps the old (default: the forget gate, or the update gate).
        enter: name of the value that lets in the new (default: the input gate, or what `keep` leaves).

    Returns:
        The behaviour of every cell of the layer.

    Raises:
        SettingError: the cell has no such gates.
    """
    return tuple(_behaviour(where, values, recording.lengths, keep, enter) for where, values in recording.cells())


def _behaviour(where: str, values: Values, lengths: Tensor, keep: str | None, enter: str | None) -> Behaviour:
    kept, let_in = (keep, enter) if keep is not None else _find(values)
    opened = values[kept] > OPEN  # (T, B, H)
    entering = ~opened if let_in is None else values[let_in] > OPEN
    regimes = entering.long() + 2 * opened.long()
    inside = torch.arange(len(regimes))[:, None] < lengths  # (T, B)
    counted = torch.nn.functional.one_hot(regimes[inside], len(REGIMES))  # (steps, H, 4)
    regimes[~inside] = -1
    return Behaviour(where, regimes, counted.double().mean(0).T)


def _find(values: Values) -> tuple[str, str | None]:
    named = {words: gate for gate, words in values.gates.items() if gate in values}
    for keep, enter in GATES:
        if keep in named and (enter is None or enter in named):
            return named[keep], named[enter] if enter is not None else None
    raise SettingError(
        "what a unit does is read from an input gate and a forget gate, or from an update gate",
        f"{values.cell} with {', '.join(values.gates.values()) or 'no gates that have words'}",
        "write gate_behaviour(recording, keep='f', enter='i') with the names of your cell",
    )
