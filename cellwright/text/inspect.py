"""inspect: a trained run looked into on a text: pictures, and a page that says what one sees."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cellwright.errors import SettingError, TextError
from cellwright.probe import gate_behaviour, gradient_flow, record
from cellwright.probe.behaviour import Behaviour
from cellwright.probe.drawing import draw
from cellwright.probe.gradients import Flow
from cellwright.probe.pictures import draw_behaviour, draw_flow, draw_gate, draw_places
from cellwright.probe.record import Recording, Values
from cellwright.probe.tracking import track
from cellwright.text.corpus import load_corpus
from cellwright.text.files import write_atomically
from cellwright.text.inside import Inspection, gates, page
from cellwright.text.model import LanguageModel
from cellwright.text.run import Run, refuse_existing
from cellwright.text.vocabulary import Ids

STEPS = 2000  # of the text that shares and means are taken over
SHOWN = 90  # characters on the axis of a heat map
LAGS, ROWS = 60, 2  # of gradient flow: steps, and sequences


def inspect(
    run: Run, text: str | None, out: Path, cell: str | None = None, note: Callable[[str], None] = print
) -> Inspection:
    """Write pictures and a page of what a run's gates and gradients do on a text.

    Args:
        run: a trained run.
        text: a file or the name of a text; None takes what the run held out of its own.
        out: a new directory; index.html and the pictures go there.
        cell: the cell's file, where it is in a file.
        note: is told in a line what could not be found.

    Raises:
        TextError: the text is too short.
    """
    refuse_existing(out)
    model, name, ids = run.model(cell), *_read(run, text)
    tokens = [run.vocabulary().decode([int(token)]) for token in ids[:STEPS]]
    recording = _record(model, ids[:STEPS])
    flows = {"as it began": _flow(_untrained(run, cell), ids), "trained": _flow(model, ids)}
    found = Inspection(out, name, recording, track(recording, tokens), _behaviours(recording, note), flows)
    out.mkdir(parents=True, exist_ok=True)
    _draw(found, tokens, model)
    write_atomically(out / "index.html", page(found, tokens, str(run.path)).encode())
    return found


def _read(run: Run, text: str | None) -> tuple[str, Ids]:
    settings = run.settings()
    whole = text is not None or settings.data.validation == 0
    chosen = settings.replace(text=(text,)) if text is not None else settings
    chosen = chosen.replace(validation=0.0, max_tokens=0) if text is not None else chosen
    corpus = load_corpus(chosen.data, vocabulary=run.vocabulary())
    ids = corpus.train if whole else corpus.validation
    if len(ids) < SHOWN + 10:
        raise TextError(f"a text to look at has at least {SHOWN + 10} tokens", f"{len(ids)}", "name a longer one")
    return corpus.names[0], ids


def _embedded(model: LanguageModel, ids: Ids, rows: int) -> Tensor:
    steps = len(ids) // rows
    tokens = torch.tensor(ids[: steps * rows].astype("int64")).view(rows, steps).T  # (T, B)
    return model.embed(tokens).to(model.output.weight.dtype).detach()  # type: ignore[no-any-return]


def _record(model: LanguageModel, ids: Ids) -> Recording:
    return record(model.recurrent, _embedded(model, ids, 1))


def _untrained(run: Run, cell: str | None) -> LanguageModel:
    settings = run.settings().replace(**run.trusted(cell))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.training.seed)
        return LanguageModel(settings.model, len(run.vocabulary())).eval()


def _flow(model: LanguageModel, ids: Ids) -> Flow:
    rows = min(ROWS, len(ids) // 20)
    return gradient_flow(model.recurrent, _embedded(model, ids[: min(LAGS, len(ids) // rows) * rows], rows))[0]


def _behaviours(recording: Recording, note: Callable[[str], None]) -> tuple[Behaviour, ...]:
    try:
        return gate_behaviour(recording)
    except SettingError as error:
        note(f"no regimes: {error}")
        return ()


# The pictures.


def _draw(found: Inspection, tokens: list[str], model: LanguageModel) -> None:
    write_atomically(found.path / "cell.svg", draw(model.recurrent.first_cell).svg().encode())
    for number, (where, values) in enumerate(found.recording.cells()):
        for name, value in gates(values).items():
            words = values.gates.get(name, "state")
            shown = slice(10, 10 + SHOWN)
            title = f"{words} {name} of {where}, over {Path(found.text).name}"
            draw_gate(found.path / f"{name}-{number}.png", tokens[shown], value[shown], name, title)
        draw_places(
            found.path / f"places-{number}.png", tokens, _squashed(values), f"{where}: means by place in a word"
        )
    draw_flow(found.path / "gradients.png", found.flows, "gradients through time, before and after training")
    if found.behaviours:
        draw_behaviour(found.path / "behaviour.png", found.behaviours, "what units do")


def _squashed(values: Values) -> dict[str, Tensor]:
    """The gates that lie between 0 and 1."""
    gates = {name: values[name][:, 0] for name in values.gates if name in values}
    inside = {f"{values.gates[n]} {n}": v for n, v in gates.items() if float(v.min()) >= 0 and float(v.max()) <= 1}
    return inside or {name: values[name][:, 0].abs() for name in values.state}


def as_json(found: Inspection) -> dict[str, Any]:
    """What was found, as plain values."""
    return {
        "directory": str(found.path),
        "text": found.text,
        "tracked": [vars(one) for one in found.tracked],
        "behaviour": [{"where": one.where, **one.shares} for one in found.behaviours],
        "gradient_rate": {name: flow.rate() for name, flow in found.flows.items()},
    }
