"""Composed: operations in smaller ones, where PyTorch's own way to take them apart loads half of its compiler first."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor


def _var_mean(
    a: Tensor, dims: Any = None, *, correction: float | None = None, keepdim: bool = False
) -> tuple[Tensor, Tensor]:
    dims = [dim % a.dim() for dim in (range(a.dim()) if dims is None else dims)]
    mean = a.mean(dims, True)
    count = math.prod(a.shape[dim] for dim in dims)
    centred = a - mean
    var = (centred * centred).sum(dims, True) / max(count - (1 if correction is None else correction), 0)
    if keepdim:
        return var, mean
    return var.squeeze(dims), mean.squeeze(dims)


def _layer_norm(
    a: Tensor, shape: Sequence[int], weight: Tensor | None, bias: Tensor | None, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """The normed a, its mean and the inverse of its deviation."""
    var, mean = _var_mean(a, range(a.dim() - len(shape), a.dim()), correction=0, keepdim=True)
    inverse = (var + eps).rsqrt()
    normed = (a - mean) * inverse
    normed = normed if weight is None else normed * weight
    return normed if bias is None else normed + bias, mean, inverse


def _layer_norm_backward(
    gradient: Tensor,
    a: Tensor,
    shape: Sequence[int],
    mean: Tensor,
    inverse: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    wanted: Sequence[bool],
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """The gradients of a, weight and bias: g - mean(g) - normed mean(g normed), over the deviation."""
    columns = list(range(a.dim() - len(shape), a.dim()))
    rows = list(range(a.dim() - len(shape)))
    normed = (a - mean) * inverse
    g = gradient if weight is None else gradient * weight
    da = (g - g.mean(columns, True) - normed * (g * normed).mean(columns, True)) * inverse if wanted[0] else None
    dweight = (gradient * normed).sum(rows) if wanted[1] else None
    return da, dweight, gradient.sum(rows) if wanted[2] else None


def _softmax(a: Tensor, dim: int, half_to_float: bool) -> Tensor:
    powers = (a - a.amax(dim, True)).exp()
    return powers / powers.sum(dim, True)


def _softmax_backward(gradient: Tensor, y: Tensor, dim: int, dtype: torch.dtype) -> Tensor:
    part = gradient * y
    return part - y * part.sum(dim, True)


def _softplus(a: Tensor, beta: float = 1, threshold: float = 20) -> Tensor:
    if beta == 1:  # as nearly always: then nothing is multiplied by it, in the loops and in their equations
        return torch.where(a > threshold, a, a.exp().log1p())
    return torch.where(a * beta > threshold, a, (a * beta).exp().log1p() / beta)


def _softplus_backward(gradient: Tensor, a: Tensor, beta: float, threshold: float) -> Tensor:
    scaled = a if beta == 1 else a * beta
    return torch.where(scaled > threshold, gradient, gradient * scaled.sigmoid())


def _log_sigmoid(a: Tensor) -> tuple[Tensor, Tensor]:
    return a.clamp(max=0) - (-a.abs()).exp().log1p(), a.new_zeros(0)


def _log_sigmoid_backward(gradient: Tensor, a: Tensor, buffer: Tensor) -> Tensor:
    return gradient * (-a).sigmoid()


def _slice_backward(gradient: Tensor, sizes: Sequence[int], dim: int, start: int, end: int, step: int) -> Tensor:
    return torch.slice_scatter(gradient.new_zeros(sizes), gradient, dim, start, end, step)


COMPOSED: dict[Any, Callable[..., Any]] = {
    torch.ops.aten.var_mean.correction: _var_mean,
    torch.ops.aten.native_layer_norm.default: _layer_norm,
    torch.ops.aten.native_layer_norm_backward.default: _layer_norm_backward,
    torch.ops.aten._softmax.default: _softmax,
    torch.ops.aten._softmax_backward_data.default: _softmax_backward,
    torch.ops.aten.softplus.default: _softplus,
    torch.ops.aten.softplus_backward.default: _softplus_backward,
    torch.ops.aten.log_sigmoid_forward.default: _log_sigmoid,
    torch.ops.aten.log_sigmoid_backward.default: _log_sigmoid_backward,
    torch.ops.aten.slice_backward.default: _slice_backward,
}
