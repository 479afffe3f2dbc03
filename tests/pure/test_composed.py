"""Operations in smaller ones are what PyTorch computes, and spare a program the half of PyTorch's compiler."""

import subprocess
import sys

import pytest
import torch

from cellwright.step.composed import COMPOSED

aten = torch.ops.aten
CELLS = ("LSTM", "GRU", "LayerNormLSTM", "SLSTM", "SGU", "MCLSTM")


def drawn(*shape):
    return 3 * torch.randn(shape, dtype=torch.float64)


def layer_norms():
    a, weight, bias = drawn(4, 3, 5), drawn(5), drawn(5)
    for one, other in ((weight, bias), (weight, None), (None, bias), (None, None)):
        yield aten.native_layer_norm.default, (a, [5], one, other, 1e-3)
        _, mean, inverse = aten.native_layer_norm(a, [5], one, other, 1e-3)
        wanted = [True, one is not None, other is not None]
        yield aten.native_layer_norm_backward.default, (drawn(4, 3, 5), a, [5], mean, inverse, one, other, wanted)
    yield aten.native_layer_norm.default, (a, [3, 5], drawn(3, 5), drawn(3, 5), 1e-5)


def others():
    a, gradient = drawn(4, 6), drawn(4, 6)
    yield aten._softmax.default, (a, 1, False)
    yield aten._softmax_backward_data.default, (gradient, a.softmax(1), 1, a.dtype)
    far = torch.cat([10 * a, torch.tensor([[-800.0, 800.0, 20.0, -20.0, 0.0, torch.inf]])])
    for beta, threshold in ((1, 20), (2.5, 3)):
        yield aten.softplus.default, (far, beta, threshold)
        yield aten.softplus_backward.default, (torch.ones_like(far), far, beta, threshold)
    yield aten.log_sigmoid_forward.default, (far,)
    yield aten.log_sigmoid_backward.default, (torch.ones_like(far), far, aten.log_sigmoid_forward(far)[1])
    yield aten.slice_backward.default, (drawn(4, 2), [4, 7], 1, 1, 6, 3)
    yield aten.var_mean.correction, (a, [1])


CASES = [*layer_norms(), *others()]


@pytest.mark.parametrize("case", range(len(CASES)), ids=lambda case: f"{case} {CASES[case][0]}")
def test_an_operation_is_the_same_in_smaller_ones(case):
    function, args = CASES[case]
    found, known = COMPOSED[function](*args), function(*args)
    # (What log_sigmoid keeps for its backward is PyTorch's own business: ours keeps nothing.)
    pairs = [(found, known)] if isinstance(known, torch.Tensor) else zip(found, known, strict=True)
    compared = [(one, other) for one, other in pairs if other is not None and one.numel()]
    assert compared
    for one, other in compared:
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


def test_every_one_is_tried():
    assert {function for function, _ in CASES} == set(COMPOSED)


def test_tracing_loads_neither_sympy_nor_the_compiler_of_torch():
    code = (
        "import sys, torch, cellwright as cw\n"
        "from cellwright.step import capture\n"
        f"for name in {CELLS}:\n"
        "    capture(getattr(cw.cells, name)(3, 4), torch.float32)\n"
        "print([name for name in ('sympy', 'torch._dynamo', 'torch._inductor') if name in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
