"""Functions: what generated kernels call: mathematics, tiles in and out of memory, products, sums over programs."""

import triton
import triton.language as tl

# Mathematics, by the names of the table of operations. Written out: the interpreter has no device library.


@triton.jit
def v_set1(a):
    return a * 1.0


@triton.jit
def v_where(condition, a, b):
    return tl.where(condition, a, b)


@triton.jit
def v_abs(a):
    return tl.abs(a)


@triton.jit
def v_sign(a):
    return tl.where(a > 0, 1.0, tl.where(a < 0, -1.0, 0.0))


@triton.jit
def v_floor(a):
    return tl.floor(a)


@triton.jit
def v_ceil(a):
    return tl.ceil(a)


@triton.jit
def v_trunc(a):
    return tl.where(a < 0, tl.ceil(a), tl.floor(a))


@triton.jit
def v_round(a):
    """To the nearest, halves to the even one."""
    low = tl.floor(a)
    odd = low - 2 * tl.floor(low / 2) != 0
    rest = a - low
    return tl.where((rest > 0.5) | ((rest == 0.5) & odd), low + 1, low)


@triton.jit
def v_relu(a):
    return tl.where(a < 0, 0.0, a)


@triton.jit
def v_min(a, b):
    return tl.where((a < b) | (a != a), a, b)


@triton.jit
def v_max(a, b):
    return tl.where((a > b) | (a != a), a, b)


@triton.jit
def v_sqrt(a):
    return tl.sqrt(a)


@triton.jit
def v_rsqrt(a):
    return 1.0 / tl.sqrt(a)


@triton.jit
def v_recip(a):
    return 1.0 / a


@triton.jit
def v_sigmoid(a):
    return 1.0 / (1.0 + tl.exp(-a))


@triton.jit
def v_tanh(a):
    """Near zero Lambert's continued fraction, cut after nine terms: the error there is under 1e-17."""
    s = a * a
    top = ((s + 990.0) * s + 135135.0) * s
    top = (top + 4729725.0) * s + 34459425.0
    bottom = ((45.0 * s + 13860.0) * s + 945945.0) * s
    bottom = (bottom + 16216200.0) * s + 34459425.0
    e = tl.exp(-2.0 * tl.abs(a))
    far = (1.0 - e) / (1.0 + e)
    return tl.where(tl.abs(a) < 0.5, a * top / bottom, tl.where(a < 0, -far, far))


@triton.jit
def v_exp(a):
    return tl.exp(a)


@triton.jit
def v_expm1(a):
    """Near zero from tanh(a / 2), which is exact there."""
    half = v_tanh(0.5 * tl.where(tl.abs(a) < 0.5, a, 0.0))
    return tl.where(tl.abs(a) < 0.5, 2.0 * half / (1.0 - half), tl.exp(a) - 1.0)


@triton.jit
def v_log(a):
    return tl.log(a)


@triton.jit
def odd_series(s):
    """1 + s/3 + s^2/5 + ... + s^11/23."""
    p = s / 23.0 + 1.0 / 21.0
    p = p * s + 1.0 / 19.0
    p = p * s + 1.0 / 17.0
    p = p * s + 1.0 / 15.0
    p = p * s + 1.0 / 13.0
    p = p * s + 1.0 / 11.0
    p = p * s + 1.0 / 9.0
    p = p * s + 1.0 / 7.0
    p = p * s + 0.2
    p = p * s + 1.0 / 3.0
    return p * s + 1.0


@triton.jit
def v_log1p(a):
    """Near zero twice the inverse hyperbolic tangent of a / (2 + a), as a series."""
    r = a / (2.0 + a)
    s = tl.where(tl.abs(a) < 0.25, r * r, 0.0)
    return tl.where(tl.abs(a) < 0.25, 2.0 * r * odd_series(s), tl.log(1.0 + a))


@triton.jit
def v_erf(a):
    return tl.erf(a)


@triton.jit
def v_sin(a):
    return tl.sin(a)


@triton.jit
def v_cos(a):
    return tl.cos(a)


@triton.jit
def v_atan(a):
    """By 1 / a where that is smaller, then twice by half the angle, then as a series."""
    size = tl.abs(a)
    r = tl.where(size > 1, 1.0 / size, size)
    r = r / (1.0 + tl.sqrt(1.0 + r * r))
    r = r / (1.0 + tl.sqrt(1.0 + r * r))
    angle = 4.0 * r * odd_series(-r * r)
    half_pi = tl.full(angle.shape, 1.5707963267948966, angle.dtype)
    angle = tl.where(size > 1, half_pi - angle, angle)
    return tl.where(a < 0, -angle, angle)


@triton.jit
def v_pow(a, b):
    """Of a negative number only to whole powers."""
    size = tl.exp2(b * tl.log2(tl.where(a == 0, 1.0, tl.abs(a))))
    whole = tl.floor(b) == b
    odd = whole & (tl.floor(b / 2) * 2 != b)
    nothing = size * 0.0
    size = tl.where(a == 0, tl.where(b == 0, 1.0 + nothing, tl.where(b > 0, nothing, float("inf"))), size)
    size = tl.where((a < 0) & odd, -size, size)
    return tl.where((a < 0) & (whole == 0), float("nan"), size)


# Memory. A tile is (rows, columns); row and col are its indices, (rows, 1) and (1, columns).


@triton.jit
def take(pointer, row, width, col, mask, real: tl.constexpr):
    """A tile of a matrix with `width` columns, past the cache that other programs' writes do not reach."""
    return tl.load(pointer + row * width + col, mask=mask, other=0.0, cache_modifier=".cg").to(real)


@triton.jit
def take_vector(pointer, col, mask, real: tl.constexpr):
    """Columns of a weight, the same for all rows."""
    return tl.load(pointer + col, mask=mask, other=0.0).to(real)


@triton.jit
def put(pointer, row, width, col, mask, value):
    """Write a tile, or what is spread over one."""
    tl.store(pointer + row * width + col, value, mask=mask)


# Products.


@triton.jit
def hold(pointer, part, DEPTH: tl.constexpr, COLUMNS: tl.constexpr, BK: tl.constexpr, HELD: tl.constexpr):
    """The weights of a program, BK rows at a time, for the whole sequence; an empty tuple where they do not fit."""
    held = ()
    if HELD:
        for k in tl.static_range(0, DEPTH, BK):
            held = held + (weights(pointer, part, k, DEPTH, COLUMNS, BK),)  # noqa: RUF005 - Triton has no stars
    return held


@triton.jit
def weights(pointer, part, k, DEPTH: tl.constexpr, COLUMNS: tl.constexpr, BK: tl.constexpr):
    """BK rows of the packed weights of a program."""
    rows = (part * DEPTH + k + tl.arange(0, BK))[:, None]
    return tl.load(pointer + rows * COLUMNS + tl.arange(0, COLUMNS)[None, :])


@triton.jit
def rows_of(pointer, row, width, start, step, terms: tl.constexpr, k, alive, BK: tl.constexpr):
    """BK columns of the matrix that weights are multiplied with, from its k-th on."""
    ks = k + tl.arange(0, BK)[None, :]
    mask = alive if terms % BK == 0 else alive & (ks < terms)
    return tl.load(pointer + row * width + start + step * ks, mask=mask, other=0.0, cache_modifier=".cg")


@triton.jit
def multiply(
    acc,
    pointer,
    row,
    width: tl.constexpr,
    start: tl.constexpr,
    step: tl.constexpr,
    terms: tl.constexpr,
    alive,
    held,
    packed,
    part,
    first: tl.constexpr,
    DEPTH: tl.constexpr,
    COLUMNS: tl.constexpr,
    BK: tl.constexpr,
    HELD: tl.constexpr,
    TYPE: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """acc plus `terms` columns of a matrix times weights, whose rows for them begin at `first`."""
    if HELD:
        for k in tl.static_range(0, terms, BK):
            a = rows_of(pointer, row, width, start, step, terms, k, alive, BK)
            w = held[(first + k) // BK]
            acc = tl.dot(a.to(w.dtype).to(TYPE), w.to(TYPE), acc, input_precision=PRECISION)
    else:
        for k in tl.range(0, terms, BK, num_stages=1):
            a = rows_of(pointer, row, width, start, step, terms, k, alive, BK)
            w = weights(packed, part, first + k, DEPTH, COLUMNS, BK)
            acc = tl.dot(a.to(w.dtype).to(TYPE), w.to(TYPE), acc, input_precision=PRECISION)
    return acc


# Over all programs of a group.


@triton.jit
def meet(counter, goal):
    """Wait until `goal` programs have come here, and all that they wrote can be read."""
    tl.debug_barrier()
    tl.atomic_add(counter, 1, sem="release")
    while tl.atomic_add(counter, 0, sem="acquire") < goal:
        pass
    tl.debug_barrier()


@triton.jit
def leave(pointer, which, part, PARTS: tl.constexpr, rows, seat, alive, value):
    """Write this program's part of a reduction over columns, one number a row."""
    tl.store(pointer + (which * PARTS + part) * rows + seat, value, mask=alive)


@triton.jit
def parts_of(pointer, which, PARTS: tl.constexpr, SPREAD: tl.constexpr, rows, seat, alive, none, real: tl.constexpr):
    """All programs' parts of a reduction, side by side: (rows, SPREAD), `none` where there is no program."""
    part = tl.arange(0, SPREAD)[None, :]
    at = pointer + (which * PARTS + part) * rows + seat
    return tl.load(at, mask=alive & (part < PARTS), other=none, cache_modifier=".cg").to(real)


@triton.jit
def total_sum(pointer, which, PARTS: tl.constexpr, SPREAD: tl.constexpr, rows, seat, alive, real: tl.constexpr):
    return tl.sum(parts_of(pointer, which, PARTS, SPREAD, rows, seat, alive, 0.0, real), 1, keep_dims=True)


@triton.jit
def total_max(pointer, which, PARTS: tl.constexpr, SPREAD: tl.constexpr, rows, seat, alive, real: tl.constexpr):
    found = parts_of(pointer, which, PARTS, SPREAD, rows, seat, alive, float("-inf"), real)
    return tl.reduce(found, 1, v_max, keep_dims=True)


@triton.jit
def total_min(pointer, which, PARTS: tl.constexpr, SPREAD: tl.constexpr, rows, seat, alive, real: tl.constexpr):
    found = parts_of(pointer, which, PARTS, SPREAD, rows, seat, alive, float("inf"), real)
    return tl.reduce(found, 1, v_min, keep_dims=True)
