"""Standard: RNN, GRU and LSTM that take the place of torch.nn's, by name, weights and results."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from cellwright.cells.stacked import (
    StackedGRU,
    StackedGRUBefore,
    StackedLSTM,
    StackedReluRNN,
    StackedRNN,
)
from cellwright.errors import SettingError
from cellwright.layers.stacked import Standard


class RNN(Standard):
    """torch.nn.RNN, fused.

    >>> layer = RNN(28, 16, nonlinearity="relu")
    >>> y, h = layer(torch.zeros(7, 3, 28))
    >>> y.shape, h.shape
    (torch.Size([7, 3, 16]), torch.Size([1, 3, 16]))

    Args:
        input_size: columns I of x.
        hidden_size: columns H of h; a list with one for each layer, where they differ.
        num_layers: layers on top of each other (default 1).
        nonlinearity: "tanh" (default) or "relu".
        bias: whether biases exist (default: yes).
        batch_first: whether x and y are (B, T, ...) (default: no).
        dropout: share of every layer's output, but the last's, that is zeroed in training (default 0).
        bidirectional: whether every layer also reads its input from the end (default: no).
        device: of the weights.
        dtype: of the weights; float32 and float64 are fused, others run on PyTorch's kernels.
        orthogonal: draw the recurrent weights orthogonal (default: as torch.nn).
        learn_state: make the first state a parameter h0 (default: zeros).
        backend: "auto" (default), "c", "triton", "eager" or "torch".
    """

    torch_class = nn.RNN

    def __init__(
        self,
        input_size: int,
        hidden_size: int | Sequence[int],
        num_layers: int = 1,
        nonlinearity: str = "tanh",
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        device: Any = None,
        dtype: Any = None,
        *,
        proj_size: int = 0,
        orthogonal: bool = False,
        learn_state: bool = False,
        backend: str = "auto",
    ) -> None:
        _no_projection("RNN", proj_size)
        if nonlinearity not in ("tanh", "relu"):
            raise SettingError("nonlinearity is tanh or relu", repr(nonlinearity), "write nonlinearity='tanh'")
        self.nonlinearity = nonlinearity
        sizes = (input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional)
        ours: dict[str, Any] = {"backend": backend, "orthogonal": orthogonal, "learn_state": learn_state}
        super().__init__(f"RNN_{nonlinearity.upper()}", *sizes, device=device, dtype=dtype, **ours)

    def _cell_class(self) -> Any:
        return StackedRNN if self.mode == "RNN_TANH" else StackedReluRNN


class GRU(Standard):
    """torch.nn.GRU, fused.

    >>> layer = GRU(28, 16, num_layers=2, reset_after=False)
    >>> y, h = layer(torch.zeros(7, 3, 28))
    >>> y.shape, h.shape
    (torch.Size([7, 3, 16]), torch.Size([2, 3, 16]))

    Args:
        input_size: columns I of x.
        hidden_size: columns H of h; a list with one for each layer, where they differ.
        num_layers: layers on top of each other (default 1).
        bias: whether biases exist (default: yes).
        batch_first: whether x and y are (B, T, ...) (default: no).
        dropout: share of every layer's output, but the last's, that is zeroed in training (default 0).
        bidirectional: whether every layer also reads its input from the end (default: no).
        device: of the weights.
        dtype: of the weights; float32 and float64 are fused, others run on PyTorch's kernels.
        reset_after: whether the reset gate acts after the product with the recurrent weights, as in
            torch.nn (default), or before it, as in Cho et al. (2014), arXiv 1406.1078v3.
        orthogonal: draw the recurrent weights orthogonal (default: as torch.nn).
        learn_state: make the first state a parameter h0 (default: zeros).
        backend: "auto" (default), "c", "triton", "eager" or "torch".
    """

    torch_class = nn.GRU

    def __init__(
        self,
        input_size: int,
        hidden_size: int | Sequence[int],
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        device: Any = None,
        dtype: Any = None,
        *,
        proj_size: int = 0,
        reset_after: bool = True,
        orthogonal: bool = False,
        learn_state: bool = False,
        backend: str = "auto",
    ) -> None:
        _no_projection("GRU", proj_size)
        if backend == "torch" and not reset_after:
            raise SettingError("torch.nn's GRU resets after the product", "reset_after=False", "write backend='auto'")
        self.reset_after = reset_after
        sizes = (input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional)
        ours: dict[str, Any] = {"backend": backend, "orthogonal": orthogonal, "learn_state": learn_state}
        super().__init__("GRU", *sizes, device=device, dtype=dtype, **ours)

    def _cell_class(self) -> Any:
        return StackedGRU if self.reset_after else StackedGRUBefore

    def _plain(self) -> bool:
        return self.reset_after

    def extra_repr(self) -> str:
        return super().extra_repr() + ("" if self.reset_after else ", reset_after=False")


class LSTM(Standard):
    """torch.nn.LSTM, fused.

    >>> layer = LSTM(28, 16, bidirectional=True)
    >>> y, (h, c) = layer(torch.zeros(7, 3, 28))
    >>> y.shape, c.shape
    (torch.Size([7, 3, 32]), torch.Size([2, 3, 16]))

    Args:
        input_size: columns I of x.
        hidden_size: columns H of c, and of h without projection; a list with one for each layer, where they differ.
        num_layers: layers on top of each other (default 1).
        bias: whether biases exist (default: yes).
        batch_first: whether x and y are (B, T, ...) (default: no).
        dropout: share of every layer's output, but the last's, that is zeroed in training (default 0).
        bidirectional: whether every layer also reads its input from the end (default: no).
        proj_size: columns of h, projected from H (default 0: not projected).
        device: of the weights.
        dtype: of the weights; float32 and float64 are fused, others run on PyTorch's kernels.
        forget_bias: what the two biases of the forget gate add up to at first (default: as torch.nn draws them).
        orthogonal: draw the recurrent weights orthogonal (default: as torch.nn).
        learn_state: make the first states parameters h0 and c0 (default: zeros).
        backend: "auto" (default), "c", "triton", "eager" or "torch".
    """

    torch_class = nn.LSTM
    check_forward_args = nn.LSTM.check_forward_args  # type: ignore[assignment]
    permute_hidden = nn.LSTM.permute_hidden  # type: ignore[assignment]
    get_expected_cell_size = nn.LSTM.get_expected_cell_size

    def __init__(
        self,
        input_size: int,
        hidden_size: int | Sequence[int],
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        proj_size: int = 0,
        device: Any = None,
        dtype: Any = None,
        *,
        forget_bias: float | None = None,
        orthogonal: bool = False,
        learn_state: bool = False,
        backend: str = "auto",
    ) -> None:
        sizes = (input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, proj_size)
        ours: dict[str, Any] = {"backend": backend, "orthogonal": orthogonal, "learn_state": learn_state}
        super().__init__("LSTM", *sizes, device=device, dtype=dtype, **ours)
        if forget_bias is not None:
            self._set_forget_bias(forget_bias)

    @torch.no_grad()
    def _set_forget_bias(self, value: float) -> None:
        if not self.bias:
            raise SettingError("forget_bias is that of a layer with biases", "bias=False", "write bias=True")
        for name, bias in self.named_parameters():
            if name.startswith("bias_"):
                bias.chunk(4)[1].fill_(value if name.startswith("bias_ih") else 0.0)

    def _cell_class(self) -> Any:
        return StackedLSTM


def _no_projection(name: str, proj_size: int) -> None:
    if proj_size:
        raise SettingError("proj_size is a setting of LSTM", f"{name} with proj_size={proj_size}", "leave it out")
