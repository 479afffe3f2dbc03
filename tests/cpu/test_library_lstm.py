"""LSTMs and other cells with a memory: equal to each other where mathematics says so, and fused as step by step."""

import numpy as np
import pytest
import torch
from torch import nn

import cellwright as cw
from cellwright.cells import CLASSES, GRU, LIBRARY, LSTM, RNN
from cellwright.cells.library import elapsed, lstm, lstm_connections, lstm_reduced, memory, oscillators, peephole, typed
from tests.oracle import as_function, assert_same, drawn_inputs, tolerance, twins

T, B, I, H = 4, 2, 3, 5
F64 = torch.float64
FAMILIES = (lstm, peephole, lstm_connections, lstm_reduced, memory, oscillators, typed, elapsed)
CELLS = {
    **{name: made for family in FAMILIES for name, made in family.CELLS.items() if name != "lstm"},
    "lstmp without peepholes": lambda i, h: lstm.LSTMP(i, h, peepholes=False),
    "lstm without anything": lambda i, h: peephole.PeepholeLSTM(i, h, without=peephole.PARTS),
    "slstm, exp": lambda i, h: memory.SLSTM(i, h, forget="exp"),
    "nas with biases": lambda i, h: memory.NASCell(i, h, bias=True),
    "scrn of 4": lambda i, h: memory.SCRN(i, h, context_size=4),
    "mc-lstm": lambda i, h: memory.MCLSTM(i + 1, h, mass_size=2),
    "gru-d": lambda i, h: elapsed.GRUD(6, h, mean=[0.5, -1.0]),
}


def drawn(cell):
    """The cell in float64 with weights far from each other and from where they begin."""
    for parameter in cell.double().parameters():
        nn.init.normal_(parameter, 0.0, 0.5)
    return cell


@pytest.mark.parametrize("name", sorted(set(CELLS) - set(LIBRARY)))  # the others: test_library.py
def test_fused_is_step_by_step(name):
    fused, plain = twins(drawn(CELLS[name](I, H)))
    inputs = drawn_inputs(fused, T, B, F64)
    if "n" in fused.first_cell.state:
        place = 1 + fused.first_cell.state.index("n")
        inputs[place] = 0.5 + inputs[place].abs()  # a sum of weights, by which is divided
    assert_same(as_function(fused), as_function(plain), inputs, atol=tolerance(F64, T))


@pytest.mark.parametrize("name", CELLS)
def test_every_weight_learns_from_where_it_begins(name):
    cell = CELLS[name](I, H)
    layer = cw.Recurrent([cell], backend="eager")
    y, _ = layer(torch.rand(8, 4, cell.input_size))
    (y * torch.randn_like(y)).sum().backward()
    for parameter_name, parameter in cell.named_parameters():
        assert parameter.grad.isfinite().all(), parameter_name
        assert parameter.grad.any(), parameter_name


# Equations between cells: each a function that gives what must be equal, on the left and on the right.


def made(kind, *sizes, weights_of=None, **options):
    """A cell of random weights, but for those that another cell has too."""
    cell = drawn(kind(*(sizes or (I, H)), **options))
    if weights_of is not None:
        shared = weights_of.state_dict()
        cell.load_state_dict({name: shared.get(name, value) for name, value in cell.state_dict().items()})
    return cell


def put(cell, **values):
    """Set weights to numbers or tensors."""
    with torch.no_grad():
        for name, value in values.items():
            getattr(cell, name).copy_(torch.as_tensor(value, dtype=F64))
    return cell


def shut(gate, bias, *sources):
    """The settings with which a gate is where `bias` puts it, whatever it sees."""
    return {**{f"{source}{gate}": 0.0 for source in sources}, f"b_{gate}": bias}


def x_of(columns=I):
    return torch.randn(T, B, columns, dtype=F64)


def outputs(cell, x):
    """y (T, B, H) from a state of zeros."""
    return cw.Recurrent([cell], backend="eager")(x)[0]


def alike(left, right, x=None):
    x = x_of() if x is None else x
    return outputs(left, x), outputs(right, x)


def peepholes_of_zero():
    plain = made(LSTM)
    return alike(put(made(peephole.PeepholeLSTM, weights_of=plain), p_i=0.0, p_f=0.0, p_o=0.0), plain)


def no_peepholes():
    plain = made(LSTM)
    return alike(made(peephole.PeepholeLSTM, weights_of=plain, without=("peepholes",)), plain)


def no_gate(gate, words):
    def equation():
        whole = put(made(peephole.PeepholeLSTM), **shut(gate, 100.0, "W_x", "W_h", "p_"))  # sigmoid(100) = 1
        return alike(made(peephole.PeepholeLSTM, weights_of=whole, without=(words,)), whole)

    return equation


def coupled():
    """1 - sigmoid(a) = sigmoid(-a)."""
    whole = made(peephole.PeepholeLSTM)
    put(whole, W_xf=-whole.W_xi, W_hf=-whole.W_hi, p_f=-whole.p_i, b_f=-whole.b_i)
    return alike(made(peephole.PeepholeLSTM, weights_of=whole, coupled=True), whole)


def no_input_activation():
    """In the first step, with an open input gate, c is the candidate."""
    plain = put(made(LSTM), **shut("i", 100.0, "W_x", "W_h"))
    linear = made(peephole.PeepholeLSTM, weights_of=plain, without=("peepholes", "input activation"))
    x, zeros = x_of()[0], torch.zeros(B, H, dtype=F64)
    return torch.tanh(linear(x, zeros, zeros)[1]), plain(x, zeros, zeros)[1]


def no_output_activation():
    """In the first step, with an open output gate, h is the cell state."""
    plain = put(made(LSTM), **shut("o", 100.0, "W_x", "W_h"))
    linear = made(peephole.PeepholeLSTM, weights_of=plain, without=("peepholes", "output activation"))
    x, zeros = x_of()[0], torch.zeros(B, H, dtype=F64)
    return torch.tanh(linear(x, zeros, zeros)[0]), plain(x, zeros, zeros)[0]


def gates_that_do_not_see_gates():
    whole = made(peephole.PeepholeLSTM)
    nothing = {f"W_{source}{gate}": 0.0 for source in "ifo" for gate in "ifo"}
    return alike(put(made(peephole.FullGateLSTM, weights_of=whole), **nothing), whole)


def gates_that_see_the_forget_gate_before():
    """It stands at sigmoid(b_f) from the second step on: a shift of the bias, if the first step is left out."""
    cell = put(made(peephole.FullGateLSTM), **shut("f", 0.7, "W_x", "W_h", "W_i", "W_f", "W_o", "p_"))
    unseen = {f"W_{source}{gate}": 0.0 for source in "io" for gate in "ifo"}
    put(cell, **unseen)
    whole = made(peephole.PeepholeLSTM, weights_of=cell)
    f = torch.sigmoid(cell.b_f)
    put(whole, b_i=cell.b_i + f @ cell.W_fi, b_o=cell.b_o + f @ cell.W_fo)
    x, zeros = x_of()[0], torch.zeros(B, H, dtype=F64)
    return cell(x, zeros, zeros, zeros, f.expand(B, H), zeros)[:2], whole(x, zeros, zeros)


def first_lstm():
    """2 sigmoid(a) - 1 = tanh(a / 2): the cell of 1997 is one of today whose candidate sees halves, and stores them."""
    today = made(peephole.PeepholeLSTM, without=("forget gate", "peepholes"))
    first = made(peephole.LSTM1997, weights_of=today)
    return alike(put(first, W_xg=2 * today.W_xg, W_hg=2 * today.W_hg, b_g=2 * today.b_g), today)


def identity_projection():
    whole = made(peephole.PeepholeLSTM)
    return alike(put(made(lstm.LSTMP, weights_of=whole, proj_size=H), W_mh=torch.eye(H)), whole)


def projection_of_torch():
    cell = made(lstm.LSTMP, proj_size=2, peepholes=False)
    theirs = nn.LSTM(I, H, proj_size=2).double()
    with torch.no_grad():
        theirs.weight_ih_l0.copy_(torch.cat([getattr(cell, f"W_x{gate}").T for gate in "ifgo"]))
        theirs.weight_hh_l0.copy_(torch.cat([getattr(cell, f"W_h{gate}").T for gate in "ifgo"]))
        theirs.bias_ih_l0.copy_(torch.cat([getattr(cell, f"b_{gate}") for gate in "ifgo"]))
        theirs.bias_hh_l0.zero_()
        theirs.weight_hr_l0.copy_(cell.W_mh.T)
    x = x_of()
    return outputs(cell, x), theirs(x)[0]


def layer_norm_by_hand():
    """One step from a state, with neutral gains and shifts, in NumPy."""
    cell = made(lstm.LayerNormLSTM)
    put(cell, **dict.fromkeys([name for name, _ in cell.named_parameters() if name.startswith("a_")], 1.0))
    put(cell, **dict.fromkeys([name for name, _ in cell.named_parameters() if name.startswith("b_")], 0.0))
    x, h, c = x_of()[0], *torch.randn(2, B, H, dtype=F64)

    def normal(a):
        return (a - a.mean(1, keepdims=True)) / np.sqrt(a.var(1, keepdims=True) + 1e-5)

    weights = {name: value.detach().numpy() for name, value in cell.named_parameters()}
    of_x = normal(x.numpy() @ np.hstack([weights[f"W_x{gate}"] for gate in "ifog"]))
    of_h = normal(h.numpy() @ np.hstack([weights[f"W_h{gate}"] for gate in "ifog"]))
    i, f, o, g = np.split(of_x + of_h, 4, axis=1)
    i, f, o = (1 / (1 + np.exp(-gate)) for gate in (i, f, o))
    new = f * c.numpy() + i * np.tanh(g)
    return cell(x, h, c), (torch.from_numpy(o * np.tanh(normal(new))), torch.from_numpy(new))


def layer_norm_gains():
    """A gain is a factor, a shift a summand, of what was normalised: with neutral ones moved into the input."""
    cell = made(lstm.LayerNormLSTM)
    for gate in "io":
        put(cell, **shut(gate, 100.0, "a_x", "a_h"))
    put(cell, **shut("f", -1000.0, "a_x", "a_h"), a_hg=0.0, a_xg=2.0, b_g=0.5, a_c=3.0, b_c=-0.25)
    x, zeros = x_of()[0], torch.zeros(B, H, dtype=F64)
    joint = torch.cat([x @ getattr(cell, f"W_x{gate}") for gate in "ifog"], 1)
    g = nn.functional.layer_norm(joint, (4 * H,))[:, -H:]
    c = torch.tanh(2 * g + 0.5)
    return cell(x, zeros, zeros), (torch.tanh(3 * nn.functional.layer_norm(c, (H,)) - 0.25), c)


def product_with_one():
    """Where the input makes the factor 1 and W_hm is the identity, m is h."""
    plain = made(LSTM)
    cell = made(lstm_connections.MultiplicativeLSTM, weights_of=plain)
    put(cell, **{f"W_m{gate}": getattr(plain, f"W_h{gate}") for gate in "ifog"})
    put(cell, W_hm=torch.eye(H), W_xm=0.0)
    put(cell, W_xm=torch.tensor([[0.0], [0.0], [1.0]]).expand(I, H))
    x = x_of()
    x[:, :, 2] = 1
    return alike(cell, plain, x)


def no_working_memory():
    plain = made(LSTM)
    return alike(put(made(lstm_connections.WorkingMemoryLSTM, weights_of=plain), W_ci=0, W_cf=0, W_co=0), plain)


def working_memory_squashed():
    """However large the memory is, it adds at most 1."""
    plain = made(LSTM)
    cell = made(lstm_connections.WorkingMemoryLSTM, weights_of=plain)
    put(cell, W_ci=1e6 * torch.eye(H), W_cf=-1e6 * torch.eye(H), W_co=1e-6 * torch.eye(H))
    put(plain, b_i=plain.b_i + 1, b_f=plain.b_f - 1, b_o=plain.b_o + 1)
    x, h, c = x_of()[0], torch.randn(B, H, dtype=F64), 1e9 * (1 + torch.rand(B, H, dtype=F64))
    return cell(x, h, c), plain(x, h, c)


def no_residue():
    plain = made(LSTM)
    nothing = {"p_i": 0.0, "p_f": 0.0, "W_co": 0.0, "W_xh": 0.0}
    return alike(put(made(lstm_connections.ResidualLSTM, weights_of=plain), **nothing, W_rh=torch.eye(H)), plain)


def residual_peepholes():
    """A diagonal matrix is a vector: the output gate's is that of the peephole LSTM."""
    whole = made(peephole.PeepholeLSTM)
    cell = made(lstm_connections.ResidualLSTM, weights_of=whole)
    return alike(put(cell, W_co=torch.diag(whole.p_o), W_xh=0.0, W_rh=torch.eye(H)), whole)


def janet_without_beta():
    """A coupled LSTM that shows its memory as it is; i = 1 - f."""
    coupled = made(peephole.PeepholeLSTM, without=("output gate", "output activation", "peepholes"), coupled=True)
    cell = made(lstm_reduced.JANET, weights_of=coupled, beta=0.0)
    return alike(put(cell, W_xf=-coupled.W_xi, W_hf=-coupled.W_hi, b_f=-coupled.b_i), coupled)


def janet_with_beta():
    """With a gate that sees nothing, a mean with weights that do not sum to 1."""
    cell = put(made(lstm_reduced.JANET, beta=1.0), **shut("f", 0.3, "W_x", "W_h"), W_hg=0.0)
    x, h = x_of()[0], torch.randn(B, H, dtype=F64)
    kept, entered = (torch.sigmoid(torch.tensor(0.3 - beta, dtype=F64)) for beta in (0.0, 1.0))
    return cell(x, h), kept * h + (1 - entered) * torch.tanh(x @ cell.W_xg + cell.b_g)


def star_of_new_things():
    """An open gate: the state is the candidate; a shut one: the state squashed again."""
    cell, x, h = made(lstm_reduced.STAR), x_of()[0], torch.randn(B, H, dtype=F64)
    opened = put(made(lstm_reduced.STAR, weights_of=cell), **shut("k", 100.0, "W_x", "W_h"))
    closed = put(made(lstm_reduced.STAR, weights_of=cell), **shut("k", -1000.0, "W_x", "W_h"))
    return (opened(x, h), closed(x, h)), (torch.tanh(torch.tanh(x @ cell.W_xz + cell.b_z)), torch.tanh(h))


def minlstm_is_typed():
    """Where i = 1 - f the two already sum to 1."""
    cell = made(typed.TRNN)
    least = made(lstm_reduced.MinLSTM, weights_of=cell)
    return alike(put(least, W_xi=-cell.W_xf, b_i=-cell.b_f, W_xg=cell.W_xz, b_g=0.0), cell)


def minlstm_of_equal_gates():
    cell = made(lstm_reduced.MinLSTM)
    put(cell, W_xi=cell.W_xf, b_i=cell.b_f)
    x, h = x_of()[0], torch.randn(B, H, dtype=F64)
    return cell(x, h), (h + x @ cell.W_xg + cell.b_g) / 2


def typed_lstm_shown_whole():
    """With an output gate of 1 that sees one input, the memory of a T-LSTM is a T-RNN."""
    cell = made(typed.TRNN)
    whole = put(made(typed.TLSTM, weights_of=cell), W_pz=0, W_pf=0, **shut("o", 100.0, "W_x", "W_p"), b_z=0.0)
    return alike(whole, cell)


def typed_gru_is_typed_lstm():
    """Where f is the same everywhere: f h + z o, of z / (1 - f) a moving mean."""
    gru = put(made(typed.TGRU), **shut("f", 0.4, "W_x", "W_p"), **shut("o", 100.0, "W_x", "W_p"))
    f = torch.sigmoid(torch.tensor(0.4, dtype=F64))
    rescaled = {name: getattr(gru, name) / (1 - f) for name in ("W_xz", "W_pz", "b_z")}
    return alike(put(made(typed.TLSTM, weights_of=gru), **rescaled), gru)


def typed_input_before():
    """The second input is the first of the step before: a sum over two steps, when nothing is kept."""
    cell = put(made(typed.TGRU), **shut("f", -1000.0, "W_x", "W_p"), **shut("o", 100.0, "W_x", "W_p"))
    x = x_of()
    before = torch.cat([torch.zeros(1, B, I, dtype=F64), x[:-1]])
    return outputs(cell, x), x @ cell.W_xz + before @ cell.W_pz + cell.b_z


def unstabilised(forget):
    def equation():
        cell, x = made(memory.SLSTM, forget=forget), x_of()
        keep = torch.sigmoid if forget == "sigmoid" else torch.exp
        h, c, n = torch.zeros(3, B, H, dtype=F64)
        found = []
        for x_t in x:
            i = torch.exp(x_t @ cell.W_xi + h @ cell.W_hi + cell.b_i)
            f = keep(x_t @ cell.W_xf + h @ cell.W_hf + cell.b_f)
            c = f * c + i * torch.tanh(x_t @ cell.W_xz + h @ cell.W_hz + cell.b_z)
            n = f * n + i
            h = torch.sigmoid(x_t @ cell.W_xo + h @ cell.W_ho + cell.b_o) * c / n
            found.append(h)
        return outputs(cell, x), torch.stack(found)

    return equation


def stabilised():
    """An input gate of exp(1000) stores its candidate alone, whatever the forget gate."""
    cell = put(made(memory.SLSTM, forget="exp"), **shut("i", 1000.0, "W_x", "W_h"), **shut("f", -900.0, "W_x", "W_h"))
    x = x_of()[:1]
    (x_t,) = x
    return outputs(cell, x)[0], torch.sigmoid(x_t @ cell.W_xo + cell.b_o) * torch.tanh(x_t @ cell.W_xz + cell.b_z)


def nas_without_weights():
    cell = put(made(memory.NASCell), **{f"W_{source}{leaf}": 0.0 for source in "xh" for leaf in range(8)})
    h, c = torch.randn(2, B, H, dtype=F64)
    half = torch.tensor(0.5, dtype=F64)
    new = torch.tanh(c) * torch.tanh(half)
    return cell(x_of()[0], h, c), (torch.tanh(new * torch.tanh(torch.sigmoid(half))), new)


def nas_by_hand():
    """One step in NumPy."""
    cell = made(memory.NASCell, bias=True)
    x, (h, c) = x_of()[0], torch.randn(2, B, H, dtype=F64)
    weights = {name: value.detach().numpy() for name, value in cell.named_parameters()}
    of_x = [x.numpy() @ weights[f"W_x{leaf}"] for leaf in range(8)]
    of_h = [h.numpy() @ weights[f"W_h{leaf}"] + weights[f"b_{leaf}"] for leaf in range(8)]
    a = [of_x[leaf] * of_h[leaf] if leaf == 3 else of_x[leaf] + of_h[leaf] for leaf in range(8)]
    sigmoid, relu, tanh = (lambda v: 1 / (1 + np.exp(-v))), (lambda v: v * (v > 0)), np.tanh
    left = tanh(c.numpy() + tanh(sigmoid(a[0]) * relu(a[1])))
    new = left * tanh(sigmoid(a[2]) + relu(a[3]))
    right = tanh(tanh(a[4]) * sigmoid(a[5])) + sigmoid(tanh(a[6]) + sigmoid(a[7]))
    return cell(x, h, c), (torch.from_numpy(tanh(new * tanh(right))), torch.from_numpy(new))


def context_of_a_constant():
    """s = (1 - alpha^T) of where it goes."""
    cell = made(memory.SCRN, context_size=2, alpha=0.9)
    x = x_of()[:1].expand(T, B, I)
    return outputs(cell, x)[-1, :, H:], (1 - 0.9**T) * x[0] @ cell.W_xs


def no_context():
    """2 sigmoid(a) - 1 = tanh(a / 2): the hidden states are those of a simple recurrent network."""
    cell, plain = put(made(memory.SCRN), W_sh=0.0), made(RNN)
    put(plain, W_xh=cell.W_xh / 2, W_hh=cell.W_hh / 4, b_h=cell.W_hh.sum(0) / 4)  # h = (1 + tanh) / 2
    x, h = x_of()[0], torch.rand(B, H, dtype=F64)
    return 2 * cell(x, h, torch.zeros(B, 40, dtype=F64))[1] - 1, plain(x, 2 * h - 1)


def conserved_mass():
    cell = made(memory.MCLSTM, 4, H, mass_size=2)
    x, c = torch.rand(T, B, 4, dtype=F64), torch.rand(1, B, H, dtype=F64)
    y, last = cw.Recurrent([cell], backend="eager")(x, c)
    return y.sum((0, 2)) + last.sum((0, 2)), x[:, :, :2].sum((0, 2)) + c.sum((0, 2))


def mass_by_hand():
    """One step in NumPy, for one row."""
    cell = made(memory.MCLSTM, 4, H, mass_size=2)
    x, c = torch.rand(1, 4, dtype=F64), torch.rand(1, H, dtype=F64)
    weights = {name: value.detach().numpy() for name, value in cell.named_parameters()}
    mass, others, share = x[0, :2].numpy(), x[0, 2:].numpy(), (c[0] / c.sum()).numpy()
    rows = np.exp(others @ weights["W_ai"] + share @ weights["W_ci"] + weights["b_i"]).reshape(2, H)
    o = 1 / (1 + np.exp(-(others @ weights["W_ao"] + share @ weights["W_co"] + weights["b_o"])))
    moved = np.exp(weights["B_r"]) / np.exp(weights["B_r"]).sum(1, keepdims=True)
    m = c[0].numpy() @ moved + mass @ (rows / rows.sum(1, keepdims=True))
    return cell(x, c), (torch.from_numpy(o * m)[None], torch.from_numpy(m - o * m)[None])


def free_oscillators():
    """Without weights coRNN is a matrix of two rows for every unit, T times."""
    cell = made(oscillators.CoRNN, dt=0.1, gamma=2.0, epsilon=0.5)
    put(cell, W_xz=0.0, W_yz=0.0, W_zz=0.0, b_z=0.0)
    y, z = torch.randn(2, 1, B, H, dtype=F64)
    to_z = torch.tensor([[1.0, -0.2], [0.0, 0.95]], dtype=F64)  # (y, z) -> (y, z - 0.1 (2 y + 0.5 z))
    to_y = torch.tensor([[1.0, 0.0], [0.1, 1.0]], dtype=F64)  # (y, z) -> (y + 0.1 z, z)
    matrix = torch.matrix_power(to_z @ to_y, T)
    _, last = cw.Recurrent([cell], backend="eager")(x_of(), (y, z))
    return last, torch.einsum("sab,st->tab", torch.cat([y, z]), matrix).unsqueeze(1).unbind(0)


def driven_oscillators():
    """Neither drawn back nor damped: what drives them is added up."""
    cell = made(oscillators.CoRNN, dt=0.5, gamma=0.0, epsilon=0.0)
    x, (y, z) = x_of()[0], torch.randn(2, B, H, dtype=F64)
    faster = z + torch.tanh(x @ cell.W_xz + y @ cell.W_yz + z @ cell.W_zz + cell.b_z) / 2
    return cell(x, y, z), (y + faster / 2, faster)


def oscillators_run_backwards():
    cell, x = made(oscillators.UnICORNN), x_of()
    y, z = first = torch.randn(2, B, H, dtype=F64)
    for x_t in x:
        y, z = cell(x_t, y, z)
    dt = cell.dt * torch.sigmoid(cell.c)
    for x_t in x.flip(0):
        y = y - dt * z
        z = z + dt * (torch.tanh(cell.w * y + x_t @ cell.W_xz + cell.b_z) + cell.alpha * y)
    return (y, z), tuple(first)


def lem_of_whole_steps():
    """With steps of 1 nothing stays: z is a simple recurrent network on y, and y one layer on z."""
    cell = put(made(oscillators.LEM), **shut("1", 100.0, "W_x", "W_y"), **shut("2", 100.0, "W_x", "W_y"))
    y, x, found = torch.zeros(B, H, dtype=F64), x_of(), []
    for x_t in x:
        z = torch.tanh(x_t @ cell.W_xz + y @ cell.W_yz + cell.b_z)
        y = torch.tanh(x_t @ cell.W_xy + z @ cell.W_zy + cell.b_y)
        found.append(y)
    return outputs(cell, x), torch.stack(found)


def lem_steps_apart():
    """The first gate is of z, the second of y."""
    cell = put(made(oscillators.LEM, dt=0.5), **shut("1", 0.3, "W_x", "W_y"), **shut("2", -1000.0, "W_x", "W_y"))
    x, (y, z) = x_of()[0], torch.randn(2, B, H, dtype=F64)
    dt = torch.sigmoid(cell.b_1) / 2
    return cell(x, y, z), (y, (1 - dt) * z + dt * torch.tanh(x @ cell.W_xz + y @ cell.W_yz + cell.b_z))


def nothing_missing():
    """All measured, just now: a GRU with the reset before, whose z is the other way about."""
    cell = put(made(elapsed.GRUD, 3 * I, H, mean=[0.3, -0.4, 0.5]), b_dv=0.0, b_dh=0.0)
    plain = made(GRU, weights_of=cell, reset_after=False)
    put(plain, **{f"b_{gate}": getattr(cell, f"b_{gate}") + getattr(cell, f"W_m{gate}").sum(0) for gate in "rn"})
    put(plain, W_xz=-cell.W_xz, W_hz=-cell.W_hz, b_z=-cell.b_z - cell.W_mz.sum(0))
    values = x_of()
    marked = torch.cat([values, torch.ones_like(values), torch.zeros_like(values)], 2)
    return outputs(cell, marked), outputs(plain, values)


def long_ago():
    """What was seen long ago does not matter: neither the state nor the last value, only the mean."""
    cell = put(made(elapsed.GRUD, 6, H, mean=[0.3, -0.4]), w_dv=1.0, W_dh=1.0)
    missing = torch.tensor([9.0, 9.0, 0.0, 0.0, 1e4, 1e4], dtype=F64).expand(B, 6)
    mean = torch.tensor([0.3, -0.4, 0.0, 0.0, 1e4, 1e4]).double().expand(B, 6)
    h, d = torch.randn(B, H, dtype=F64), torch.randn(B, 2, dtype=F64)
    z = torch.sigmoid(mean[:, :2] @ cell.W_xz + cell.b_z)
    n = torch.tanh(mean[:, :2] @ cell.W_xn + cell.b_n)
    return cell(missing, h, d), (z * n, d)


def half_forgotten():
    """A value that is missing is where it has got to on the way from the last one to the mean."""
    cell = put(made(elapsed.GRUD, 3, H, mean=2.0), w_dv=1.0, b_dv=0.0, W_dh=0.0, b_dh=0.0, W_mz=0, W_mr=0, W_mn=0)
    cases = {"first": [10.0, 1.0, 0.0], "missing": [99.0, 0.0, np.log(2.0)], "instead": [6.0, 1.0, 0.0]}
    first, missing, instead = (torch.tensor([case], dtype=F64) for case in cases.values())
    state = cell(first, *cell.initial_state(1))
    faded, measured = cell(missing, *state), cell(instead, *state)
    last = torch.tensor([[10.0 - 2.0], [6.0 - 2.0]], dtype=F64)  # less the mean: still 10, and 6
    return (faded[0], torch.cat([faded[1], measured[1]])), (measured[0], last)


EQUATIONS = {
    "peepholes of zero are none": peepholes_of_zero,
    "without peepholes it is the LSTM": no_peepholes,
    "an input gate that is always open is none": no_gate("i", "input gate"),
    "a forget gate that is always open is none": no_gate("f", "forget gate"),
    "an output gate that is always open is none": no_gate("o", "output gate"),
    "coupled gates are a forget gate with the weights of the other, negative": coupled,
    "without the input activation": no_input_activation,
    "without the output activation": no_output_activation,
    "gates that do not see gates are those with peepholes": gates_that_do_not_see_gates,
    "gates that see a gate which stands still have another bias": gates_that_see_the_forget_gate_before,
    "the LSTM of 1997 is one of today with other scales": first_lstm,
    "an identity for a projection is none": identity_projection,
    "a projection without peepholes is torch.nn.LSTM's": projection_of_torch,
    "layer norm by hand": layer_norm_by_hand,
    "layer norm: what gains and shifts do": layer_norm_gains,
    "a product with 1 is no product": product_with_one,
    "no working memory": no_working_memory,
    "a working memory is squashed": working_memory_squashed,
    "no residue": no_residue,
    "a diagonal matrix is a peephole": residual_peepholes,
    "JANET without beta is a coupled LSTM": janet_without_beta,
    "JANET with beta": janet_with_beta,
    "STAR with its gate open or shut": star_of_new_things,
    "minLSTM with coupled gates is a T-RNN": minlstm_is_typed,
    "minLSTM with equal gates is a mean": minlstm_of_equal_gates,
    "a T-LSTM shown whole is a T-RNN": typed_lstm_shown_whole,
    "a T-GRU that forgets evenly is a T-LSTM": typed_gru_is_typed_lstm,
    "a T-GRU sees the input before": typed_input_before,
    "the stabiliser changes nothing, sigmoid": unstabilised("sigmoid"),
    "the stabiliser changes nothing, exp": unstabilised("exp"),
    "the stabiliser keeps exponentials in range": stabilised,
    "the NAS cell by hand": nas_by_hand,
    "the NAS cell without weights": nas_without_weights,
    "the context of a constant": context_of_a_constant,
    "without context an RNN": no_context,
    "mass is conserved": conserved_mass,
    "MC-LSTM by hand": mass_by_hand,
    "coRNN that is only driven": driven_oscillators,
    "coRNN without weights is a power of a matrix": free_oscillators,
    "UnICORNN runs backwards": oscillators_run_backwards,
    "LEM with whole steps": lem_of_whole_steps,
    "LEM: which step is whose": lem_steps_apart,
    "GRU-D with nothing missing is a GRU": nothing_missing,
    "GRU-D: long ago is never": long_ago,
    "GRU-D: half forgotten": half_forgotten,
}


@pytest.mark.parametrize("name", EQUATIONS)
def test_both_sides_are_equal(name):
    left, right = EQUATIONS[name]()
    torch.testing.assert_close(left, right, atol=tolerance(F64, T), rtol=tolerance(F64, T))


@pytest.mark.parametrize("kind", [lstm.ChronoLSTM, lstm_reduced.JANET])
def test_chrono_biases_reach_from_one_step_to_the_longest(kind):
    cell = kind(I, 500, longest=50)
    reach = cell.b_f.exp()
    assert reach.min() >= 1
    assert 45 < reach.max() <= 49
    assert abs(reach.mean() - 25) < 3
    if kind is lstm.ChronoLSTM:
        assert torch.equal(cell.b_i, -cell.b_f)


@pytest.mark.parametrize(("cell", "columns"), [(lstm.LSTMP(I, 8, 5), 5), (memory.SCRN(I, H, 4), H + 4)])
def test_a_cell_that_shows_other_columns_stacks(cell, columns):
    y, _ = cw.Recurrent(cell, num_layers=2, bidirectional=True, backend="eager")(torch.randn(T, B, I))
    assert y.shape == (T, B, 2 * columns)


WRONG = {
    "a part that no LSTM has": (lambda: peephole.PeepholeLSTM(I, H, without=("gate",)), "without=('gate',)"),
    "a word instead of several": (lambda: peephole.PeepholeLSTM(I, H, without="peepholes"), "without='peepholes'"),
    "coupled to nothing": (lambda: peephole.PeepholeLSTM(I, H, ("input gate",), True), "without the input gate"),
    "nothing to show": (lambda: lstm.LSTMP(I, H, proj_size=0), "proj_size=0"),
    "no context": (lambda: memory.SCRN(I, H, context_size=0), "context_size=0"),
    "another forget gate": (lambda: memory.SLSTM(I, H, forget="relu"), "'sigmoid' or 'exp'"),
    "nothing but mass": (lambda: memory.MCLSTM(2, H, mass_size=2), "input_size=2, mass_size=2"),
    "no thirds": (lambda: elapsed.GRUD(7, H), "input_size=7"),
    "a mean of others": (lambda: elapsed.GRUD(6, H, mean=[1.0]), r"mean=[1.0]"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_cannot_be_is_refused_in_words(name):
    make, words = WRONG[name]
    with pytest.raises(cw.errors.CellError) as caught:
        make()
    assert words in str(caught.value)


def test_every_class_of_these_files_is_tested():
    tested = {type(made_of(I, H)) for made_of in CELLS.values()}
    ours = {kind for kind in CLASSES.values() if kind.__module__ in {family.__name__ for family in FAMILIES}}
    assert ours - tested == {LSTM}
