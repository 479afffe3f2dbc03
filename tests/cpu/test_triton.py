"""Kernels for a GPU, in Triton's interpreter: every cell as step by step, in every layout that steps can have."""

import functools
import os
from types import SimpleNamespace

import pytest
import torch
import torch._dynamo.testing

import cellwright as cw
from cellwright.cells import LIBRARY, LSTM, Cell
from cellwright.errors import BackendError
from cellwright.kernels.triton import run as triton_run
from cellwright.kernels.triton.tiles import Machine, tiles
from cellwright.program import plan
from cellwright.step import capture
from tests.cpu.test_library import drawn
from tests.oracle import CORE, as_function, assert_alike, assert_same, closeness, drawn_inputs, twins

OutOfResources = pytest.importorskip("triton.runtime.errors").OutOfResources
pytestmark = pytest.mark.filterwarnings("ignore:.*encountered in:RuntimeWarning")  # in columns past the last

T, B, I, H = 4, 3, 3, 5
SHARE = 1e-10
SEVERAL = ("lstm", "gru-reset-before", "gru-layernorm", "nas")  # one pass a step, two, reductions, many products


def twins_of(name):
    torch.manual_seed(3)
    return twins(drawn(name), backend="triton")


def given(layer, steps=T, rows=B):
    """x, positive first states, as those that are divided by have to be, and the parameters."""
    cell = layer.first_cell
    x = torch.rand(steps, rows, cell.input_size, dtype=torch.float64)
    states = [torch.rand(1, rows, size, dtype=torch.float64) + 0.5 for size in cell.state_sizes]
    return [x, *states, *layer.parameters()]


def assert_twins(name, **sizes):
    fused, plain = twins_of(name)
    assert [choice.backend for choice in fused.choices()] == ["triton"]
    assert_same(as_function(fused), as_function(plain), given(fused, **sizes), atol=SHARE)


@pytest.mark.parametrize("name", LIBRARY)
def test_every_cell_equals_step_by_step_with_all_gradients(name):
    assert_twins(name)


@pytest.mark.parametrize(("steps", "rows"), [(1, 1), (2, 17), (7, 2)])
@pytest.mark.parametrize("name", SEVERAL)
def test_any_number_of_steps_and_rows(name, steps, rows):
    assert_twins(name, steps=steps, rows=rows)


@pytest.mark.parametrize("processors", [2, 3])
@pytest.mark.parametrize("name", SEVERAL)
def test_columns_are_shared_by_any_number_of_programs(monkeypatch, name, processors):
    monkeypatch.setattr("cellwright.kernels.triton.tiles.SMALL", 0)
    monkeypatch.setattr("cellwright.kernels.triton.tiles.LEAST_COLUMNS", 2)
    monkeypatch.setattr(triton_run, "machine", lambda device: Machine(processors, persistent=False))
    assert_twins(name)


@pytest.mark.parametrize("held", [True, False])
@pytest.mark.parametrize("name", SEVERAL)
def test_one_program_runs_all_steps_in_one_launch(monkeypatch, name, held):
    """As on a GPU, with its weights on the chip; programs that wait for each other are for tests/gpu."""
    launches = []

    def laid_out(*arguments):
        found = tiles(*arguments)
        timed = arguments[1] in ("forward", "backward")
        return found._replace(persistent=True, held=held) if timed and found.parts == 1 else found

    real = triton_run.Launched._launch
    monkeypatch.setattr(triton_run, "tiles", laid_out)
    monkeypatch.setattr(
        triton_run.Launched, "_launch", lambda self, *given: launches.append(given[0]) or real(self, *given)
    )
    assert_twins(name)
    assert launches.count("forward") == launches.count("backward") == 1


@pytest.mark.parametrize("name", CORE)
def test_ragged_batches_and_resets(name):
    fused, plain = twins_of(name)
    x = torch.randn(6, 4, I, dtype=torch.float64)
    for options in ({"lengths": [2, 6, 3, 1]}, {"resets": torch.rand(6, 4) < 0.4}):
        assert_same(
            lambda x, *w, layer=fused, o=options: torch.func.functional_call(layer, names(layer, w), (x,), o),
            lambda x, *w, layer=plain, o=options: torch.func.functional_call(layer, names(layer, w), (x,), o),
            [x, *fused.parameters()],
            atol=SHARE,
        )


def names(layer, weights):
    return dict(zip((name for name, _ in layer.named_parameters()), weights, strict=True))


def test_layers_and_directions():
    torch.manual_seed(0)
    fused, plain = twins(LSTM(I, H).double(), backend="triton", num_layers=2, bidirectional=True)
    assert_same(as_function(fused), as_function(plain), drawn_inputs(fused, T, B, torch.float64), atol=SHARE)


@pytest.mark.parametrize("name", CORE)
def test_float32(name):
    fused, plain = twins(drawn(name).float(), backend="triton")
    share = closeness(torch.float32, T, I + H)
    assert_alike(as_function(fused), as_function(plain), drawn_inputs(fused, T, B, torch.float32), share)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", CORE)
def test_half_types_are_computed_in_float32(name, dtype):
    """Against float32 on the same numbers: only what is kept is rounded, once a step."""
    torch.manual_seed(0)
    half = cw.Recurrent(drawn(name).to(dtype), backend="triton")
    single = cw.Recurrent(drawn(name).to(dtype).float(), backend="eager")
    single.load_state_dict(half.state_dict())
    x = torch.randn(T, B, I).to(dtype)
    grads = []
    for layer, inputs in ((half, x), (single, x.float())):
        inputs.requires_grad_()
        y, last = layer(inputs)
        ends = last if isinstance(last, tuple) else (last,)
        (y.float().sin().sum() + sum(one.float().sum() for one in ends)).backward()
        grads.append([y, *ends, inputs.grad, *(p.grad for p in layer.parameters())])
    share = 4 * torch.finfo(dtype).eps
    for one, other in zip(*grads, strict=True):
        assert one.dtype == dtype
        assert (one.float() - other).abs().max() <= share * max(1.0, other.abs().max().item())


def test_autocast_changes_nothing():
    layer = cw.Recurrent(LIBRARY["gru-layernorm"](I, H), backend="triton")
    x = torch.randn(T, B, I)
    wanted = torch.autograd.grad(layer(x)[0].sin().sum(), layer.parameters())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = torch.autograd.grad(layer(x)[0].sin().sum(), layer.parameters())
    assert all(map(torch.equal, found, wanted))


def test_nothing_is_kept_without_gradients():
    layer = cw.Recurrent(LSTM(I, H), backend="triton")
    x = torch.randn(T, B, I)
    with torch.no_grad():
        y, _ = layer(x)
    torch.testing.assert_close(y, layer(x)[0].detach(), rtol=0, atol=0)


def test_two_runs_give_the_same_bits_and_backward_runs_twice():
    layer = cw.Recurrent(LSTM(I, H), backend="triton")
    x = torch.randn(T, B, I, requires_grad=True)
    y, _ = layer(x)
    first, again = (torch.autograd.grad(y.sin().sum(), [x, *layer.parameters()], retain_graph=True) for _ in range(2))
    assert all(map(torch.equal, first, again))


class Running(Cell):
    """A sum over columns in order, a largest and a smallest value: what no cell of the library has."""

    state = ("h",)
    gates = {"g": "candidate"}

    def __init__(self, input_size, hidden_size):
        super().__init__(input_size, hidden_size)
        self.add_gates()

    def step(self, x, h):
        a = x @ self.W_xg + h @ self.W_hg + self.b_g
        s = torch.cumsum(a, 1)
        return torch.tanh(s - a.amax(1, keepdim=True) + a.amin(1, keepdim=True))


def test_running_sums_and_extremes_over_columns():
    torch.manual_seed(0)
    fused, plain = twins(Running(I, H).double(), backend="triton")
    assert_same(as_function(fused), as_function(plain), given(fused), atol=SHARE)


def test_without_a_gpu_and_without_the_interpreter_it_says_so(monkeypatch):
    monkeypatch.setitem(os.environ, "TRITON_INTERPRET", "0")
    with pytest.raises(BackendError) as told:
        cw.Recurrent(LSTM(I, H), backend="triton")(torch.randn(T, B, I))
    assert str(told.value) == (
        "backend 'triton' runs cells whose step can be traced and planned, on a GPU, with the package "
        "triton; got LSTM(3, 5): kernels for a GPU do not run on cpu; Triton's interpreter does that, with "
        "TRITON_INTERPRET=1; "
        "write backend='auto' or backend='eager'"
    )


def test_without_the_package_it_says_so(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(BackendError, match="the package triton is not installed: pip install triton"):
        cw.Recurrent(LSTM(2, 3), backend="triton")(torch.randn(T, B, 2))


@functools.cache
def planned(name):
    cell = LIBRARY[name](64, 512)
    return plan(capture(cell, torch.float32), cell.state)


@pytest.mark.parametrize("rows", [1, 16, 20, 64, 100, 500])
@pytest.mark.parametrize("name", SEVERAL)
def test_a_layout_covers_all_and_fits_the_machine(name, rows):
    program = planned(name)
    for stage in ("forward", "backward"):
        tile = tiles(program, stage, rows, 2, Machine(132, persistent=True))
        assert tile.rows * tile.groups >= rows
        for loop, own in zip(program.stages[stage], tile.columns, strict=True):
            assert own * tile.parts >= loop.width
            assert own * tile.rows * sum(len(product.slots) for product in loop.products) <= 64 * 64
        assert tile.programs <= 132 or not tile.persistent


class Crowded:
    """A kernel whose weights do not fit on the chip."""

    def __init__(self):
        self.tried = []

    def __getitem__(self, grid):
        return self.start

    def start(self, HELD, **given):
        self.tried.append(HELD)
        if HELD:
            raise OutOfResources(300_000, 232_448, "shared memory")


def test_a_kernel_that_finds_no_room_fetches_its_weights_at_every_step_from_then_on():
    launched = triton_run.Launched(planned("lstm"), "LSTM")
    launched.module = SimpleNamespace(forward=Crowded())
    tile = tiles(launched.program, "forward", B, 4, Machine(132, True))
    assert tile.held
    for _ in range(2):
        launched._start("forward", tile)
    assert launched.module.forward.tried == [True, False, False]


def test_how_much_a_program_keeps_follows_from_the_chip():
    program = planned("lstm")
    roomy, tight = (tiles(program, "forward", 16, 4, Machine(64, True, chip)).held for chip in (227 * 1024, 48 * 1024))
    assert (roomy, tight) == (True, False)


@pytest.mark.parametrize(
    ("name", "options"), [("lstm", {"bidirectional": True}), ("gru-reset-before", {}), ("lstmp", {})]
)
def test_under_torch_compile_they_are_operators_too(name, options):
    torch._dynamo.reset()
    graphs = torch._dynamo.testing.CompileCounterWithBackend("aot_eager")
    layer = cw.Recurrent(drawn(name), backend="triton", **options)
    x, *_ = inputs = [one.requires_grad_() for one in (given(layer)[0], *layer.parameters())]

    def results(run):
        y, last = run(x)
        outputs = [y, *(last if isinstance(last, tuple) else (last,))]
        return [*outputs, *torch.autograd.grad([one.sin().sum() for one in outputs], inputs)]

    for one, other in zip(results(torch.compile(layer, fullgraph=True, backend=graphs)), results(layer), strict=True):
        torch.testing.assert_close(one, other, atol=SHARE, rtol=0)
    assert "cellwright.forward" in graphs.graphs[0].code


def test_what_is_exported_holds_the_equations_which_any_machine_runs():
    layer = cw.Recurrent(drawn("gru"), backend="triton")
    x = given(layer)[0]
    program = torch.export.export(layer, (x,))
    assert "cellwright" not in program.graph_module.code
    torch.testing.assert_close(program.module()(x)[0], layer(x)[0], atol=SHARE, rtol=0)
