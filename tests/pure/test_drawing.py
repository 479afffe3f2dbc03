"""draw: what its equations say is what the step computes, and its pictures hold all of it."""

import itertools
import re
from xml.etree import ElementTree

import pytest
import torch
from torch import nn

import cellwright as cw
from cellwright.cells import GRU, LSTM, RNN
from cellwright.errors import CellError
from cellwright.probe import draw
from tests.oracle import tolerance

I, H, B = 3, 5, 4
CELLS = [LSTM, GRU, lambda i, h: GRU(i, h, reset_after=False), RNN]
FUNCTIONS = {"sigmoid": torch.sigmoid, "tanh": torch.tanh}


def run(drawing, known):
    """Compute the equations of a drawing, as Python, from known values."""
    space = {_word(name): value for name, value in known.items()}
    for node in drawing.nodes:
        if node.equation:
            space[_word(node.name)] = eval(_word(node.equation), FUNCTIONS, space)
    return {node.name: space[_word(node.name)] for node in drawing.nodes}


def _word(text):
    return re.sub(r"\[(t-1|t)\]", lambda m: "_before" if m[1] == "t-1" else "_next", text).replace("^T", ".T")


@pytest.mark.parametrize("make", CELLS)
def test_equations_forward_and_backward_are_those_of_the_step(make):
    cell = make(I, H)
    x = torch.randn(B, I, requires_grad=True)
    states = {f"{name}[t-1]": torch.randn(B, H, requires_grad=True) for name in cell.state}
    known = {"x": x, **states, **dict(cell.named_parameters())}
    values = run(draw(cell), known)
    new = cell.split_output(cell(x, *states.values()))[1]
    for name, value in zip(cell.state, new, strict=True):
        assert (values[name] - value).abs().max() < tolerance(torch.float32)
    weights = [torch.randn(B, H) for _ in (*new, "y")]
    incoming = dict(zip((*(f"d{name}[t]" for name in cell.state), "dy"), weights, strict=True))
    grads = run(draw(cell, backward=True), {**known, **values, **incoming})
    total = sum((weight * value).sum() for weight, value in zip(weights, (*new, new[0]), strict=True))
    names = ("x", *states)
    for name, grad in zip(names, torch.autograd.grad(total, [known[n] for n in names]), strict=True):
        assert (grads[f"d{name}"] - grad).abs().max() < tolerance(torch.float32)


def test_gradients_of_named_values_are_named_after_them():
    names = [node.name for node in draw(LSTM(I, H), backward=True).nodes]
    assert sorted(names) == sorted(
        ["dh[t]", "dc[t]", "dy", "dh", "dc", "di", "df", "do", "dg", "dx", "dh[t-1]", "dc[t-1]"]
    )


def test_cells_of_torch_nn_show_their_gates():
    text = str(draw(nn.LSTMCell(I, H)))
    assert "f = sigmoid(gates[5:10])" in text
    assert text.splitlines()[-2:] == ["c = f * c[t-1] + i * g", "h = o * tanh(c)"]
    assert str(draw(cw.LSTM(I, H).cell(0))) == text


class Graph(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 2)

    def forward(self, x1, x2, x3):
        z = x1 + x2 * self.linear(x3)
        return z


def test_a_module_of_several_inputs_is_drawn_with_their_names():
    drawing = draw(Graph(), x1=2, x2=2, x3=4)
    assert str(drawing) == "z = x1 + x2 * (x3 @ linear.weight^T + linear.bias)"
    assert set(drawing.edges()) == {("x1", "z"), ("x2", "z"), ("x3", "z")}


@pytest.mark.parametrize("backward", [False, True])
@pytest.mark.parametrize("make", CELLS)
def test_pictures_hold_every_value_and_no_box_lies_on_another(make, backward):
    drawing = draw(make(I, H), backward)
    root = ElementTree.fromstring(drawing.svg())
    width, height = float(root.get("width")), float(root.get("height"))
    space = "{http://www.w3.org/2000/svg}"
    texts = {element.text for element in root.iter(f"{space}text")}
    assert {node.name for node in drawing.nodes} <= texts
    boxes = [
        tuple(float(r.get(k)) for k in ("x", "y", "width", "height")) for r in root.iter(f"{space}rect") if r.get("x")
    ]
    assert len(boxes) == len(drawing.nodes)
    for x, y, w, h in boxes:
        assert x >= 0
        assert x + w <= width
        assert y >= 0
        assert y + h <= height
    for (x, y, w, h), (X, Y, W, V) in itertools.combinations(boxes, 2):
        assert x + w < X or x > X + W or y + h < Y or y > Y + V
    edges = len(list(drawing.edges()))
    assert drawing.mermaid().count(" --> ") == edges
    assert drawing.dot().count(" -> ") == edges


def test_a_step_that_cannot_be_traced_is_refused_in_words():
    class Random(RNN):
        def step(self, x, h):
            return torch.tanh(h + torch.randn_like(h))

    with pytest.raises(CellError, match=r"drawn as its step is traced.*got Random\(3, 5\): .*random numbers.*; draw a"):
        draw(Random(I, H))
