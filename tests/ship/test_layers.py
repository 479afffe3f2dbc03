"""Every cell as an ONNX file: at lengths and batch sizes that nobody traced, stacked, in both directions, ragged."""

import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

import cellwright as cw
from cellwright.cells import LIBRARY
from cellwright.errors import ExportError
from cellwright.kernels.torch_nn import standard_form
from cellwright.ship import export_onnx
from tests.cpu.random_cells import PROGRAM, WIDTHS, RandomCell
from tests.cpu.strangers import STRANGERS, draw_weights, output_width, widths
from tests.ship.files import assert_runs_alike, body, nodes, operators, run, setting

KERNELS = {"rnn_tanh": "RNN", "rnn_relu": "RNN", "gru": "GRU", "lstm": "LSTM"}
FORMS = {name: standard_form(make(3, 5)) for name, make in LIBRARY.items()}
OPERATORS = {"gru-reset-before": "GRU", **{name: KERNELS[form.kernel] for name, form in FORMS.items() if form}}
DEEP = {"num_layers": 2, "bidirectional": True}
NOT_EXPORTED = ("maxout-gate", "shared-weights")  # what backend "c" refuses too


@pytest.mark.parametrize("name", LIBRARY)
def test_every_library_cell_runs_stacked_in_both_directions_and_ragged(name, tmp_path):
    layer = cw.Recurrent(LIBRARY[name](8, 4), **DEEP, backend="eager")  # I = 2H: some cells carry their last input
    path = export_onnx(layer, tmp_path / "layer.onnx", lengths=True).path
    assert operators(path) == ([OPERATORS[name]] * 2 if name in OPERATORS else ["Scan"] * 4)
    assert_runs_alike(path, layer.eval(), steps=6, batch=4, lengths=[2, 6, 1, 5])
    assert_runs_alike(path, layer.eval(), steps=2, batch=1, lengths=[2])


@pytest.mark.parametrize("name", OPERATORS)
def test_standard_cells_run_as_a_scan_where_onnxruntime_has_no_operator(name, tmp_path):
    layer = cw.Recurrent(LIBRARY[name](3, 4).double(), bidirectional=True, batch_first=True, backend="eager")
    path = export_onnx(layer, tmp_path / "layer.onnx").path
    assert operators(path) == ["Scan"] * 2
    assert_runs_alike(path, layer, steps=11, batch=2, atol=1e-12)


@pytest.mark.parametrize("options", [{}, {"batch_first": True}, DEEP, {**DEEP, "batch_first": True}])
@pytest.mark.parametrize("name", ["lstm", "gru-reset-before"])
def test_layouts_and_lengths_of_all_kinds(name, options, tmp_path):
    layer = cw.Recurrent(LIBRARY[name](3, 4), **options, backend="eager")
    path = export_onnx(layer, tmp_path / "layer.onnx").path
    for steps, batch in ((1, 1), (13, 2), (2, 6)):
        assert_runs_alike(path, layer, steps, batch)


LAYERS = {
    "rnn": lambda **options: cw.RNN(3, 4, **options),
    "rnn relu": lambda **options: cw.RNN(3, 4, nonlinearity="relu", **options),
    "gru": lambda **options: cw.GRU(3, 4, **options),
    "gru reset before": lambda **options: cw.GRU(3, 4, reset_after=False, **options),
    "lstm": lambda **options: cw.LSTM(3, 4, **options),
    "lstm projected": lambda **options: cw.LSTM(3, 4, proj_size=2, **options),
}


@pytest.mark.parametrize("options", [{"bias": False, "batch_first": True}, DEEP], ids=["plain", "deep"])
@pytest.mark.parametrize("name", LAYERS)
def test_layers_with_the_names_of_torch(name, options, tmp_path):
    layer = LAYERS[name](**options, backend="eager")
    path = export_onnx(layer, tmp_path / "layer.onnx", lengths=True).path
    count = layer.num_layers
    kind = name.split(" ")[0].upper()
    assert operators(path) == (["Scan"] * count * (1 + layer.bidirectional) if layer.proj_size else [kind] * count)
    batch, lengths = 3, torch.tensor([2, 7, 4])
    x = torch.randn((batch, 7, 3) if layer.batch_first else (7, batch, 3))
    states = [torch.randn(count * (1 + layer.bidirectional), batch, width) for width in layer._layout().widths[0]]
    pack, pad = torch.nn.utils.rnn.pack_padded_sequence, torch.nn.utils.rnn.pad_packed_sequence
    with torch.no_grad():
        packed = pack(x, lengths, layer.batch_first, enforce_sorted=False)
        y, last = layer(packed, states[0] if len(states) == 1 else tuple(states))
    wanted = [pad(y, layer.batch_first)[0], *(last if isinstance(last, tuple) else (last,))]
    for found, value in zip(run(path, x, *states, lengths), wanted, strict=True):
        torch.testing.assert_close(found, value, atol=1e-5, rtol=0)


def test_an_operator_for_both_directions_with_the_settings_of_its_cell(tmp_path):
    path = export_onnx(cw.GRU(3, 4, bidirectional=True, reset_after=False), tmp_path / "gru.onnx").path
    (node,) = (node for node in nodes(path) if node.op_type == "GRU")
    assert (setting(node, "direction"), setting(node, "linear_before_reset")) == (b"bidirectional", 0)
    path = export_onnx(cw.RNN(3, 4, nonlinearity="relu"), tmp_path / "rnn.onnx").path
    (node,) = (node for node in nodes(path) if node.op_type == "RNN")
    assert (setting(node, "direction"), setting(node, "activations")) == (b"forward", [b"Relu"])


def test_a_changed_standard_cell_is_not_mistaken_for_it(tmp_path):
    class Colder(cw.cells.LSTM):
        def step(self, x, h, c):
            h, c = super().step(0.5 * x, h, c)
            return h, c

    layer = cw.Recurrent(Colder(3, 4), backend="eager")
    path = export_onnx(layer, tmp_path / "layer.onnx").path
    assert operators(path) == ["Scan"]
    assert_runs_alike(path, layer, steps=3, batch=2)


@pytest.mark.parametrize(
    "make", [lambda: cw.GRU(3, 4, 2, learn_state=True), lambda: cw.Recurrent(cw.cells.GRU(3, 4), 2)]
)
def test_without_states_as_inputs_sequences_begin_as_the_layer_begins_them(make, tmp_path):
    layer = make()
    layer.backend = "eager"
    for name, parameter in layer.named_parameters():
        if name == "h0":
            torch.nn.init.normal_(parameter)
    path = export_onnx(layer, tmp_path / "layer.onnx", state=False).path
    x = torch.randn(5, 3, 3)
    for found, value in zip(run(path, x), layer(x), strict=True):
        torch.testing.assert_close(found, value, atol=1e-5, rtol=0)


def test_the_layer_is_left_as_it_was(tmp_path):
    layer = cw.Recurrent(cw.cells.GRU(3, 4), 2, dropout=0.5)
    before = {name: value.clone() for name, value in layer.state_dict().items()}
    random = torch.get_rng_state()
    path = export_onnx(layer, tmp_path / "layer.onnx").path
    assert layer.training
    assert layer.backend == "auto"
    assert torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(value, before[name]) for name, value in layer.state_dict().items())
    layer.backend = "eager"
    assert_runs_alike(path, layer.eval(), steps=3, batch=2)  # without its dropout


class Peculiar(cw.Cell):
    """What columns can do: turn, repeat, add up, meet masks, be the same for every row; an output of its own."""

    state = ("h", "n")

    def __init__(self, input_size, hidden_size):
        super().__init__(input_size, hidden_size)
        self.add_weight("W", "h", "weight", input_size + hidden_size, 2 * hidden_size)
        self.register_buffer("mask", torch.arange(hidden_size) % 2 == 0)

    def step(self, x, h, n):
        a, b = (torch.cat([x, h], 1) @ self.W).chunk(2, 1)
        turned = a.flip(1) + b[:, :1] * a[:, ::2].sum(1, keepdim=True)
        h = torch.where(self.mask, torch.tanh(turned.cumsum(1)), b.amax(1, keepdim=True).expand_as(b))
        one = torch.full_like(n[:, :1], 0.5)
        y = torch.cat([one, h[:, 1:3], one, x.amin(1, keepdim=True).expand(-1, 2)], 1)
        return y, h, torch.ones_like(n)

    @property
    def output_size(self):
        return 6


def test_columns_that_turn_repeat_and_are_the_same_for_every_row(tmp_path):
    layer = cw.Recurrent(Peculiar(3, 4), bidirectional=True, backend="eager")
    path = export_onnx(layer, tmp_path / "layer.onnx", lengths=True).path
    assert_runs_alike(path, layer, steps=5, batch=3, lengths=[5, 1, 3])


@pytest.mark.parametrize("name", sorted(set(STRANGERS) - set(NOT_EXPORTED))[::9])
def test_cells_of_strangers(name, tmp_path):
    module = draw_weights(STRANGERS[name](3, 4))
    cell = cw.adapt(module, 3, widths(name, 4), output_width(name, 4))
    layer = cw.Recurrent(cell, backend="eager")
    path = export_onnx(layer, tmp_path / "layer.onnx").path
    assert_runs_alike(path, layer.eval(), steps=3, batch=2)


@settings(deadline=None, max_examples=8, suppress_health_check=list(HealthCheck))
@given(inputs=st.integers(1, 4), sizes=st.lists(WIDTHS, min_size=1, max_size=2), program=PROGRAM, output=st.booleans())
@example(inputs=1, sizes=[1], program=[("unary", "atan", 0)], output=False)  # no weights, hence in float32
def test_random_cells(inputs, sizes, program, output, tmp_path):
    torch.manual_seed(0)
    module = RandomCell(inputs, sizes, program, output)
    layer = cw.Recurrent(cw.adapt(module, inputs, tuple(sizes), module.output_size).double(), backend="eager")
    try:
        path = export_onnx(layer, tmp_path / "layer.onnx").path
    except ExportError as error:  # a limit that is said in words is no failure
        if "for float32 only" not in str(error) and "over 64" not in str(error):
            raise
        return
    assert_runs_alike(path, layer, steps=3, batch=2, atol=1e-9 if list(layer.parameters()) else 1e-5)


class Hidden(cw.cells.RNN):
    """With a setting that looks like nobody's business."""

    def __init__(self, input_size, hidden_size, rate):
        super().__init__(input_size, hidden_size)
        self._rate = rate

    def step(self, x, h):
        h = self._rate * super().step(x, h)
        return h


def test_cells_of_one_stack_that_differ_are_traced_each(tmp_path):
    layer = cw.Recurrent([Hidden(3, 4, 0.5), Hidden(3, 4, 0.9)], bidirectional=True, backend="eager")
    path = export_onnx(layer, tmp_path / "layer.onnx").path
    assert_runs_alike(path, layer, steps=3, batch=2)


class Reading(cw.Cell):
    """A cell to read."""

    gates = {"f": "forget gate"}

    def __init__(self, input_size, hidden_size):
        super().__init__(input_size, hidden_size)
        self.add_gates()

    def step(self, x, h):
        f = torch.sigmoid(x @ self.W_xf + h @ self.W_hf + self.b_f)
        h = f * h + (1 - f) * torch.tanh(x.sum(1, keepdim=True))
        return h


def test_the_body_of_a_scan_reads_as_the_cell(tmp_path):
    path = export_onnx(cw.Recurrent(Reading(3, 4), backend="eager"), tmp_path / "layer.onnx").path
    found = body(path)
    assert list(found)[-3:] == ["h", "y_t", "h_next"]
    assert found["f"].op_type == "Sigmoid"
    assert found["f"].doc_string == "f = sigmoid((x @ W_xf + h[t-1] @ W_hf) + b_f)"
    assert found["h"].doc_string == "h = f * h[t-1] + (1 - f) * tanh(sum(x))"
    (scan,) = (node for node in nodes(path) if node.op_type == "Scan")
    assert "layer 0.W_xf" in [name for node in found.values() for name in node.input]
    assert list(scan.output) == ["layer 0.h_n", "layer 0.y"]
