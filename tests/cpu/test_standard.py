"""RNN, GRU and LSTM against torch.nn's: a grid over all options, wrong inputs, and what people do with modules."""

import copy
import io
import itertools
import pickle
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.utils import clip_grad_norm_, parametrizations
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence

import cellwright as cw
from cellwright.cells import stacked
from cellwright.errors import SettingError
from tests.cpu.layers import same
from tests.oracle import flat

KINDS = {
    "rnn": (cw.RNN, nn.RNN, {}),
    "relu": (cw.RNN, nn.RNN, {"nonlinearity": "relu"}),
    "gru": (cw.GRU, nn.GRU, {}),
    "lstm": (cw.LSTM, nn.LSTM, {}),
    "projected": (cw.LSTM, nn.LSTM, {"proj_size": 2}),
}
T, B, I, H = 5, 4, 3, 4
LENGTHS = [5, 2, 3, 1]


def twins(name, backend="auto", dtype=torch.float64, **options):
    """Ours and torch's with the same weights."""
    ours, theirs, settings = KINDS[name]
    one, other = (
        ours(I, H, dtype=dtype, backend=backend, **settings, **options),
        theirs(I, H, dtype=dtype, **settings, **options),
    )
    one.load_state_dict(other.state_dict())
    return one, other


def gradients(layer, x, hx, pack):
    """Results, and the gradients of x, of the states and of all weights."""
    x = x.clone().requires_grad_()
    hx = None if hx is None else tuple(s.clone().requires_grad_() for s in hx)
    given = None if hx is None else hx[0] if len(hx) == 1 else hx
    y, last = layer(pack(x), given)
    parts = [y.data if isinstance(y, PackedSequence) else y, *flat(last)]
    torch.manual_seed(0)
    total = sum((one * torch.randn_like(one)).sum() for one in parts)
    return parts + list(torch.autograd.grad(total, [x, *(hx or ()), *layer.parameters()]))


def states(name, layers, both, batch):
    torch.manual_seed(2)
    rows = (layers * (2 if both else 1), *batch)
    widths = {"lstm": (H, H), "projected": (2, H)}.get(name, (H,))
    return tuple(torch.randn(*rows, width, dtype=torch.float64) for width in widths)


@pytest.mark.parametrize("backend", ["c", "eager"])
@pytest.mark.parametrize("name", KINDS)
def test_the_grid_of_options(name, backend):
    for layers, both, bias, first in itertools.product((1, 2), (False, True), (True, False), (False, True)):
        ours, theirs = twins(name, backend, num_layers=layers, bidirectional=both, bias=bias, batch_first=first)
        x = torch.randn(*((B, T) if first else (T, B)), I, dtype=torch.float64)
        inputs = {
            "batch": (x, (B,), lambda x: x),
            "alone": (x[:, 0] if not first else x[0], (), lambda x: x),
            "packed": (x, (B,), lambda x, f=first: pack_padded_sequence(x, LENGTHS, f, enforce_sorted=False)),
            "sorted": (x, (B,), lambda x, f=first: pack_padded_sequence(x, sorted(LENGTHS)[::-1], f)),
        }
        for value, batch, pack in inputs.values():
            for hx in (None, states(name, layers, both, batch)):
                same(gradients(ours, value, hx, pack), gradients(theirs, value, hx, pack))


@pytest.mark.parametrize("name", KINDS)
def test_names_shapes_and_words_are_torchs(name):
    ours, theirs = twins(name, num_layers=2, bidirectional=True, dropout=0.25)
    assert repr(ours) == repr(theirs)
    assert [(n, p.shape) for n, p in ours.named_parameters()] == [(n, p.shape) for n, p in theirs.named_parameters()]
    assert [[p.shape for p in line] for line in ours.all_weights] == [
        [p.shape for p in line] for line in theirs.all_weights
    ]
    ours.flatten_parameters()
    torch.manual_seed(3)
    made = KINDS[name][1](I, H, 2, **KINDS[name][2])
    torch.manual_seed(3)
    same(list(KINDS[name][0](I, H, 2, **KINDS[name][2]).parameters()), list(made.parameters()), atol=0)


WRONG = {
    "columns": lambda layer: layer(torch.zeros(T, B, I + 1, dtype=torch.float64)),
    "dimensions": lambda layer: layer(torch.zeros(1, T, B, I, dtype=torch.float64)),
    "one dimension": lambda layer: layer(torch.zeros(I, dtype=torch.float64)),
    "type": lambda layer: layer(torch.zeros(T, B, I, dtype=torch.float32)),
    "a state's batch": lambda layer: layer(torch.zeros(T, B, I, dtype=torch.float64), wrong(layer, (1, B + 1, H))),
    "a state's layers": lambda layer: layer(torch.zeros(T, B, I, dtype=torch.float64), wrong(layer, (2, B, H))),
    "a state without batch": lambda layer: layer(torch.zeros(T, B, I, dtype=torch.float64), wrong(layer, (1, H))),
    "a state with batch": lambda layer: layer(torch.zeros(T, I, dtype=torch.float64), wrong(layer, (1, B, H))),
}


def wrong(layer, shape):
    h = torch.zeros(shape, dtype=torch.float64)
    return (h, h) if layer.mode == "LSTM" else h


@pytest.mark.parametrize("what", WRONG)
@pytest.mark.parametrize("name", ["rnn", "gru", "lstm"])
def test_wrong_inputs_raise_what_torch_raises(name, what):
    raised = []
    for layer in twins(name):
        with pytest.raises(Exception) as caught:  # noqa: PT011
            WRONG[what](layer)
        raised.append((type(caught.value), str(caught.value)))
    assert raised[0] == raised[1]


@pytest.mark.parametrize(
    ("make", "kind"),
    [
        (lambda m: m.RNN(I, H, nonlinearity="sin"), ValueError),
        (lambda m: m.GRU(I, H, proj_size=2), ValueError),
        (lambda m: m.LSTM(I, H, proj_size=H), ValueError),
        (lambda m: m.LSTM(I, 0), ValueError),
        (lambda m: m.LSTM(I, H, 0), ValueError),
        (lambda m: m.LSTM(I, "4"), TypeError),
        (lambda m: m.LSTM(I, H, dropout=2), ValueError),
    ],
)
def test_wrong_settings_raise_what_torch_raises(make, kind):
    for module in (cw, nn):
        with pytest.raises(kind):
            make(module)


@pytest.mark.parametrize("name", ["gru", "lstm"])
def test_what_people_do_with_modules(name):
    ours, theirs = twins(name)
    x = torch.randn(T, B, I, dtype=torch.float64)
    wanted = theirs(x)[0]
    file = io.BytesIO()
    torch.save(ours, file)
    file.seek(0)
    for other in (copy.deepcopy(ours), pickle.loads(pickle.dumps(ours)), torch.load(file, weights_only=False)):
        same([other(x)[0]], [wanted])
    same([ours.float()(x.float())[0].double()], [wanted], atol=1e-5)
    same([ours.double().to("cpu")(x)[0].detach()], [theirs.float().double()(x)[0].detach()])
    assert ours.half()(x.half())[0].dtype == torch.float16  # on PyTorch's own kernels


@pytest.mark.parametrize("name", KINDS)
def test_a_training_step_by_step_as_torchs(name):
    """Gradients of two batches added up, clipped in place, and taken."""
    pair = twins(name, num_layers=2)
    x = torch.randn(T, B, I, dtype=torch.float64)
    norms = []
    for layer in pair:
        optimizer = torch.optim.AdamW(layer.parameters(), fused=True)
        for _ in range(4):
            optimizer.zero_grad()
            for batch in (x, x.flip(0)):
                layer(batch)[0].square().sum().backward()
            norms.append(clip_grad_norm_(layer.parameters(), 0.1))
            optimizer.step()
    same(norms[:4], norms[4:], atol=1e-10)
    same(list(pair[0].parameters()), list(pair[1].parameters()), atol=1e-9)


def test_parametrized_weights():
    ours, theirs = twins("lstm")
    x = torch.randn(T, B, I, dtype=torch.float64)
    wanted = theirs(x)[0]
    parametrizations.weight_norm(ours, "weight_hh_l0")
    same([ours(x)[0]], [wanted])
    ours.parametrizations.weight_hh_l0.original0.data.mul_(2)
    assert not torch.allclose(ours(x)[0], wanted)
    ours(x)[0].sum().backward()
    assert ours.parametrizations.weight_hh_l0.original1.grad.abs().sum() > 0


@pytest.mark.parametrize("name", ["rnn", "gru", "lstm"])
def test_compiled_whole_with_torch_compile(name):
    ours, theirs = twins(name, num_layers=2, bidirectional=True)
    compiled = torch.compile(ours, fullgraph=True, backend="aot_eager")
    for size in (B, B + 2):
        x = torch.randn(T, size, I, dtype=torch.float64)
        same(gradients(compiled, x, None, lambda x: x)[0:1], [theirs(x)[0]])


@pytest.mark.parametrize("how", ["compiled", "exported", "exported strictly"])
@pytest.mark.parametrize("name", ["rnn", "gru", "lstm"])
def test_a_layer_that_never_ran_is_compiled_and_exported(name, how, monkeypatch):
    monkeypatch.setattr(stacked, "_templates", {})  # as in a new process
    ours, theirs = twins(name, dtype=torch.float32)
    x = torch.randn(T, B, I)
    if how == "compiled":
        made = torch.compile(ours, fullgraph=True, backend="aot_eager")
    else:
        made = torch.export.export(ours.eval(), (x,), strict=how == "exported strictly").module()
    same([made(x)[0]], [theirs(x)[0]], atol=1e-5)


@pytest.mark.parametrize("name", ["gru", "lstm"])
def test_packed_sequences_are_compiled_by_layers_that_never_ran(name, monkeypatch):
    monkeypatch.setattr(stacked, "_templates", {})
    ours, theirs = twins(name, num_layers=2, dtype=torch.float32)
    torch._dynamo.reset()
    x = nn.utils.rnn.pack_padded_sequence(torch.randn(T, B, I), [T - place for place in range(B)])
    same([torch.compile(ours, backend="eager")(x)[0].data], [theirs(x)[0].data], atol=1e-5)


def test_shapes_alone_go_through_a_layer_in_equations():
    with FakeTensorMode(), torch.no_grad():
        y, h = cw.GRU(I, 5, backend="eager")(torch.randn(T, B, I))
    assert (y.shape, h.shape) == ((T, B, 5), (1, B, 5))


def test_exported_with_free_lengths_and_batches():
    ours, theirs = twins("lstm", dtype=torch.float32)
    free = {"input": {0: torch.export.Dim("T", min=2, max=64), 1: torch.export.Dim("B", min=2, max=64)}}
    program = torch.export.export(ours.eval(), (torch.randn(T, B, I),), dynamic_shapes=free)
    for size in ((3, 7), (9, 2)):
        x = torch.randn(*size, I)
        same([program.module()(x)[0]], [theirs(x)[0]], atol=1e-5)


def test_wrapped_in_distributed_data_parallel(tmp_path):
    ours, theirs = twins("lstm", num_layers=2)
    torch.distributed.init_process_group("gloo", f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        wrapped = nn.parallel.DistributedDataParallel(ours)
        x = torch.randn(T, B, I, dtype=torch.float64)
        same(gradients(wrapped, x, None, lambda x: x), gradients(theirs, x, None, lambda x: x))
    finally:
        torch.distributed.destroy_process_group()


def test_several_threads_at_once():
    ours, theirs = twins("gru", num_layers=2)
    xs = [torch.randn(T + place % 3, 1 + place % 4, I, dtype=torch.float64) for place in range(24)]
    with ThreadPoolExecutor(6) as pool, torch.no_grad():
        found = list(pool.map(lambda x: torch.no_grad()(ours)(x)[0], xs * 5))
        trained = list(pool.map(lambda x: gradients(ours, x, None, lambda x: x)[0], xs))
        same(found, [theirs(x)[0] for x in xs] * 5)
        same(trained, [theirs(x)[0] for x in xs])


def test_gradients_of_every_sample():
    ours, _ = twins("gru")
    x = torch.randn(B, T, I, dtype=torch.float64)
    weights = {name: weight.detach() for name, weight in ours.named_parameters()}

    def loss(weights, one):
        return torch.func.functional_call(ours, weights, (one.unsqueeze(1),))[0].square().sum()

    found = torch.func.vmap(torch.func.grad(loss), (None, 0))(weights, x)
    for place in range(B):
        wanted = torch.autograd.grad(ours(x[place].unsqueeze(1))[0].square().sum(), list(ours.parameters()))
        same([one[place] for one in found.values()], wanted, atol=1e-9)


@pytest.mark.parametrize("name", ["gru", "lstm"])
def test_under_autocast_the_loops_run_in_the_type_of_the_weights(name):
    ours, _ = twins(name, dtype=torch.float32)
    layer = cw.Recurrent(cw.cells.GRU(I, H))
    x = torch.randn(T, B, I)
    wanted, of_layer = ours(x)[0], layer(x)[0]
    with torch.autocast("cpu", torch.bfloat16):
        for given in (x, x.bfloat16().float()):
            assert ours(given)[0].dtype == layer(given)[0].dtype == torch.float32
        same([ours(x)[0], layer(x)[0]], [wanted, of_layer], atol=0)
        same([ours(x.bfloat16())[0], layer(x.bfloat16())[0]], [wanted, of_layer], atol=2e-2)
        y = ours(nn.functional.linear(x, torch.eye(I)))[0]  # a linear layer's bfloat16
    y.sum().backward()
    assert ours.weight_ih_l0.grad.dtype == torch.float32


def test_beyond_torch():
    before = cw.GRU(I, H, 2, reset_after=False, dtype=torch.float64)
    x = torch.randn(T, B, I, dtype=torch.float64)
    plain = cw.GRU(I, H, 2, reset_after=False, dtype=torch.float64, backend="eager")
    plain.load_state_dict(before.state_dict())
    same(gradients(before, x, None, lambda x: x), gradients(plain, x, None, lambda x: x))
    assert not torch.allclose(before(x)[0], twins_of(before)(x)[0])
    lstm = cw.LSTM(I, H, 2, forget_bias=1.0, orthogonal=True, learn_state=True, dtype=torch.float64)
    assert torch.equal((lstm.bias_ih_l1 + lstm.bias_hh_l1)[H : 2 * H], torch.ones(H, dtype=torch.float64))
    block = lstm.weight_hh_l0[H : 2 * H]
    same([block @ block.T], [torch.eye(H, dtype=torch.float64)])
    lstm(x)[0].sum().backward()
    assert lstm.h0.grad.shape == (2, H)
    with torch.no_grad():
        lstm.c0.normal_()
    given = tuple(s.unsqueeze(1).expand(-1, B, -1) for s in (lstm.h0, lstm.c0))
    same(flat(lstm(x)), flat(lstm(x, given)))
    assert lstm(x[:, 0])[0].shape == (T, H)


def twins_of(layer):
    other = nn.GRU(I, H, 2, dtype=torch.float64)
    other.load_state_dict(layer.state_dict())
    return other


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (
            lambda: cw.LSTM(I, H, backend="fast"),
            "backend is one of auto, c, triton, torch, eager; got 'fast'; write backend='auto'",
        ),
        (
            lambda: cw.LSTM(I, H, bias=False, forget_bias=1),
            "forget_bias is that of a layer with biases; got bias=False",
        ),
        (
            lambda: cw.GRU(I, H, reset_after=False, backend="torch"),
            "torch.nn's GRU resets after the product; got reset_",
        ),
        (lambda: cw.RNN(I, H, proj_size=2), "proj_size is a setting of LSTM; got RNN with proj_size=2; leave it out"),
    ],
)
def test_what_is_refused_says_why(make, words):
    with pytest.raises(SettingError) as caught:
        make()
    assert words in str(caught.value)


@pytest.mark.parametrize(("kind", "options"), [(cw.LSTM, {"proj_size": 3}), (cw.GRU, {}), (cw.RNN, {})])
@pytest.mark.parametrize("both", [False, True])
def test_layers_of_different_sizes_equal_layers_of_one_size_each(kind, options, both):
    layer = kind(4, [7, 5, 6], 3, bidirectional=both, **options).double()
    x = torch.randn(4, 2, 4, dtype=torch.float64)
    y, state = layer(x)
    states, wanted = state if kind is cw.LSTM else (state,), x
    for number, hidden in enumerate((7, 5, 6)):
        alone = getattr(torch.nn, kind.__name__)(wanted.shape[-1], hidden, bidirectional=both, **options).double()
        for name, weight in alone.named_parameters():
            weight.data.copy_(getattr(layer, name.replace("l0", f"l{number}")))
        wanted, last = alone(wanted)
        for one, other in zip(states, last if kind is cw.LSTM else (last,), strict=True):
            torch.testing.assert_close(one[number], other, atol=1e-12, rtol=0)
    torch.testing.assert_close(y, wanted, atol=1e-12, rtol=0)
    carried = layer(x, state)[0]
    assert not torch.equal(carried, y)


def test_layers_of_different_sizes_are_refused_where_they_make_no_sense():
    with pytest.raises(
        cw.errors.SettingError, match=r"one for each of num_layers=2; got \[3\]; write num_layers=1 with 1"
    ):
        cw.LSTM(4, [3], 2)
    with pytest.raises(cw.errors.SettingError, match="first states are learned where all layers have one size"):
        cw.GRU(4, [3, 5], 2, learn_state=True)


@pytest.mark.parametrize("kind", [cw.RNN, cw.GRU, cw.LSTM])
def test_gradients_of_weights_come_out_as_parameters_are(kind):
    """Gates in their order, and not transposed: else each is put together anew, and copied again by autograd."""
    layer = kind(3, 16, backend="c")
    weights = list(layer.parameters())
    grads = torch.autograd.grad(layer(torch.randn(4, 2, 3))[0].sum(), weights)
    assert [grad.stride() for grad in grads] == [weight.stride() for weight in weights]
    (choice,) = layer.choices()
    assert {"weight_ih", "weight_hh"} <= set(choice.entry.fused.gradients._places)


def test_what_runs_a_layer_is_told():
    told = cw.GRU(I, H, 2, bidirectional=True).explain()
    assert [line.split(":")[0] for line in told.splitlines() if line[0] != " "] == [
        f"layer {layer}, {way}" for layer in (0, 1) for way in ("forward", "backward")
    ]
    assert told.count("  backend c; on the CPU it is the fastest") == 4
    assert "r = sigmoid(xr_0 + hr_0)" in told
    assert "StackedGRU" in cw.GRU(I, H).source()
    assert cw.GRU(I, H, backend="eager").source() == ""
    assert "backend torch; for torch.float16 on cpu: PyTorch's own LSTM runs it" in cw.LSTM(I, H).half().explain()
    assert "backend c" in cw.GRU(I, H, reset_after=False, backend="auto").explain()
