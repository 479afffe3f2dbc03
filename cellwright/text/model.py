"""The language model: tokens in, a recurrent stack, scores for the next token out."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from cellwright.cells import find_cell, initialise
from cellwright.layers import Dropout, Recurrent
from cellwright.text.config import ModelSettings


class OneHot(nn.Module):
    """Token ids (T, B) as rows of the identity matrix (T, B, V)."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size

    def forward(self, tokens: Tensor) -> Tensor:
        return nn.functional.one_hot(tokens, self.size).to(torch.get_default_dtype())

    def extra_repr(self) -> str:
        return str(self.size)


class LanguageModel(nn.Module):
    """Predict each next token from all before it.

    >>> from cellwright.text.config import load_preset
    >>> model = LanguageModel(load_preset("d2l").model, vocabulary_size=28)
    >>> logits, state = model(torch.zeros(7, 2, dtype=torch.long))   # tokens (T, B)
    >>> logits.shape
    torch.Size([7, 2, 28])

    Args:
        settings: cell, sizes, dropout.
        vocabulary_size: tokens V.
    """

    def __init__(self, settings: ModelSettings, vocabulary_size: int) -> None:
        super().__init__()
        width = settings.embedding_size or vocabulary_size
        self.embed = nn.Embedding(vocabulary_size, width) if settings.embedding_size else OneHot(vocabulary_size)
        self.input_dropout = Dropout(settings.input_dropout, settings.held_dropout)
        cell = find_cell(settings.cell)(width, settings.hidden_size)
        between = settings.dropout if settings.num_layers > 1 else 0.0
        self.recurrent = Recurrent(
            cell, settings.num_layers, dropout=between, held_dropout=settings.held_dropout, backend=settings.backend
        )
        self.output_dropout = Dropout(settings.dropout, settings.held_dropout)
        self.output = nn.Linear(cell.output_size, vocabulary_size)
        if settings.init != "uniform":  # which is how all modules come
            initialise(self, settings.init, settings.hidden_size)
        if settings.tied:
            assert isinstance(self.embed, nn.Embedding)
            nn.init.uniform_(self.output.weight, -(width**-0.5), width**-0.5)
            self.embed.weight = self.output.weight

    def forward(self, tokens: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        """Scores of every next token.

        Args:
            tokens: ids (T, B).
            state: what the call before returned, None to start afresh.

        Returns:
            Scores before the softmax (T, B, V), and the state after the last token.
        """
        x = self.input_dropout(self.embed(tokens).to(self.output.weight.dtype))  # (T, B, E)
        y, state = self.recurrent(x, state)  # (T, B, H)
        return self.output(self.output_dropout(y)), state


def detach(state: Any) -> Any:
    """A state that remembers its numbers and not how they came about: gradients stop here."""
    return state.detach() if isinstance(state, Tensor) else tuple(one.detach() for one in state)


def count_parameters(model: nn.Module) -> int:
    """How many numbers training changes."""
    return sum(parameter.numel() for parameter in model.parameters())
