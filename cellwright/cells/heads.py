"""Heads: a recurrent matrix as blocks on its diagonal, so that a unit sees only the units of its own head."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from cellwright.errors import CellError


class Blocks:
    """The matrix (H, H) with blocks (heads, H/heads, H/heads) on its diagonal, as the right side of a product.

    >>> h = torch.tensor([[1.0, 2.0, 3.0, 4.0]])
    >>> (h @ Blocks(torch.ones(2, 2, 2))).tolist()
    [[3.0, 3.0, 7.0, 7.0]]

    The zeros beside the blocks are never multiplied: a step costs as many products as there are weights.
    """

    def __init__(self, blocks: Tensor) -> None:
        self.blocks = blocks

    def __rmatmul__(self, h: Tensor) -> Tensor:
        parts = h.chunk(len(self.blocks), 1)  # (B, H/heads) each
        return torch.cat([part @ block for part, block in zip(parts, self.blocks, strict=True)], 1)  # (B, H)


class InHeads(nn.Module):
    """A parametrization (torch.nn.utils.parametrize) of a matrix by the blocks on its diagonal."""

    def __init__(self, heads: int) -> None:
        super().__init__()
        self.heads = heads

    def forward(self, blocks: Tensor) -> Blocks:
        return Blocks(blocks)

    def right_inverse(self, matrix: Tensor) -> Tensor:
        """The blocks (heads, H/heads, H/heads) on the diagonal of a matrix (H, H); the rest is left out."""
        columns = len(matrix) // self.heads
        cut = matrix.reshape(self.heads, columns, self.heads, columns)
        return cut.diagonal(dim1=0, dim2=2).movedim(2, 0).contiguous()


def split_in_heads(part: nn.Module, name: str, heads: int) -> None:
    """Replace a matrix (H, H) of a module by the blocks on its diagonal, whose equations `h @ self.W` stay as they are.

    >>> from cellwright.cells import GRU
    >>> cell = GRU(3, 6)
    >>> for name in ("W_hr", "W_hz", "W_hn"):
    ...     split_in_heads(cell, name, heads=2)
    >>> cell.parametrizations.W_hr.original.shape, cell(torch.zeros(2, 3), torch.zeros(2, 6)).shape
    (torch.Size([2, 3, 3]), torch.Size([2, 6]))

    Args:
        part: the cell, or a module in it.
        name: of its matrix, which becomes `parametrizations.{name}.original` (heads, H/heads, H/heads).
        heads: how many blocks; H is a multiple of it.

    Raises:
        CellError: the matrix is not (H, H), or cannot be cut into so many blocks.
    """
    matrix = getattr(part, name)
    square = matrix.dim() == 2 and matrix.shape[0] == matrix.shape[1]
    if isinstance(heads, bool) or not isinstance(heads, int) or heads < 1 or not square or len(matrix) % heads:
        raise CellError(
            "heads cut a matrix (H, H) into blocks of equal size: H is a multiple of heads",
            f"heads={heads!r} for {name} of shape {tuple(matrix.shape)}",
            "write heads=1, or change the hidden size",
        )
    parametrize.register_parametrization(part, name, InHeads(heads), unsafe=True)  # what it gives is no tensor
