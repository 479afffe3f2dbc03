"""Kernels on a GPU: every cell as step by step there, whatever the layout; the same bits every time; no hang."""

import copy

import pytest
import torch

import cellwright as cw
from cellwright.cells import LIBRARY
from tests.oracle import CORE, as_function, results_and_gradients

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU: nothing of this file was tested")

I, H = 20, 72


def layers(name, dtype):
    torch.manual_seed(3)
    cell = LIBRARY[name](I, H)
    with torch.no_grad():
        for parameter in cell.parameters():
            parameter.normal_(0, 0.2)
    cell = cell.to("cuda", dtype)
    return cw.Recurrent(cell, backend="triton"), cw.Recurrent(cell, backend="eager")


def given(layer, steps, rows, dtype):
    x = torch.rand(steps, rows, layer.first_cell.input_size)
    states = [torch.rand(1, rows, size) + 0.5 for size in layer.first_cell.state_sizes]
    return [*(one.to("cuda", dtype) for one in (x, *states)), *layer.parameters()]


def apart(name, dtype, steps, rows):
    """The largest difference from the loop in float64, as a share of the largest number."""
    fused, plain = layers(name, dtype)
    inputs = given(fused, steps, rows, dtype)
    ours = results_and_gradients(as_function(fused), inputs)
    exact = results_and_gradients(as_function(copy.deepcopy(plain).double()), [one.double() for one in inputs])
    pairs = [pair for left, right in zip(ours, exact, strict=True) for pair in zip(left, right, strict=True)]
    return max(((one - other).abs().max() / max(1.0, other.abs().max().item())).item() for one, other in pairs)


@pytest.mark.parametrize("name", LIBRARY)
def test_every_cell_equals_step_by_step_with_all_gradients(name):
    assert apart(name, torch.float32, 9, 5) < 1e-4


@pytest.mark.parametrize(("dtype", "share"), [(torch.float64, 1e-10), (torch.bfloat16, 0.1), (torch.float16, 0.02)])
@pytest.mark.parametrize("name", CORE)
def test_every_type(name, dtype, share):
    assert apart(name, dtype, 9, 5) < share


@pytest.mark.parametrize(("steps", "rows"), [(1, 1), (50, 16), (20, 70), (5, 3000)])
@pytest.mark.parametrize("name", ["lstm", "gru-reset-before", "lstm-layernorm"])
def test_every_layout(name, steps, rows):
    assert apart(name, torch.float32, steps, rows) < 1e-4


@pytest.mark.parametrize("name", ["lstm", "gru-reset-before", "lstm-layernorm"])
def test_ten_thousand_launches_beside_other_work_give_the_same_bits(name):
    torch.manual_seed(0)
    cell = LIBRARY[name](64, 256).to("cuda")
    layer, beside = cw.Recurrent(cell, backend="triton"), torch.randn(1024, 1024, device="cuda")
    x = torch.randn(8, 32, 64, device="cuda")
    other = torch.cuda.Stream()
    with torch.no_grad():
        wanted = layer(x)[0].clone()
        wrong = torch.zeros((), dtype=torch.int64, device="cuda")
        for _ in range(10_000):
            with torch.cuda.stream(other):
                beside @ beside
            wrong += (layer(x)[0] != wanted).sum()
    assert wrong.item() == 0
