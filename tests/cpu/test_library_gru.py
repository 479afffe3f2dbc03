"""The RNN and GRU families of the library: fused they are their equations, and where two cells meet they are equal."""

import pytest
import torch
from torch import nn

import cellwright as cw
from cellwright.cells import LIBRARY, RNN
from cellwright.cells.library import additive, bistable, gru, highway, linear, minimal, rnn, searched, stable
from cellwright.errors import CellError
from tests.oracle import flat, tolerance

FAMILIES = (additive, bistable, gru, highway, linear, minimal, rnn, searched, stable)
NAMES = [name for family in FAMILIES for name in family.CELLS]
WIDE = 1000.0  # a sigmoid of it is 1, of its negative 0, exactly
STEPS = 4


def drawn(cell):
    """A cell in float64 with weights that differ from each other, whatever it begins with."""
    cell = cell.double()
    for parameter in cell.parameters():
        nn.init.normal_(parameter, 0.0, 0.5)
    return cell


@pytest.mark.parametrize("sizes", [(3, 5), (4, 4)], ids=["lifted", "x as it is"])
@pytest.mark.parametrize("name", NAMES)
def test_every_parameter_learns(name, sizes):
    """As it is drawn for training: a gradient that is zero everywhere would be that of a parameter without use."""
    layer = cw.Recurrent(LIBRARY[name](*sizes), backend="eager")
    y, last = layer(torch.randn(STEPS, 2, sizes[0]))
    sum((torch.randn_like(one) * one).sum() for one in (y, *flat(last))).backward()
    for parameter_name, parameter in layer.named_parameters():
        assert parameter.grad is not None, parameter_name
        assert parameter.grad.isfinite().all(), parameter_name
        assert parameter.grad.any(), parameter_name


def filled(cell, **values):
    """A cell whose named parameters hold these values; the others stay random."""
    cell = drawn(cell)
    with torch.no_grad():
        for name, value in values.items():
            getattr(cell, name).copy_(torch.as_tensor(value))
    return cell


def taken(cell, other, **names):
    """`cell` with weights of `other`: those of the same name, and those in `names`, as tensors."""
    own = {name for name, _ in cell.named_parameters()}
    same = {name: value for name, value in other.named_parameters() if name in own}
    return filled(cell, **{**same, **names})


def gru_after():
    after = filled(gru.GRU(3, 5), W_xr=0, W_hr=0, b_r=WIDE, b_hn=0)
    return after, taken(gru.GRU(3, 5, reset_after=False), after)


def ugrnn_of_gru():
    one = drawn(minimal.UGRNN(3, 5))
    gates = {"W_xz": one.W_xg, "W_hz": one.W_hg, "b_z": one.b_g, "W_xn": one.W_xc, "W_hn": one.W_hc, "b_n": one.b_c}
    return one, filled(gru.GRU(3, 5, reset_after=False), **gates, W_xr=0, W_hr=0, b_r=WIDE)


def mgu_of_gru():
    one = drawn(minimal.MGU(3, 5))
    gates = {"W_xr": one.W_xf, "W_hr": one.W_hf, "b_r": one.b_f, "W_xn": one.W_xh, "W_hn": one.W_hh, "b_n": one.b_h}
    update = {"W_xz": -one.W_xf, "W_hz": -one.W_hf, "b_z": -one.b_f}
    return one, filled(gru.GRU(3, 5, reset_after=False), **gates, **update)


def mgu_variant(variant, **zeros):
    one = drawn(minimal.MGU(3, 5, variant))
    return one, taken(minimal.MGU(3, 5), one, **zeros)


def indrnn_of_rnn():
    one = drawn(rnn.IndRNN(3, 5))
    return one, taken(RNN(3, 5, "relu"), one, W_hh=torch.diag(one.u))


def shallow_highway():
    one = drawn(highway.RecurrentHighway(3, 5, depth=1))
    gate = {"W_xg": -one.W_xt, "W_hg": -one.W_ht[0], "b_g": -one.b_t[0]}
    return one, filled(minimal.UGRNN(3, 5), **gate, W_xc=one.W_xh, W_hc=one.W_hh[0], b_c=one.b_h[0])


def highway_without_a_second_layer():
    one = drawn(highway.RecurrentHighway(3, 5, depth=2))
    with torch.no_grad():
        one.W_ht[1], one.b_t[1] = 0, -WIDE
    first = {name: getattr(one, name)[:1] for name in ("W_hh", "W_ht", "b_h", "b_t")}
    return one, filled(highway.RecurrentHighway(3, 5, depth=1), **first, W_xh=one.W_xh, W_xt=one.W_xt)


def mut2_of_gru():
    one = drawn(searched.MUT2(3, 5))
    gates = {"W_xr": one.P, "W_hr": one.W_hr, "b_r": one.b_r, "W_xn": one.W_xh, "W_hn": one.W_hh, "b_n": one.b_h}
    update = {"W_xz": -one.W_xz, "W_hz": -one.W_hz, "b_z": -one.b_z}
    return one, filled(gru.GRU(3, 5, reset_after=False), **gates, **update)


def mut3_of_mut2():
    one = filled(searched.MUT3(3, 5), W_hz=0)
    return one, taken(searched.MUT2(3, 5), one, P=one.W_xr)


def mut1_of_small_x():
    """tanh(x P) is x P but for a third power: as good as equal where P is tiny."""
    one = filled(searched.MUT1(3, 5), P=1e-6 * torch.randn(3, 5))
    return one, taken(searched.MUT2(3, 5), one, W_hz=0, P=one.W_xr, W_xh=one.P)


def open_antisymmetric():
    one = filled(stable.GatedAntisymmetricRNN(3, 5, 0.3, 0.2), W_xz=0, b_z=WIDE)
    return one, taken(stable.AntisymmetricRNN(3, 5, 0.3, 0.2), one)


def symmetric_turn():
    """A symmetric matrix cancels: what is left of h is -gamma h."""
    half = torch.randn(5, 5, dtype=torch.float64)
    one = filled(stable.AntisymmetricRNN(3, 5, 0.3, 0.2), W_hh=half + half.T)
    return one, taken(stable.AntisymmetricRNN(3, 5, 0.3, 0.2), one, W_hh=torch.zeros(5, 5))


def fastrnn_of_rnn():
    one = filled(stable.FastRNN(3, 5), alpha=WIDE, beta=-WIDE)
    return one, taken(RNN(3, 5), one)


def fastgrnn_of_ugrnn():
    one = filled(stable.FastGRNN(3, 5), zeta=WIDE, nu=-WIDE)
    shared = {"W_xc": one.W_xh, "W_xg": one.W_xh, "W_hc": one.W_hh, "W_hg": one.W_hh}
    return one, filled(minimal.UGRNN(3, 5), **shared, b_c=one.b_h, b_g=one.b_z)


def brc_of_nbrc():
    one = drawn(bistable.BRC(3, 5))
    return one, taken(bistable.NBRC(3, 5), one, W_ha=torch.diag(one.w_a), W_hc=torch.diag(one.w_c))


def fo_of_ifo():
    one = drawn(linear.QRNN(3, 5, "fo"))
    return one, taken(linear.QRNN(3, 5, "ifo"), one, W_xi=-one.W_xf, b_i=-one.b_f)


def f_of_fo():
    one = drawn(linear.QRNN(3, 5, "f"))
    return one, taken(linear.QRNN(3, 5, "fo"), one, W_xo=0, b_o=WIDE)


def sru_of_mingru():
    one = filled(linear.SRU(3, 5), v_f=0, v_r=0, W_xr=0, b_r=WIDE)
    return one, filled(linear.MinGRU(3, 5), W_xz=-one.W_xf, b_z=-one.b_f, W_xh=one.W_xc, b_h=0)


def positive_mingru():
    """From 0 on the positive candidate is the plain one, and a half."""
    one = filled(linear.MinGRU(3, 5, positive=True), W_xh=0, b_h=torch.rand(5))
    return one, taken(linear.MinGRU(3, 5), one, b_h=one.b_h + 0.5)


def additive_of_pooling():
    """Gates that do not see h: a RAN is an ifo pooling, shown as it is, of a candidate that is nearly linear."""
    one = filled(additive.RAN(3, 5, squash=False), W_hi=0, W_hf=0, W_xg=1e-6 * torch.randn(3, 5))
    pooled = taken(linear.QRNN(3, 5, "ifo"), one, W_xz=one.W_xg, b_z=0, W_xo=0, b_o=WIDE)
    return one, pooled


def intersection_of_ugrnn():
    one = filled(highway.IntersectionRNN(3, 5), W_xp=0, W_hp=0, b_p=-WIDE, W_xu=0, W_hu=0, b_u=0)
    gates = {"W_xc": one.W_xg, "W_hc": one.W_hg, "b_c": one.b_g, "W_xg": one.W_xq, "W_hg": one.W_hq, "b_g": one.b_q}
    return one, filled(minimal.UGRNN(3, 5), **gates)


EQUAL = {  # in their states, all weights of both but the named ones the same
    "the forms of a GRU agree where the reset gate is open": gru_after,
    "UGRNN is a GRU whose reset gate is open": ugrnn_of_gru,
    "MGU is a GRU whose two gates are one": mgu_of_gru,
    "MGU1 is MGU without x in its gate": lambda: mgu_variant(1, W_xf=0),
    "MGU2 is MGU with h alone in its gate": lambda: mgu_variant(2, W_xf=0, b_f=0),
    "MGU3 is MGU with the bias alone in its gate": lambda: mgu_variant(3, W_xf=0, W_hf=0),
    "IndRNN is an RNN with a diagonal matrix": indrnn_of_rnn,
    "a recurrent highway of depth 1 is a UGRNN": shallow_highway,
    "a recurrent highway whose second layer carries is one of depth 1": highway_without_a_second_layer,
    "MUT2 on a projection of x is a GRU": mut2_of_gru,
    "MUT3 is MUT2 where the update gate does not see h": mut3_of_mut2,
    "MUT1 is MUT2 where tanh of x is x": mut1_of_small_x,
    "a gated antisymmetric RNN with an open gate has none": open_antisymmetric,
    "an antisymmetric RNN knows only the antisymmetric part of its matrix": symmetric_turn,
    "FastRNN with all of the new and none of the old is an RNN": fastrnn_of_rnn,
    "FastGRNN with zeta 1 and nu 0 is a UGRNN with shared matrices": fastgrnn_of_ugrnn,
    "BRC is nBRC with diagonal matrices": brc_of_nbrc,
    "fo pooling is ifo pooling with i = 1 - f": fo_of_ifo,
    "f pooling is fo pooling with an open output gate": f_of_fo,
    "SRU with gates blind to c, shown as it is, is a minGRU": sru_of_mingru,
    "a positive minGRU is a plain one half higher, from 0 on": positive_mingru,
    "RAN with gates blind to h is an ifo pooling": additive_of_pooling,
    "the state of an intersection RNN is a UGRNN's": intersection_of_ugrnn,
}


def states(cell, x, state):
    """Every new state of a few steps, and the gradients of x and of the first state."""
    found = []
    x, state = x.clone().requires_grad_(), [one.clone().requires_grad_() for one in state]
    now = tuple(state)
    for x_t in x:
        _, now = cell.split_output(cell(x_t, *now))
        found.append(now[-1])
    weight = torch.linspace(-1, 1, found[0].numel(), dtype=x.dtype).view_as(found[0])
    return [*found, *torch.autograd.grad(sum((weight * one).sum() for one in found), [x, state[-1]])]


@pytest.mark.parametrize("name", EQUAL)
def test_cells_are_equal(name):
    left, right = EQUAL[name]()
    x, state = torch.randn(STEPS, 2, 3, dtype=torch.float64), torch.randn(2, 5, dtype=torch.float64)
    sides = [states(cell, x, [state] * len(cell.state)) for cell in (left, right)]
    for one, other in zip(*sides, strict=True):
        torch.testing.assert_close(one, other, atol=tolerance(torch.float64, STEPS), rtol=0)


def test_an_antisymmetric_rnn_takes_the_steps_that_its_matrix_says():
    cell = drawn(stable.AntisymmetricRNN(3, 5, epsilon=0.3, gamma=0.2))
    x, h = torch.randn(2, 3, dtype=torch.float64), torch.randn(2, 5, dtype=torch.float64)
    matrix = cell.W_hh - cell.W_hh.T - 0.2 * torch.eye(5, dtype=torch.float64)
    expected = h + 0.3 * torch.tanh(h @ matrix + x @ cell.W_xh + cell.b_h)
    torch.testing.assert_close(cell(x, h), expected, atol=tolerance(torch.float64), rtol=0)


def test_what_an_intersection_rnn_shows_is_x_where_its_output_gate_is_open():
    cell = filled(highway.IntersectionRNN(4, 4), W_xp=0, W_hp=0, b_p=WIDE)
    x, h = torch.randn(2, 2, 4, dtype=torch.float64)
    assert torch.equal(cell(x, h)[0], x)


def test_what_an_sru_shows_is_x_where_its_reset_gate_is_closed():
    cell = filled(linear.SRU(4, 4, alpha=3.0), W_xr=0, v_r=0, b_r=-WIDE)
    x, c = torch.randn(2, 2, 4, dtype=torch.float64)
    assert torch.equal(cell(x, c)[0], 3.0 * x)


def test_a_chaos_free_network_without_input_decays():
    cell = drawn(additive.CFN(3, 5))
    h = torch.randn(2, 5, dtype=torch.float64)
    after = cell(torch.zeros(2, 3, dtype=torch.float64), h)
    assert (after.abs() < h.abs()).all()


def test_the_gates_of_a_layer_norm_gru_are_normed_as_one():
    """By hand: one mean and one variance over the columns of both gates, z first."""
    cell = drawn(gru.LayerNormGRU(3, 5))
    x, h = torch.randn(2, 3, dtype=torch.float64), torch.randn(2, 5, dtype=torch.float64)

    def norm(v, k):
        centred = v - v.mean(1, keepdim=True)
        scaled = centred / (centred.square().mean(1, keepdim=True) + 1e-5).sqrt()
        return getattr(cell, f"a_{k}") * scaled + getattr(cell, f"b_{k}")

    gates = norm(h @ torch.cat([cell.W_hz, cell.W_hr], 1), 1) + norm(x @ torch.cat([cell.W_xz, cell.W_xr], 1), 2)
    z, r = gates[:, :5].sigmoid(), gates[:, 5:].sigmoid()
    n = torch.tanh(norm(x @ cell.W_xn, 3) + r * norm(h @ cell.W_hn, 4))
    torch.testing.assert_close(cell(x, h), (1 - z) * h + z * n, atol=tolerance(torch.float64), rtol=0)


REFUSED = {
    "a nonlinearity of another name": (
        lambda: rnn.IndRNN(3, 5, "gelu"),
        "nonlinearity is 'tanh' or 'relu'; got 'gelu'; write one of those names",
    ),
    "a pooling of another name": (
        lambda: linear.QRNN(3, 5, "max"),
        "pooling is 'f', 'fo' or 'ifo'; got 'max'; write one of those names",
    ),
    "a variant beyond the last": (
        lambda: minimal.MGU(3, 5, 4),
        "variant is 0 (MGU), or 1, 2 or 3 (MGU1 to MGU3); got 4; write one of those",
    ),
    "no layers": (
        lambda: highway.RecurrentHighway(3, 5, depth=0),
        "depth is a whole number of at least 1; got depth=0; write depth=3, say",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_a_cell_is_not_built_of_is_said(name):
    build, words = REFUSED[name]
    with pytest.raises(CellError) as raised:
        build()
    assert str(raised.value) == words


def test_weights_begin_as_the_papers_ask():
    assert torch.equal(rnn.IRNN(3, 5).W_hh, torch.eye(5))
    assert (stable.FastRNN(3, 5).alpha.item(), stable.FastRNN(3, 5).beta.item()) == (-3.0, 3.0)
    assert (stable.FastGRNN(3, 5).zeta.item(), stable.FastGRNN(3, 5).nu.item()) == (1.0, -4.0)
    assert torch.equal(highway.RecurrentHighway(3, 5).b_t, torch.full((3, 5), -2.0))
    W = gru.LiGRU(3, 5).W_hn
    torch.testing.assert_close(W @ W.T, torch.eye(5))
