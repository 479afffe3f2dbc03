"""The functions that kernels for a GPU call, in Triton's interpreter: each row of the table against PyTorch."""

import pytest
import torch

from cellwright.step.evaluate import FUNCTIONS
from cellwright.step.ops import OPS

pytest.importorskip("triton")
pytestmark = pytest.mark.filterwarnings("ignore:.*encountered in:RuntimeWarning")  # of what is not chosen

KERNEL = '''"""One operation on every number."""

import triton
import triton.language as tl
from cellwright.kernels.triton.functions import *


@triton.jit
def kernel(a_at, b_at, c_at, out_at, N: tl.constexpr):
    at = tl.arange(0, N)
    a, b, c = tl.load(a_at + at), tl.load(b_at + at), tl.load(c_at + at)
    tl.store(out_at + at, {})
'''
POINTS = torch.cat(
    [
        torch.tensor([0.0, 1.0, -1.0, 0.5, -0.5, 1.5, 2.5, -2.5, 0.25, 1e-9, -1e-9, 1e-3, 80.0, -80.0, 700.0, -700.0]),
        torch.tensor([float("nan"), float("inf"), float("-inf")]),
        torch.linspace(-3, 3, 237),
    ]
).double()


def found(op, *arguments):
    from cellwright.kernels.triton.build import module

    out = torch.empty_like(arguments[0])
    filled = [*arguments, *(arguments[:1] * (3 - len(arguments)))]
    module(KERNEL.format(OPS[op].code.format("a", "b", "c"))).kernel[(1,)](*filled, out, N=len(out))
    return out


def arguments_of(op, dtype):
    generator = torch.Generator().manual_seed(0)
    other = POINTS[torch.randperm(len(POINTS), generator=generator)]
    third = POINTS[torch.randperm(len(POINTS), generator=generator)]
    count = sum(f"{{{place}}}" in OPS[op].code for place in range(3))
    if op == "where":
        return [(POINTS > 0).to(dtype), other.to(dtype), third.to(dtype)]
    return [one.to(dtype) for one in (POINTS, other, third)[:count]]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("op", OPS)
def test_an_operation_is_that_of_pytorch(op, dtype):
    arguments = arguments_of(op, dtype)
    if op == "pow":  # constants are its exponents
        arguments[1] = torch.tensor([2.0, -1.0, 0.5, 3.0, 0.0]).repeat(len(POINTS))[: len(POINTS)].to(dtype)
    wanted = FUNCTIONS[op](*arguments).to(dtype)
    share = 64 * torch.finfo(dtype).eps
    torch.testing.assert_close(found(op, *arguments), wanted, rtol=share, atol=1e-300, equal_nan=True)
