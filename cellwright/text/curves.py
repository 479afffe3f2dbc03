"""Pictures of trainings, through matplotlib (extra `plot`)."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cellwright.figures import COLOURS, new_figure
from cellwright.text.files import write_atomically

Metrics = Sequence[Mapping[str, Any]]


def draw_curves(path: Path, metrics: Metrics, title: str) -> None:
    """Draw perplexity and gradient norm of one training over its epochs as a PNG.

    Args:
        path: the file to write.
        metrics: one mapping an epoch, as in metrics.jsonl.
        title: what the picture says on top.
    """
    figure, (left, right) = _figure()
    epochs = [line["epoch"] for line in metrics]
    left.plot(epochs, [line["train_perplexity"] for line in metrics], color=COLOURS[0], label="training")
    if metrics and metrics[0]["val_perplexity"] is not None:
        values = [line["val_perplexity"] for line in metrics]
        best = min(range(len(values)), key=values.__getitem__)
        left.plot(epochs, values, color=COLOURS[1], linestyle="--", label="validation")
        bits = metrics[best]["val_bits_per_character"]
        left.plot(
            epochs[best], values[best], "o", color=COLOURS[1], label=f"best: {values[best]:.2f} ({bits:.3f} bits/char)"
        )
    _axes(left, "perplexity")
    right.plot(epochs, [line["gradient_norm"] for line in metrics], color=COLOURS[2], label="before clipping")
    _axes(right, "mean norm of the gradient", logarithmic=False)
    _save(path, figure, title)


def draw_comparison(path: Path, runs: Mapping[str, Metrics], title: str) -> None:
    """Draw the perplexities of several trainings, over epochs and over seconds of training, as a PNG.

    Args:
        path: the file to write.
        runs: by cell, one mapping an epoch.
        title: what the picture says on top.
    """
    figure, (left, right) = _figure()
    styles = ("-", "--", "-.", ":")
    for place, (name, metrics) in enumerate(runs.items()):
        key = "val_perplexity" if metrics[0]["val_perplexity"] is not None else "train_perplexity"
        values = [line[key] for line in metrics]
        look: dict[str, Any] = {
            "color": COLOURS[place % len(COLOURS)],
            "linestyle": styles[place % len(styles)],
            "marker": ".",
            "label": name,
        }
        left.plot([line["epoch"] for line in metrics], values, **look)
        right.plot([line["seconds"] for line in metrics], values, **look)
        kind = "validation" if key == "val_perplexity" else "training"
        _axes(left, f"{kind} perplexity")
        _axes(right, f"{kind} perplexity", "seconds of training")
    _save(path, figure, title)


def draw_ranking(path: Path, rows: Metrics, title: str) -> None:
    """Draw the bits per character of many cells, the best on top, as a PNG.

    Args:
        path: the file to write.
        rows: one mapping a cell, as in comparison.json, with `val_bits_per_character`.
        title: what the picture says on top.
    """
    ranked = sorted(rows, key=lambda row: -float(row["val_bits_per_character"]))
    values = [row["val_bits_per_character"] for row in ranked]
    figure, axes = _figure((8, 1.5 + 0.25 * len(ranked)), 1)
    axes.plot(values, range(len(ranked)), "o", color=COLOURS[0])
    for place, value in enumerate(values):
        axes.annotate(f"{value:.3f}", (value, place), (6, 0), textcoords="offset points", va="center", fontsize=8)
    axes.set_yticks(range(len(ranked)), [f"{row['cell']}  ({row['parameters']:,} weights)" for row in ranked])
    axes.set_ylim(-0.7, len(ranked) - 0.3)
    axes.margins(x=0.12)
    axes.set_xlabel("validation bits per character (less is better)")
    axes.grid(alpha=0.3)
    _save(path, figure, title)


def draw_trials(path: Path, rows: Metrics, baselines: Mapping[int, float], title: str) -> None:
    """Draw how often, and how well, cells solved a memory task, over its length, as a PNG.

    Args:
        path: the file to write.
        rows: one mapping for each cell and length, as `cellwright.probe.summary` gives.
        baselines: by length, the loss of what remembers nothing.
        title: what the picture says on top.
    """
    cells = list(dict.fromkeys(row["cell"] for row in rows))
    if len(cells) > len(COLOURS):
        _draw_trials_of_many(path, rows, cells, title)
        return
    figure, (left, right) = _figure()
    for place, cell in enumerate(cells):
        mine = [row for row in rows if row["cell"] == cell]
        lengths = [row["length"] for row in mine]
        look: dict[str, Any] = {
            "color": COLOURS[place],
            "marker": "osD^vPX"[place],
            "linewidth": 2 + 1.5 * (len(cells) - 1 - place),  # so that what lies beneath is seen
            "markersize": 6 + 3 * (len(cells) - 1 - place),
            "label": cell,
        }
        left.plot(lengths, [100 * row["solved"] for row in mine], **look)
        right.plot(lengths, [row["loss"] for row in mine], **look)
    right.plot(*zip(*sorted(baselines.items()), strict=True), "k:", label="remembering nothing")
    left.set_ylim(-5, 105)
    _axes(left, "seeds that solved it, in %", "length", logarithmic=False)
    _axes(right, "loss in the end (median)", "length", logarithmic=False)
    right.set_yscale("log")
    for axes in (left, right):
        axes.set_xticks(sorted(baselines))
    _save(path, figure, title)


def _draw_trials_of_many(path: Path, rows: Metrics, cells: Sequence[str], title: str) -> None:
    """The shares of seeds as a table in shades, one row a cell."""
    lengths = sorted({row["length"] for row in rows})
    figure, axes = _figure((4 + 0.8 * len(lengths), 1.5 + 0.25 * len(cells)), 1)
    shades = [[float("nan")] * len(lengths) for _ in cells]
    for row in rows:
        place = cells.index(row["cell"]), lengths.index(row["length"])
        shades[place[0]][place[1]] = row["solved"]
        colour = "white" if row["solved"] < 0.5 else "black"
        axes.text(*reversed(place), f"{row['solved']:.0%}", ha="center", va="center", color=colour, fontsize=8)
    axes.imshow(shades, cmap="cividis", vmin=0, vmax=1, aspect="auto")
    axes.set_xticks(range(len(lengths)), lengths)
    axes.set_yticks(range(len(cells)), cells)
    axes.set_xlabel("length")
    axes.set_ylabel("seeds that solved it")
    _save(path, figure, title)


def _figure(size: tuple[float, float] = (10, 4), columns: int = 2) -> tuple[Any, Any]:
    figure = new_figure(*size)
    return figure, figure.subplots(1, columns)


def _axes(axes: Any, label: str, over: str = "epoch", logarithmic: bool = True) -> None:
    axes.set_xlabel(over)
    if over == "epoch":
        axes.xaxis.get_major_locator().set_params(integer=True)
    axes.set_ylabel(label)
    low, high = axes.get_ylim()
    if logarithmic and high > 4 * max(low, 1.0):
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter("{x:g}")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)


def _save(path: Path, figure: Any, title: str) -> None:
    figure.suptitle(title)
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=110)
    figure.clear()  # what it holds refers to itself, and would wait for the garbage collector
    write_atomically(path, content.getvalue())
