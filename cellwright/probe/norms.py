"""Spectral norms of many matrices, each close to the one before it."""

from __future__ import annotations

import torch
from torch import Tensor

LARGEST_EXACT = 64  # columns of a matrix whose singular values are all found, as fast
VECTORS = 16  # that are iterated together
TOLERANCE = 1e-5  # the change of an iteration, as a share, after which there is no other
MOST = 100  # iterations


def spectral_norm(matrices: Tensor) -> Tensor:
    """The largest singular value of each of (B, M, N)."""
    norms: Tensor = torch.linalg.matrix_norm(matrices, ord=2)
    return norms


class SpectralNorm:
    """The largest singular value of matrices (B, M, N), call after call.

    >>> norm, a = SpectralNorm(exact=False), torch.randn(2, 30, 40, dtype=torch.float64)
    >>> bool(torch.allclose(norm(a), torch.linalg.matrix_norm(a, ord=2), rtol=1e-4))
    True

    By subspace iteration, which begins where the call before ended: the left singular vectors of a product change
    little when a factor is added on its right.

    Args:
        exact: by a full decomposition instead.
    """

    def __init__(self, exact: bool) -> None:
        self.exact = exact
        self.left: Tensor | None = None

    def __call__(self, matrices: Tensor) -> Tensor:
        if self.exact or min(matrices.shape[1:]) <= VECTORS:
            return spectral_norm(matrices)
        scale = matrices.abs().amax((1, 2)).clamp_min(torch.finfo(matrices.dtype).tiny)
        matrices = (matrices / scale[:, None, None]).float()  # which is enough for so many digits
        left = self._start(matrices) if self.left is None else self.left
        before = matrices.new_zeros(len(matrices))
        for _ in range(MOST):
            right, _ = torch.linalg.qr(matrices.mT @ left)  # (B, N, vectors)
            left, small = torch.linalg.qr(matrices @ right)  # (B, M, vectors), (B, vectors, vectors)
            found = spectral_norm(small)
            if bool(((found - before).abs() <= TOLERANCE * found).all()):
                break
            before = found
        self.left = left
        return found * scale

    @staticmethod
    def _start(matrices: Tensor) -> Tensor:
        dice = torch.Generator().manual_seed(0)
        shape = (*matrices.shape[:2], VECTORS)
        return torch.randn(shape, generator=dice, dtype=torch.float64).to(matrices)
