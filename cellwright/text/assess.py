"""A trained run measured on a text, beside n-gram models that learned from the same text."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from cellwright.errors import RunError, TextError
from cellwright.text.corpus import Corpus, load_corpus
from cellwright.text.evaluate import Score, evaluate
from cellwright.text.ngram import MOST_TOKENS, Baseline, baselines, best_baseline
from cellwright.text.run import Run
from cellwright.text.vocabulary import Ids


def assess(
    run: Run, text: str | None, device: torch.device, cell: str | None = None, note: Callable[[str], None] = print
) -> dict[str, Any]:
    """Perplexity and bits per character of a run and of n-gram models.

    Args:
        run: a trained run.
        text: a file or the name of a text; None takes what the run held out of its own.
        device: where to compute.
        cell: the cell's file, where it is in a file.
        note: is told in one line what could not be done.

    Returns:
        text, tokens, unknown_share, model (perplexity, bits_per_character), and baselines: by order n, the
        same two for add-0.01 and Witten-Bell smoothing. Without the training text, baselines is empty.

    Raises:
        RunError: nothing was held out, or the text of the run has changed.
    """
    vocabulary = run.vocabulary()
    characters = vocabulary.characters()
    own = _own_text(run, note, needed=text is None)
    if text is None:
        assert own is not None
        test, name = own.validation, f"the held-out part of {', '.join(own.names)}"
        if len(test) == 0:
            raise RunError(
                "eval measures on text that was held out",
                f"{run.path}, which held out none",
                f"cellwright eval {run.path} TEXT",
            )
    else:
        whole = run.settings().replace(text=(text,), validation=0.0, max_tokens=0)
        corpus = load_corpus(whole.data, vocabulary=vocabulary)
        test, name = corpus.train, corpus.names[0]
    if len(test) < 2:
        raise TextError("a text to measure on has at least 2 tokens", f"{len(test)} in {name}", "name a longer text")
    unknown = 0.0 if vocabulary.unknown is None else float((test == vocabulary.unknown).mean())
    score = evaluate(run.model(cell, device), test, characters, device)
    found = _baselines(own, test, characters, note)
    return {
        "text": name,
        "tokens": score.tokens,
        "unknown_share": unknown,
        "model": _values(score),
        "baselines": [
            {"order": one.order, "added": _values(one.added), "witten_bell": _values(one.interpolated)} for one in found
        ],
        "best_baseline": _values(best_baseline(found)) if found else None,
    }


def _baselines(
    own: Corpus | None, test: Ids, characters: NDArray[np.float64], note: Callable[[str], None]
) -> list[Baseline]:
    if own is None:
        return []
    if len(own.train) + len(test) > MOST_TOKENS:
        note(f"no n-gram baselines: they are counted in memory, up to {MOST_TOKENS:,} tokens")
        return []
    return baselines(own.train, test, characters)


def _own_text(run: Run, note: Callable[[str], None], needed: bool) -> Corpus | None:
    try:
        corpus = load_corpus(run.settings().data, vocabulary=run.vocabulary())
        if corpus.sha256 == run.config().get("sha256"):
            return corpus
        raise RunError(
            "a run is measured against the very text it was trained on",
            f"another content of {', '.join(corpus.names)} than {run.path} began with",
            f"restore the text, or name one to measure on: cellwright eval {run.path} TEXT",
        )
    except (TextError, RunError) as error:
        if needed:
            raise
        note(f"no n-gram baselines: {error}")
        return None


def _values(score: Score) -> dict[str, float]:
    return {"perplexity": score.perplexity, "bits_per_character": score.bits_per_character}
