"""torch.compile and torch.export: backend c in their graphs gives what it gives without them, gradients included."""

import gc
import itertools
import subprocess
import sys

import pytest
import torch
import torch._dynamo.testing
from torch import nn

import cellwright as cw
from cellwright.errors import BackendError
from cellwright.kernels import operator
from cellwright.program import plan
from cellwright.step import capture, written
from tests.cpu.strangers import STRANGERS, output_width, widths
from tests.oracle import flat, tolerance

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # of torch's compilers
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]
T, B, I, H = 7, 2, 3, 5
RESETS = torch.tensor([[False, True, False], [False, False, True], [True, False, False], [False, True, False]])
ATOL = 4 * tolerance(torch.float32, T)


class Leaky(cw.Cell):
    """With a setting that is no weight, and an output that is no state."""

    state = ("h",)
    gates = {"h": "hidden state"}

    def __init__(self, input_size, hidden_size, rate=0.9):
        super().__init__(input_size, hidden_size)
        self.rate = rate
        self.function = torch.tanh
        self.add_gates()

    def step(self, x, h):
        h = self.rate * h + (1 - self.rate) * self.function(x @ self.W_xh + h @ self.W_hh + self.b_h)
        return torch.relu(h), h


class Sorted(Leaky):
    """A step that no loop knows."""

    def step(self, x, h):
        return super().step(x, h)[1].sort(1)[0]


CASES = {
    "lstm": (lambda: cw.cells.LSTM(I, H), {"num_layers": 2, "bidirectional": True}),
    "gru": (lambda: cw.cells.GRU(I, H), {"batch_first": True}),
    "gru without bias": (lambda: cw.cells.GRU(I, H, reset_after=False, bias=False), {}),
    "rnn": (lambda: cw.cells.RNN(I, H), {"bidirectional": True, "batch_first": True}),
    "custom": (lambda: Leaky(I, H), {}),
    "adapted gru": (lambda: nn.GRUCell(I, H), {}),
    "adapted lstm": (lambda: nn.LSTMCell(I, H), {}),
}


@pytest.fixture(autouse=True)
def fresh():
    torch._dynamo.reset()
    yield
    gc.collect()
    assert not operator._tickets, "what a forward run kept outlived its graph"


@pytest.fixture
def graphs():
    """A backend that counts the graphs it is given."""
    return torch._dynamo.testing.CompileCounterWithBackend("aot_eager")


def compiled(layer, backend="aot_eager", **options):
    return torch.compile(layer, fullgraph=True, backend=backend, **options)


def inputs_of(layer, steps=T, batch=B):
    shape = (batch, steps, I) if layer.batch_first else (steps, batch, I)
    sizes = layer.first_cell.state_sizes
    return [torch.randn(shape), *(torch.randn(len(layer.cells), batch, size) for size in sizes)]


def assert_same_gradients(fast, layer, inputs):
    """What two ways to run a layer give: results and gradients in x, the first states and every parameter."""
    found = []
    for run in (fast, layer):
        x, *states = (one.clone().requires_grad_() for one in inputs)
        results = flat(run(x, states if len(states) > 1 else states[0]))
        generator = torch.Generator().manual_seed(1)
        total = sum((torch.randn(one.shape, generator=generator) * one).sum() for one in results)
        found.append([*results, *torch.autograd.grad(total, [x, *states, *layer.parameters()])])
    assert_same(*found)


def assert_same(ours, theirs):
    for one, other in zip(flat(ours), flat(theirs), strict=True):
        torch.testing.assert_close(one, other, atol=ATOL, rtol=ATOL)


@pytest.mark.parametrize("name", CASES)
def test_a_compiled_layer_equals_itself(name):
    cell, options = CASES[name]
    layer = cw.Recurrent(cell(), backend="c", **options)
    assert_same_gradients(compiled(layer), layer, inputs_of(layer))


def test_a_model_around_the_layer_trains_the_same_in_machine_code():
    def model():
        torch.manual_seed(3)
        layer = cw.Recurrent(cw.cells.LSTM(I, 6), backend="c")
        return nn.ModuleDict({"embed": nn.Embedding(11, I), "layer": layer, "out": nn.Linear(6, 11)})

    def loss(parts, tokens):
        y, _ = parts["layer"](parts["embed"](tokens[:-1]))
        return nn.functional.cross_entropy(parts["out"](y).flatten(0, 1), tokens[1:].flatten())

    ways = {"plain": (model(), loss), "fast": (model(), compiled(loss, "inductor"))}
    tokens = torch.randint(11, (4, T + 1, B))
    losses = {way: [] for way in ways}
    for way, (parts, run) in ways.items():
        optimizer = torch.optim.SGD(parts.parameters(), lr=1.0)
        for batch in tokens:
            optimizer.zero_grad()
            losses[way].append(run(parts, batch))
            losses[way][-1].backward()
            optimizer.step()
    assert_same(losses["fast"], losses["plain"])
    assert_same(list(ways["fast"][0].parameters()), list(ways["plain"][0].parameters()))


@pytest.mark.filterwarnings("ignore:The .grad attribute")  # that torch.compile looks at, of every tensor it is given
def test_states_are_carried_from_call_to_call():
    layer = cw.Recurrent(cw.cells.LSTM(I, H), 2, backend="c")
    fast, ours, theirs = compiled(layer), None, None
    for x in torch.randn(3, T, B, I):
        y, ours = fast(x, ours)
        z, theirs = layer(x, theirs)
    found = [torch.autograd.grad(out.sum(), list(layer.parameters())) for out in (y, z)]
    assert_same(*found)


def test_other_lengths_and_batches_run_in_the_same_graph(graphs):
    layer = cw.Recurrent(cw.cells.GRU(I, H), bidirectional=True, backend="c")
    fast = compiled(layer, graphs, dynamic=True)
    known = 0
    for steps, batch in itertools.product([7, 2, 9], [4, 6]):
        assert_same_gradients(fast, layer, inputs_of(layer, steps, batch))
        known = known or graphs.frame_count
    assert graphs.frame_count == known


def test_a_new_graph_is_made_exactly_where_the_cell_changed(graphs):
    layer = cw.Recurrent(Leaky(I, H), backend="c")
    x = torch.randn(T, B, I)
    fast = compiled(layer, graphs)

    def made():
        before = graphs.frame_count
        assert_same(fast(x), layer(x))
        assert_same(fast(x), layer(x))
        return graphs.frame_count > before

    cell = layer.first_cell
    assert made()
    assert not made()
    with torch.no_grad():
        cell.W_hh.mul_(0.5)
    assert not made()
    cell.rate = 0.5
    assert made()
    assert not made()
    cell.rate = 0.9
    assert not made()
    cell.function = torch.sigmoid
    assert made()
    assert not made()
    layer.eval()
    assert made()
    layer.train()
    assert not made()
    cell.b_h.requires_grad_(False)
    assert made()


@pytest.mark.parametrize("mode", [torch.enable_grad, torch.no_grad, torch.inference_mode])
def test_only_for_gradients_something_is_kept(mode, monkeypatch):
    kept, issue = [], operator._issue

    def spy(named, saved):
        kept.append(saved is not None)
        return issue(named, saved)

    monkeypatch.setattr(operator, "_issue", spy)
    layer = cw.Recurrent(cw.cells.LSTM(I, H), backend="c")
    x, fast = torch.randn(T, B, I), compiled(layer)
    with mode():
        assert_same(fast(x), layer(x))
    assert kept == [mode is torch.enable_grad]


def test_backward_runs_again_through_the_same_graph():
    layer = cw.Recurrent(cw.cells.LSTM(I, H), backend="c")
    x, weights = torch.randn(T, B, I), list(layer.parameters())
    y = compiled(layer)(x)[0].square().sum()
    assert len(operator._tickets) == 1
    first = torch.autograd.grad(y, weights, retain_graph=True)
    assert not operator._tickets
    assert_same(torch.autograd.grad(y, weights), first)
    assert_same(torch.autograd.grad(layer(x)[0].square().sum(), weights), first)


def test_the_gradient_of_x_outlives_the_layer():
    layer = cw.Recurrent(cw.cells.GRU(I, H), backend="c")
    x = torch.randn(T, B, I, requires_grad=True)
    expected = torch.autograd.grad(layer(x)[0].sum(), x)
    total = compiled(layer)(x)[0].sum()
    del layer
    torch._dynamo.reset()
    gc.collect()
    assert_same(torch.autograd.grad(total, x), expected)


@pytest.mark.parametrize("bias", [True, False])
def test_weights_that_the_graph_computes_are_packed_again(bias):
    """They may lie where others lay before."""
    layer = cw.Recurrent(cw.cells.GRU(I, H, bias=bias), backend="c")

    def scaled(x, factor):
        weights = {name: weight * factor for name, weight in layer.named_parameters()}
        return torch.func.functional_call(layer, weights, (x,))[0]

    x, fast, factors = torch.randn(T, B, I), compiled(scaled), torch.linspace(0.1, 3, 5)
    with torch.no_grad():
        ours = [fast(x, factor) for factor in factors]
        assert_same(ours, [scaled(x, factor) for factor in factors])
    factor = factors[2].requires_grad_()
    assert_same(*(torch.autograd.grad(run(x, factor).sum(), factor) for run in (fast, scaled)))


def test_weights_that_change_in_place_are_packed_again():
    layer = cw.Recurrent(cw.cells.GRU(I, H), backend="c")
    x, fast = torch.randn(T, B, I), compiled(layer)
    with torch.no_grad():
        before = fast(x)[0]
        layer.first_cell.W_hr.data.mul_(2.0)
        after = fast(x)[0]
        assert not torch.equal(after, before)
        assert_same(after, layer(x)[0])


def test_dropout_zeroes_its_share_and_its_gradients_agree():
    layer = cw.Recurrent(cw.cells.LSTM(I, H), 2, dropout=0.5, backend="c")
    x, weights = torch.randn(T, B, I), list(layer.parameters())
    torch.manual_seed(4)
    y = compiled(layer)(x)[0]
    torch.manual_seed(4)
    mask = (torch.rand(T, B, H) < 0.5) * 2.0
    below, above = (cw.Recurrent(cell, backend="c") for cell in layer.cells)
    expected = above(below(x)[0] * mask)[0]
    assert 0 < (mask == 0).sum() < mask.numel()
    assert_same(y, expected)
    assert_same(*(torch.autograd.grad(out.square().sum(), weights) for out in (y, expected)))


def test_a_cell_without_loops_is_unrolled_in_the_graph():
    layer = cw.Recurrent(Sorted(I, H))
    assert "sort" in layer.explain()
    assert_same_gradients(compiled(layer), layer, inputs_of(layer))


def test_a_named_backend_that_cannot_run_says_so():
    layer = cw.Recurrent(cw.cells.GRU(I, H), backend="c").half()
    with pytest.raises(Exception, match=r"float32 or float64 on the CPU; got GRU.*; write backend='auto'"):
        compiled(layer)(torch.randn(T, B, I).half())


def test_the_kernel_of_torch_is_avoided_where_torch_cannot_compile_its_gradients():
    layer = cw.Recurrent(cw.cells.LSTM(I, H), backend="torch")
    assert_same_gradients(compiled(layer), layer, inputs_of(layer, steps=2))


def test_the_operators_keep_the_promises_of_their_schemas():
    for hidden, x_wanted, ragged in (
        (5, True, False),
        (8, False, False),
        (8, True, True),
    ):  # y aligned in memory, or not
        layer = cw.Recurrent(cw.cells.LSTM(I, hidden), backend="c")
        (choice,) = layer.choices()
        if x_wanted:
            choice = cw.kernels.choose(layer.first_cell, "c", torch.randn(1, requires_grad=True))
        name = operator.name_of(choice.entry, layer.first_cell, whole=False)
        x, *states = (one.requires_grad_(x_wanted) for one in inputs_of(layer))
        states = [one[0] for one in states]
        rows = []
        if ragged:
            sizes = torch.arange(B, 0, -1)
            rows = [torch.cat([torch.zeros(1, dtype=torch.int64), sizes.cumsum(0)]), torch.rand(int(sizes.sum())) < 0.3]
            rows[1] = rows[1].to(torch.uint8)
            x = torch.randn(int(sizes.sum()), I, requires_grad=x_wanted)
        arguments = (name, x, states, list(layer.parameters()), rows, True)
        tests = ("test_schema", "test_faketensor")
        also = ("test_autograd_registration",)
        torch.library.opcheck(torch.ops.cellwright.forward.default, arguments, test_utils=(*tests, *also))
        y, last, ticket = torch.ops.cellwright.forward.default(*arguments)
        wanted = [x_wanted] * 3 + [True] * len(arguments[3])
        given = [torch.randn_like(y), [None, torch.randn_like(last[1])], wanted]
        detached = [name, x.detach(), [one.detach() for one in states], [p.detach() for p in arguments[3]], rows]
        torch.library.opcheck(
            torch.ops.cellwright.backward.default, (*detached, [ticket, y.detach()], *given), test_utils=tests
        )


# Export.


@pytest.mark.parametrize("name", ["lstm", "gru without bias", "custom"])
def test_an_exported_layer_equals_itself(name):
    cell, options = CASES[name]
    layer = cw.Recurrent(cell(), backend="c", **options).eval()
    x = inputs_of(layer)[0]
    program = torch.export.export(layer, (x,))
    assert any(node.target is torch.ops.cellwright.forward.default for node in program.graph.nodes)
    found = program.module()
    assert_same(found(x), layer(x))
    assert_same(program.run_decompositions().module()(x), layer(x))
    inputs = [torch.randn_like(x, requires_grad=True), *layer.parameters()], [None, *found.parameters()]
    inputs[1][0] = inputs[0][0]
    grads = [torch.autograd.grad(run(i[0])[0].square().sum(), i) for run, i in zip((layer, found), inputs, strict=True)]
    assert_same(grads[1], grads[0])


LOADING = """
import sys, torch, cellwright

assert "torch._dynamo" not in sys.modules
x, wanted = torch.load(sys.argv[2])
program = torch.export.load(sys.argv[1]).module()
for one, other in zip(program(x), wanted):
    torch.testing.assert_close(one, other)
"""


def test_an_exported_program_holds_all_it_needs(tmp_path):
    """Other lengths and batches, without its layer, and in another process."""
    layer = cw.Recurrent(Leaky(I, H), 2, bidirectional=True, backend="c")
    sizes = ({0: torch.export.Dim("T"), 1: torch.export.Dim("B")},)
    program = torch.export.export(layer, (torch.randn(T, B, I),), dynamic_shapes=sizes)
    x = torch.randn(T + 4, B + 3, I)
    wanted = [one.detach() for one in flat(layer(x))]
    torch.export.save(program, tmp_path / "layer.pt2")
    torch.save((x, wanted), tmp_path / "wanted.pt")
    del layer
    gc.collect()
    assert_same(program.module()(x), wanted)
    names = [tmp_path / "layer.pt2", tmp_path / "wanted.pt"]
    subprocess.run([sys.executable, "-c", LOADING, *map(str, names)], check=True)


@pytest.mark.parametrize("name", list(STRANGERS)[::25])
def test_a_written_step_is_read_as_the_same(name):
    cell = cw.adapt(STRANGERS[name](3, 8), 3, widths(name, 8), output_width(name, 8))
    step = capture(cell, torch.float32)
    again = written.read(written.write(step))
    assert written.write(again) == written.write(step)
    assert str(plan(again, cell.state)) == str(plan(step, cell.state))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"cellwright": 99}', "of format 1; got a cell of format 99; export"),
        ('{"cellwright": 1, "states": ["h; evil"]}', "states without a name"),
        ('{"cellwright": 1, "states": ["h"], "step": "{\\"call\\": [\\"os\\"]}", "title": "", "names": []}', "call"),
        ("GRU(3, 5) 0123 4", "as long as the layers exist that were compiled; got .*; keep the layer"),
    ],
)
def test_a_program_that_cannot_be_run_says_why(text, words):
    with pytest.raises(BackendError, match=words):
        torch.ops.cellwright.forward.default(text, torch.randn(T, B, I), [torch.randn(B, H)], [], [], False)


def test_importing_the_library_leaves_the_compiler_of_torch_alone():
    code = "import sys, cellwright; assert 'torch._dynamo' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.filterwarnings("ignore:The .grad attribute")  # of torch's, where it goes on after a break
@pytest.mark.parametrize(("given", "whole"), [({"resets": RESETS}, True), ({"lengths": [4, 2, 3]}, False)])
def test_ragged_batches_and_resets_compile(given, whole):
    """Resets as one graph; lengths, which decide the shapes of what is run, with a break before it."""
    layer = cw.Recurrent(cw.cells.GRU(3, 5)).double()
    torch.compiler.reset()
    compiled = torch.compile(layer, fullgraph=whole, backend="aot_eager")
    x = torch.randn(4, 3, 3, dtype=torch.float64)
    found = []
    for run in (compiled, layer):
        y, h = run(x, **given)
        found.append([y, h, *torch.autograd.grad((y * y).sum() + h.sum(), list(layer.parameters()))])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, atol=1e-13, rtol=0)
