"""Pictures of what was found inside, through matplotlib (extra `plot`): PNG or SVG, as the file is called."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cellwright.figures import COLOURS, STYLES, new_figure
from cellwright.probe.behaviour import REGIMES, Behaviour
from cellwright.probe.gradients import ALL, Flow

MOST_UNITS = 24  # rows of a heat map
PLACES = ("first letter", "inside", "last letter", "blank")


def draw_gate(path: Path, text: Sequence[str], values: Tensor, name: str, title: str) -> None:
    """Draw one value of every step over the text that was read: its mean, and a row for each unit.

    Args:
        path: the file to write.
        text: its characters, one for each step.
        values: (T, H), as `recording["f"][:, row]`.
        name: what the value is called.
        title: what the picture says on top.
    """
    values = values.detach().float().cpu()
    signed = bool(values.min() < 0)
    blank = torch.tensor([token.isspace() for token in text])
    rows = values[:, values.var(0).argsort(descending=True)[:MOST_UNITS]]  # (T, units)
    if blank.any() and not blank.all():  # those that fall most at a blank come first
        rows = rows[:, (rows[blank].mean(0) - rows[~blank].mean(0)).argsort()]
    figure = new_figure(max(7.0, 0.125 * len(text) + 1.5), 5.2)
    top, below = figure.subplots(2, 1, sharex=True, height_ratios=(1, 3))
    blanks = blank.nonzero().flatten().tolist()
    mean = values.mean(1).numpy()
    top.plot(mean, color=COLOURS[0])
    top.plot(blanks, mean[blanks], "o", color=COLOURS[1], markersize=4, label="at a blank")
    top.set_ylabel(f"mean {name}")
    top.grid(alpha=0.3)
    if blanks:
        top.legend(frameon=False, fontsize=8, loc="upper right", ncols=1, bbox_to_anchor=(1.0, 1.35))
    bound = float(values.abs().max())
    colours, low = ("PuOr", -bound) if signed else ("cividis", 0.0)
    image = below.imshow(rows.T.numpy(), colours, aspect="auto", interpolation="nearest", vmin=low, vmax=bound)
    below.set_xticks(range(len(text)), ["␣" if token.isspace() else token for token in text], fontsize=8)
    below.tick_params(axis="x", length=0)
    below.set_ylabel(f"{rows.shape[1]} units that vary most,\nthose that fall at blanks on top")
    below.set_yticks([])
    figure.colorbar(image, ax=[top, below], label=name, fraction=0.03, pad=0.01)
    _save(path, figure, title)


def draw_places(path: Path, text: Sequence[str], values: Mapping[str, Tensor], title: str) -> None:
    """Draw the mean of some values by the place in a word: at its first letter, inside, at its last, at the blank.

    Args:
        path: the file to write.
        text: its characters, one for each step.
        values: by name, each (T, H).
        title: what the picture says on top.
    """
    kinds = torch.tensor(word_places(text))
    figure = new_figure(7.0, 3.6)
    axes = figure.subplots()
    width = 0.8 / len(values)
    for place, (name, value) in enumerate(values.items()):
        means = [float(value[kinds == kind].float().mean()) for kind in range(len(PLACES))]
        at = [kind + (place - (len(values) - 1) / 2) * width for kind in range(len(PLACES))]
        hatch = ("", "//", "..", "xx")[place % 4]
        bars = axes.bar(
            at, means, width, color=COLOURS[place % len(COLOURS)], label=name, hatch=hatch, edgecolor="white"
        )
        axes.bar_label(bars, fmt="%.2f", fontsize=7)
    axes.set_xticks(range(len(PLACES)), [f"{name} ({int((kinds == k).sum())})" for k, name in enumerate(PLACES)])
    axes.set_ylabel("mean over units and steps")
    axes.margins(y=0.15)
    axes.legend(frameon=False, ncols=len(values))
    _save(path, figure, title)


def word_places(text: Sequence[str]) -> list[int]:
    """For every character its place in PLACES; a word of one letter is at its first.

    >>> word_places("an ox ")
    [0, 2, 3, 0, 2, 3]
    """
    blank = [token.isspace() for token in text]
    before, after = [True, *blank[:-1]], [*blank[1:], True]
    return [
        3 if here else 0 if first else 2 if last else 1 for here, first, last in zip(blank, before, after, strict=True)
    ]


def draw_flow(path: Path, flows: Mapping[str, Flow], title: str, state: str = ALL) -> None:
    """Draw the norms of d s_T / d s_{T-k} over the lag k, the mean over sequences and their range.

    Args:
        path: the file to write.
        flows: by what the legend calls them.
        title: what the picture says on top.
        state: which state's (default: of all together); where a cell has no such state, of all together.
    """
    figure = new_figure(7.5, 4.2)
    axes = figure.subplots()
    lowest = highest = 1.0
    for place, (label, flow) in enumerate(flows.items()):
        look: dict[str, Any] = {"color": COLOURS[place % len(COLOURS)], "linestyle": STYLES[place % len(STYLES)]}
        logs = flow.log_norms.get(state, flow.log_norms[ALL]).clamp_min(-690.0)  # (lags, B)
        norms, least, most = (one.exp().numpy() for one in (logs.mean(1), logs.amin(1), logs.amax(1)))
        axes.plot(norms, label=f"{label}: {flow.rate(state if state in flow.log_norms else ALL):.3f} a step", **look)
        axes.fill_between(range(len(logs)), least, most, color=look["color"], alpha=0.15)
        lowest, highest = min(lowest, float(norms.min())), max(highest, float(most.max()))
        if flow.log_bound is not None:
            bound = [flow.bound(k) for k in range(len(logs))]
            axes.plot(bound, color=look["color"], linewidth=0.8, alpha=0.7, label=f"{label}: bound")
    axes.set_yscale("log")
    axes.set_ylim(max(lowest / 10, 1e-40), min(axes.get_ylim()[1], 1e3 * highest))  # a bound may leave the picture
    axes.set_xlabel("lag k, in steps")
    axes.set_ylabel("norm of d s(T) / d s(T-k)" if state == ALL else f"norm of d {state}(T) / d {state}(T-k)")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False, fontsize=8)
    _save(path, figure, title)


def draw_behaviour(path: Path, behaviours: Sequence[Behaviour], title: str) -> None:
    """Draw how many units do what, for every cell of a layer, and what each unit does.

    Args:
        path: the file to write.
        behaviours: as `gate_behaviour` returns them.
        title: what the picture says on top.
    """
    figure = new_figure(8.0, 1.2 + 1.5 * len(behaviours))
    rows = figure.subplots(len(behaviours), 1, squeeze=False)[:, 0]
    for axes, behaviour in zip(rows, behaviours, strict=True):
        order = behaviour.by_unit[REGIMES.index("remember")].argsort(descending=True)
        bottom = torch.zeros(len(order), dtype=torch.float64).numpy()
        for place, name in enumerate(("remember", "add", "overwrite", "erase")):
            share = behaviour.by_unit[REGIMES.index(name)][order].numpy()
            label = f"{name} {behaviour.shares[name]:.0%}"
            axes.bar(range(len(order)), share, 1.0, bottom, color=COLOURS[place], label=label)
            bottom = bottom + share
        axes.set_title(behaviour.where, fontsize=9, loc="left")
        axes.set_ylabel("share of steps")
        axes.set_xlim(-0.5, len(order) - 0.5)
        axes.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
    rows[-1].set_xlabel("units, those that remember most first")
    _save(path, figure, title)


def _save(path: Path, figure: Any, title: str) -> None:
    figure.suptitle(title, fontsize=11)
    figure.savefig(path, dpi=100)
    figure.clear()  # what it holds refers to itself, and would wait for the garbage collector
