"""Inside: the page that says what the pictures of a run show."""

from __future__ import annotations

import html
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from cellwright.probe.behaviour import Behaviour
from cellwright.probe.gradients import Flow
from cellwright.probe.record import Recording, Values
from cellwright.probe.tracking import Tracked, shaded

STYLE = "body{font:16px/1.5 sans-serif;max-width:70rem;margin:2rem auto;padding:0 1rem}img{max-width:100%}"
SHADED = 234  # characters of a text with shades
PLACES = "The mean of each gate at the first letter of a word, inside, at its last letter, and at the blank after it."
REGIMES = """A unit remembers where its input gate is shut and its forget gate open, adds where both are, overwrites
where only the input gate is open, and erases where neither is."""
GRADIENTS = """The norm of the derivative of the last state in that of k steps before. A straight line falls by the same
factor at every step; the flatter it is, the further back training reaches."""
MEANINGS = {
    "forget gate": "At 1 a unit keeps what it holds, at 0 it drops it. Blanks are marked: there a word ends.",
    "input gate": "At 1 the new candidate enters the unit, at 0 it stays out.",
    "output gate": "At 1 what a unit holds is shown to the rest of the network, at 0 it is hidden.",
    "update gate": "At 1 a unit keeps what it holds, at 0 the candidate takes its place.",
    "reset gate": "At 0 the old state is hidden from the candidate, as at a new beginning.",
}


@dataclass(frozen=True)
class Inspection:
    """What was found in a run: `tracked` as `track` gives it, `behaviours`, flows before and after training."""

    path: Path
    text: str
    recording: Recording
    tracked: list[Tracked]
    behaviours: tuple[Behaviour, ...]
    flows: dict[str, Flow]


def gates(values: Values) -> dict[str, Tensor]:
    """The gates and states of a cell, each (T, H), its forget gate first."""
    named = {name: values[name][:, 0] for name in (*values.gates, *values.state) if name in values}
    return dict(sorted(named.items(), key=lambda item: values.gates.get(item[0]) != "forget gate"))


def page(found: Inspection, tokens: list[str], run: str) -> str:
    """The page as HTML, beside whose file the pictures lie."""
    title = html.escape(f"Inside {run}")
    parts = ['<!doctype html><html lang="en"><meta charset="utf-8">', f"<title>{title}</title><style>{STYLE}</style>"]
    parts += [f"<h1>{title}</h1>", _paragraph(f"It read {len(tokens)} tokens of {found.text}.")]
    parts.append(_figure("cell.svg", "One step: what each value is made of."))
    for number, (where, values) in enumerate(found.recording.cells()):
        parts.append(f"<h2>{html.escape(where)}: {html.escape(values.cell)}</h2>")
        parts.append(_figure(f"places-{number}.png", PLACES))
        parts += [_figure(f"{name}-{number}.png", _explained(values, name)) for name in gates(values)]
    if found.behaviours:
        parts += ["<h2>What units do</h2>", _figure("behaviour.png", REGIMES)]
    parts += ["<h2>How far gradients reach</h2>", _figure("gradients.png", GRADIENTS)]
    parts.append("<h2>Which unit follows what</h2>")
    cells = dict(found.recording.cells())
    for one in found.tracked:
        shades = shaded(tokens[:SHADED], cells[one.where][one.name][:SHADED, 0, one.unit].cpu())
        parts.append(f"{_paragraph(str(one))}<pre>{html.escape(shades)}</pre>")
    return "\n".join((*parts, "</html>\n"))


def _explained(values: Values, name: str) -> str:
    words = values.gates.get(name, "state")
    return f"{words} {name}: {MEANINGS.get(words, 'Orange and purple are its two signs.')}"


def _figure(source: str, text: str) -> str:
    words = html.escape(text)
    return f'<figure><img src="{source}" alt="{words}"><figcaption>{words}</figcaption></figure>'


def _paragraph(text: str) -> str:
    return f"<p>{html.escape(text)}</p>"
