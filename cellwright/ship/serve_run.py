"""A run that is served: its model, how it reads texts, and what it says about them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from cellwright.cells import LIBRARY, Cell, cell_label
from cellwright.errors import SettingError, TextError
from cellwright.probe import record
from cellwright.text.evaluate import count_characters
from cellwright.text.model import LanguageModel, count_parameters
from cellwright.text.reading import clean
from cellwright.text.run import Run
from cellwright.text.write import Decoder, read_prefix

STEPS = 256  # of a text scored at once: scores of a large vocabulary are many numbers
DIGITS = 4  # of a number in an answer: more than a colour shows


class ServedRun:
    """A trained run, loaded once.

    Args:
        path: its directory.
        cell: the cell's file, where it is in a file.
    """

    def __init__(self, path: Path, cell: str | None = None) -> None:
        run = Run(path)
        settings = run.settings()
        self.name = path.resolve().name
        self.vocabulary, self.model = run.vocabulary(), run.model(cell)
        self._cleaning, self._characters = settings.data.cleaning, self.vocabulary.characters()
        self._label = cell_label(settings.model.cell)
        measured = [line.get("val_bits_per_character") for line in run.read_metrics()]
        self._bits = min((bits for bits in measured if bits is not None), default=None)
        self._widths = {name: v.shape[1] for name, v in activations(self.model, [0]).items()}
        self.score(
            self.vocabulary.decode([len(self.vocabulary) - 1] * 2)
        )  # compiles what the first request would wait for

    def about(self) -> dict[str, Any]:
        """What a reader wants to know of it: cell, sizes, quality, and the values that `activations` has."""
        cell = self.model.recurrent.first_cell
        return {
            "name": self.name,
            "cell": self._label,
            "layers": self.model.recurrent.num_layers,
            "units": cell.hidden_size,
            "parameters": count_parameters(self.model),
            "tokens": self.vocabulary.kind,
            "vocabulary": len(self.vocabulary),
            "letters_only": self._cleaning == "letters",
            "bits_per_character": self._bits,
            "values": [
                {"name": name, "meaning": _meaning(name, cell), "units": width} for name, width in self._widths.items()
            ],
        }

    @property
    def never(self) -> tuple[int, ...]:
        """Ids that are never written."""
        return () if self.vocabulary.unknown is None else (self.vocabulary.unknown,)

    def read_prefix(self, prefix: str | None) -> list[int]:
        """The ids of a prefix; of none and of an empty one, a blank."""
        return read_prefix(prefix or None, self.vocabulary, self._cleaning)

    @torch.inference_mode()
    def score(self, text: str) -> dict[str, Any]:
        """How surprising each piece of a text is to the model, given all before it, in bits.

        The first token has nothing before it and no surprise; a character of several tokens has their sum.
        """
        ids, state, surprise = self._read(text), None, [torch.zeros(1)]
        tokens = torch.tensor(ids)
        for begin in range(0, len(ids) - 1, STEPS):
            x, after = tokens[:-1][begin : begin + STEPS], tokens[1:][begin : begin + STEPS]
            logits, state = self.model(x.unsqueeze(1), state)  # (T, 1, V)
            surprise.append(nn.functional.cross_entropy(logits[:, 0], after, reduction="none"))
        bits = (torch.cat(surprise) / math.log(2)).tolist()
        pieces, ends = self._pieces(ids)
        begins = [0, *(end + 1 for end in ends[:-1])]
        of_piece = [sum(bits[begin : end + 1]) for begin, end in zip(begins, ends, strict=True)]
        characters = count_characters(np.array(ids[1:], np.uint32), self._characters)
        return {
            "pieces": pieces,
            "bits": [None, *(round(value, DIGITS) for value in of_piece[1:])],
            "bits_per_character": sum(bits) / characters if characters else None,
            "unknown": sum(token == self.vocabulary.unknown for token in ids),
        }

    @torch.inference_mode()
    def activations(self, text: str, value: str, first: int, count: int | None, most: int) -> dict[str, Any]:
        """One value of the cell after each piece of a text, for some of its units.

        Args:
            text: what the model reads.
            value: its name, as in `about`.
            first: the first unit.
            count: how many units; None: all that follow.
            most: numbers that an answer may have.
        """
        width = self._widths.get(value)
        if width is None:
            raise SettingError(f"a value of this run is one of {', '.join(self._widths)}", repr(value), "name one")
        if first >= width:
            raise SettingError(f"{value} has units 0 to {width - 1}", f"first unit {first}", "begin with one of those")
        pieces, ends = self._pieces(ids := self._read(text))
        units = range(first, min(width, first + (count or width)))
        if len(units) * len(pieces) > most:
            raise SettingError(
                f"an answer has at most {most:,} numbers",
                f"{len(units)} units over {len(pieces)} pieces of text",
                f"ask for {most // len(pieces)} units",
            )
        rows = activations(self.model, ids)[value][ends, units.start : units.stop]  # (pieces, units)
        return {
            "value": value,
            "pieces": pieces,
            "first_unit": first,
            "units": [[round(number, DIGITS) for number in unit] for unit in rows.T.tolist()],
        }

    def _read(self, text: str) -> list[int]:
        """The ids of a text, read as a training reads it: what the vocabulary does not have is unknown."""
        ids = [int(i) for i in self.vocabulary.ids("".join(clean([text], self._cleaning)))]
        if not ids:
            raise TextError(f"a text has at least one {self.vocabulary.kind}", "an empty one", "write some")
        return ids

    def _pieces(self, ids: Iterable[int]) -> tuple[list[str], list[int]]:
        """What a reader sees of ids, piece by piece, and the place of each piece's last id."""
        decoder = Decoder(self.vocabulary)
        read = [(decoder.read(token), place) for place, token in enumerate(ids)]
        found = [(text, place) for text, place in read if text]
        if rest := decoder.rest():
            found.append((rest, read[-1][1]))
        return [text for text, _ in found], [place for _, place in found]


def load_runs(paths: Sequence[Path], cells: Sequence[str] = ()) -> dict[str, ServedRun]:
    """The runs to serve, by name; none reads a file that its user has not named.

    Args:
        paths: run directories.
        cells: the cells' files, of those runs that were trained with one.

    Raises:
        SettingError: two runs have one name.
        RunError: a directory is no run.
    """
    runs: dict[str, ServedRun] = {}
    for path in paths:
        named = Run(path).settings().model.cell
        mine = [cell for cell in cells if named not in LIBRARY and _class(cell) == _class(named)]
        run = ServedRun(path, mine[0] if mine else None)
        if run.name in runs:
            raise SettingError("runs that are served have different names", f"two of {run.name}", "rename a directory")
        runs[run.name] = run
    return runs


def _class(cell: str) -> str:
    return cell.rpartition(":")[2]


def _meaning(name: str, cell: Cell) -> str:
    plain = name.rpartition(".")[2]
    return cell.gates.get(plain, "state" if plain in cell.state else "")


@torch.no_grad()
def activations(model: LanguageModel, ids: Sequence[int]) -> dict[str, Tensor]:
    """Every named value of every step of the cells over one text.

    Args:
        model: the model.
        ids: the text (T,).

    Returns:
        By name, of stacked layers "layer1.i" and so on: values (T, H), gates first and then states.
    """
    x = model.embed(torch.tensor(ids)).to(model.output.weight.dtype).unsqueeze(1)  # (T, 1, E)
    layers = record(model.recurrent, x).layers
    found: dict[str, Tensor] = {}
    for place, layer in enumerate(layers, 1):
        (values,) = layer.directions
        names = [*(name for name in values.gates if name in values), *(n for n in values if n not in values.gates)]
        found.update({f"layer{place}.{name}" if len(layers) > 1 else name: values[name][:, 0] for name in names})
    return found
