"""What a cell is set to, hooked with and parametrized by is noticed, before and after its layer was used."""

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

import cellwright as cw
from cellwright.cells import GRU, RNN
from tests.cpu.layers import results, same, small


@pytest.mark.parametrize(
    "wrap",
    [lambda cell: parametrizations.weight_norm(cell, "W_hh"), lambda cell: parametrizations.orthogonal(cell, "W_hh")],
    ids=["weight_norm", "orthogonal"],
)
@pytest.mark.parametrize("used", [False, True])
def test_parametrized_weights_fuse_or_fall_back_and_are_right(wrap, used):
    cell = RNN(2, 4).double()
    layer = cw.Recurrent(cell)
    x = torch.randn(3, 2, 2, dtype=torch.float64, requires_grad=True)
    if used:
        layer(x)
    wrap(cell)
    same(results(layer, x), results(cw.Recurrent([cell], backend="eager"), x), atol=1e-10)


@pytest.mark.parametrize("used", [False, True])
def test_hooks_on_the_cell_run_at_every_step(used):
    layer = cw.Recurrent(GRU(2, 3, reset_after=False))
    x = torch.randn(4, 2, 2)
    if used:
        assert "backend c" in layer.explain()
        layer(x)
    calls = []
    handle = layer.first_cell.register_forward_hook(lambda *_: calls.append(1))
    layer(x)
    assert len(calls) == 4
    assert "hooks" in layer.explain()
    handle.remove()
    assert "backend c" in layer.explain()


class Settings(cw.Cell):
    """A cell whose step reads a number and whether it is training."""

    state = ("h",)
    gates = {"h": "hidden state"}

    def __init__(self, input_size, hidden_size, share=0.5):
        super().__init__(input_size, hidden_size)
        self.add_gates()
        self.alpha, self.share = 0.5, share

    def step(self, x, h):
        n = torch.tanh(x @ self.W_xh + h @ self.W_hh + self.b_h)
        n = nn.functional.dropout(n, self.share, self.training)
        return self.alpha * h + (1 - self.alpha) * n


def test_a_number_changed_in_a_list_of_the_cell_is_noticed():
    class Listed(RNN):
        scales = (1.0,)

        def step(self, x, h):
            return self.scales[0] * super().step(x, h)

    fused, plain, x = small(Listed)
    fused.first_cell.scales = [1.0]
    for scale in (1.0, 0.5):
        fused.first_cell.scales[0] = scale
        same(results(fused, x), results(plain, x))


def test_a_tensor_that_is_a_plain_attribute_is_noticed_when_it_changes():
    class Scaled(RNN):
        scale = torch.ones(1, dtype=torch.float64)

        def step(self, x, h):
            return self.scale * super().step(x, h)

    fused, plain, x = small(Scaled)
    fused.first_cell.scale = torch.ones(1, dtype=torch.float64)
    for change in (
        lambda cell: None,
        lambda cell: cell.scale.mul_(0.5),
        lambda cell: setattr(cell, "scale", cell.scale / 3),
    ):
        change(fused.first_cell)
        same(results(fused, x), results(plain, x))


def test_a_changed_number_of_the_cell_is_noticed():
    fused, plain, x = small(lambda i, h: Settings(i, h).eval())
    for alpha in (0.5, 0.3, 0.5):
        fused.first_cell.alpha = alpha
        same(results(fused, x), results(plain, x))


def test_dropout_in_a_step_is_refused_in_training_and_fuses_in_evaluation():
    layer = cw.Recurrent(Settings(2, 3))
    refused = layer.explain()
    assert "backend eager" in refused
    assert "random" in refused
    assert "test_fused_settings.py:" in refused
    x = torch.randn(4, 2, 2)
    assert not torch.equal(layer(x)[0], layer(x)[0])
    layer.eval()
    assert "backend c" in layer.explain()
    plain = cw.Recurrent(list(layer.cells), backend="eager")
    same(layer(x), plain(x), atol=1e-6)
    layer.train()
    assert "backend eager" in layer.explain()
