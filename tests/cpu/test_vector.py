"""kernels/c/vector.h against longdouble: ulp over dense grids, torch's special values, no lane touched beyond n."""

import ctypes
import functools
import math
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch

HEADER = Path(__file__).parents[2] / "cellwright" / "kernels" / "c" / "vector.h"
COMPILER = shutil.which("gcc") or shutil.which("cc")
pytestmark = pytest.mark.skipif(COMPILER is None, reason="no C compiler")

TYPES: dict[str, type[np.floating]] = {"float": np.float32, "double": np.float64}
FLAGS = {
    "avx512": (64, ["-O3", "-mavx512f", "-mfma"]),
    "avx2": (32, ["-O3", "-mavx2", "-mfma", "-mno-avx512f"]),
    "plain": (16, ["-O2"]),
}
NEEDS = {"avx512": "__AVX512F__", "avx2": "__AVX2__"}

Array = np.ndarray
Function = Callable[[Array], Array]


def sigmoid(x: Array) -> Array:
    values: Array = 1 / (1 + np.exp(-x))
    return values


def erf(x: Array) -> Array:
    values: Array = torch.erf(torch.from_numpy(x.astype(np.float64))).numpy()
    return values


class Bound(NamedTuple):
    """A longdouble reference, the most ulp, and how far its even grid reaches: in float and in double."""

    reference: Function
    ulp: tuple[float, float]
    reach: tuple[float, float]


ACCURATE = {
    "exp": Bound(np.exp, (1.2, 1.2), (104, 746)),
    "sigmoid": Bound(sigmoid, (2, 2), (87.3, 708)),
    "tanh": Bound(np.tanh, (2.1, 2.1), (12, 24)),  # 2.1 without fma, 1.7 with it
    "expm1": Bound(np.expm1, (1.7, 2.3), (90, 711)),
    "log": Bound(np.log, (1.2, 1.2), (4, 4)),
    "log1p": Bound(np.log1p, (1.6, 1.6), (4, 4)),
    "sqrt": Bound(np.sqrt, (0.5, 0.501), (4, 4)),
    "rsqrt": Bound(lambda x: 1 / np.sqrt(x), (1.5, 1.5), (4, 4)),
    "recip": Bound(lambda x: 1 / x, (0.5, 0.501), (4, 4)),
    "erf": Bound(erf, (1.5, 3), (6, 6)),
    "sin": Bound(np.sin, (1, 1), (100, 100)),
    "cos": Bound(np.cos, (1, 1), (100, 100)),
    "atan": Bound(np.arctan, (1, 1), (100, 100)),
}
EXACT: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "neg": torch.neg,
    "abs": torch.abs,
    "floor": torch.floor,
    "ceil": torch.ceil,
    "round": torch.round,
    "trunc": torch.trunc,
    "sign": torch.sign,
    "relu": torch.relu,
}
BINARY = ("min", "max", "pow")
REDUCE: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {"sum": torch.sum, "max": torch.amax, "min": torch.amin}


def source() -> str:
    """C around the header: each function over an array whose length is a multiple of VL, each n a constant."""
    lines = ['#include "vector.h"', "const int lanes = VL;", "const int bytes = sizeof(vec);"]
    lines += [
        f"void on_{name}(const real *x, real *y, long n)"
        f" {{ for (long i = 0; i < n; i += VL) v_store(y + i, v_{name}(v_load(x + i))); }}"
        for name in [*ACCURATE, *EXACT]
    ]
    lines += [
        f"void on_{name}2(const real *x, const real *z, real *y, long n)"
        f" {{ for (long i = 0; i < n; i += VL) v_store(y + i, v_{name}(v_load(x + i), v_load(z + i))); }}"
        for name in BINARY
    ]
    lines.append(
        "void on_where(const real *x, const real *z, real *y, long n)"
        " { for (long i = 0; i < n; i += VL) { vec a = v_load(x + i), b = v_load(z + i);"
        " v_store(y + i, v_where(a < b, a, v_set1((real)0.5))); } }"
    )
    lines.append("real sum(const real *x) { return v_sum(v_load(x)); }")
    cases = range(1, 17)
    for head, statement in [
        ("void load_n(const real *x, real *y, int n)", "v_store(y, v_load_n(x, {n})); break;"),
        ("void store_n(const real *x, real *y, int n)", "v_store_n(y, v_load(x), {n}); break;"),
        ("void gather(const real *x, real *y, int n)", "v_store(y, v_gather(x, 3, {n})); break;"),
        *((f"real {name}_n(const real *x, int n)", f"return v_{name}_n(v_load(x), {{n}});") for name in REDUCE),
    ]:
        body = "\n".join(f"#if {n} <= VL\n case {n}: {statement.format(n=n)}\n#endif" for n in cases)
        end = " return 0;" if head.startswith("real") else ""
        lines.append(f"{head} {{ switch (n) {{\n{body}\n }}{end} }}")
    return "\n".join(lines) + "\n"


class Built(NamedTuple):
    """One compiled library: its C functions on arrays of `dtype`."""

    library: ctypes.CDLL
    dtype: type[np.floating]
    lanes: int

    def __call__(self, name: str, *inputs: Array) -> Array:
        """The C function over whole arrays, padded to full vectors."""
        size = inputs[0].size
        padded = [np.concatenate([x, np.ones(-size % self.lanes)]).astype(self.dtype) for x in inputs]
        out = np.empty_like(padded[0])
        pointers = [ctypes.c_void_p(a.ctypes.data) for a in [*padded, out]]
        getattr(self.library, "on_" + name)(*pointers, ctypes.c_long(out.size))
        return out[:size]

    def real(self, name: str, x: Array, *n: int) -> float:
        """A C function of one vector to a number."""
        function = getattr(self.library, name)
        function.restype = ctypes.c_float if self.dtype is np.float32 else ctypes.c_double
        return float(function(ctypes.c_void_p(x.ctypes.data), *n))


@functools.cache
def macros() -> str:
    """What this CPU can run, as the compiler's macros; empty where it cannot tell."""
    assert COMPILER
    command = [COMPILER, "-march=native", "-dM", "-E", "-x", "c", "/dev/null"]
    return subprocess.run(command, capture_output=True, text=True).stdout


@pytest.fixture(scope="module", params=[(t, f) for t in TYPES for f in FLAGS], ids="-".join)
def built(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Built:
    real, flags = request.param
    if flags in NEEDS and NEEDS[flags] not in macros():
        pytest.skip(f"this CPU has no {flags}")
    folder = tmp_path_factory.mktemp("vector")
    (folder / "v.c").write_text(source())
    size, options = FLAGS[flags]
    options = [*options, "-ffp-contract=fast", "-fno-math-errno", "-std=c11", "-Wall", "-Wextra", "-Werror"]
    define = ["-DREAL_DOUBLE"] if real == "double" else []
    assert COMPILER
    command = [COMPILER, *options, *define, "-shared", "-fPIC", f"-I{HEADER.parent}", "v.c", "-o", "v.so", "-lm"]
    subprocess.run(command, cwd=folder, check=True)
    library = ctypes.CDLL(str(folder / "v.so"))
    assert ctypes.c_int.in_dll(library, "bytes").value == size
    return Built(library, TYPES[real], ctypes.c_int.in_dll(library, "lanes").value)


def special(dtype: type[np.floating]) -> Array:
    """Zeros, units, halves, infinities, NaN, denormals, the ends of the range and of exp's."""
    info = np.finfo(dtype)
    ends = [info.tiny, info.max, info.smallest_subnormal, info.tiny / 2, info.eps, info.tiny * (1 - info.eps)]
    small = [0, 0.5, 1, 1.5, 2, 2.5, 3, 10, 50, 87.33, 88.72, 88.73, 89, 100, 103.9, 104, 150, 708.3, 709.78, 709.79]
    values = np.array([*small, 710, 745, 746, 1000, 1e6, 2.0**23 + 1, 1e10, *ends, np.inf, np.nan], dtype)
    return np.concatenate([values, -values])


def grid(dtype: type[np.floating], reach: float) -> Array:
    """Both signs: evenly over the reach, finely about 0 and 1, and in every binade of the type."""
    rng = np.random.default_rng(0)
    info = np.finfo(dtype)
    binades = 2.0 ** rng.uniform(np.log2(float(info.tiny)) + 1, np.log2(float(info.max)) - 1, 20_000)
    positive = np.concatenate([np.linspace(0, reach, 40_001), np.linspace(0, 1.5, 30_001), binades])
    positive = np.concatenate([positive, 2.0 ** rng.uniform(-30, 3, 10_000), 1 + rng.uniform(-1, 1, 10_000) / 64])
    both = np.concatenate([positive, -positive]).astype(dtype)
    return both


def ulps(got: Array, want: Array) -> Array:
    """Distance in units of the last place of the right result; 0 where both are the same special value."""
    dtype = got.dtype
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        nearest = want.astype(dtype)
        unit = np.spacing(np.abs(np.where(np.isfinite(nearest), nearest, np.finfo(dtype).max)))
        error = np.abs(got.astype(np.longdouble) - want) / unit
    same = (got == nearest) | (np.isnan(got) & np.isnan(nearest))
    return np.where(np.isfinite(nearest), error, np.where(same, 0, np.inf)).astype(float)


def worst(built: Built, name: str) -> tuple[float, float]:
    """The greatest error of a function over its grid, and where."""
    reference, _, reach = ACCURATE[name]
    x = grid(built.dtype, reach[built.dtype is np.float64])
    if name in ("sin", "cos"):  # longdouble reduces no greater angle
        x = x[np.abs(x) <= reach[0]]
    with np.errstate(all="ignore"):
        want = reference(x.astype(np.longdouble))
    if name == "sigmoid":  # torch's is 0 where exp(-x) overflows, and so is ours
        normal = want >= np.finfo(x.dtype).tiny
        x, want = x[normal], want[normal]
    error = ulps(built(name, x), want)
    at = int(np.nanargmax(error))
    assert not np.isnan(error).any()
    return float(error[at]), float(x[at])


def assert_identical(got: Array, want: Array) -> None:
    """Equal, NaN where NaN, and zeros of the same sign."""
    np.testing.assert_array_equal(got, want)
    np.testing.assert_array_equal(np.signbit(got[want == 0]), np.signbit(want[want == 0]))


@pytest.mark.parametrize("name", ACCURATE)
def test_errors_are_within_the_bound(built: Built, name: str) -> None:
    most = ACCURATE[name].ulp[built.dtype is np.float64]
    error, at = worst(built, name)
    assert error <= most, f"v_{name}({at!r}) is {error:.2f} ulp off"


@pytest.mark.parametrize("name", ACCURATE)
def test_special_values_are_those_of_torch(built: Built, name: str) -> None:
    x = special(built.dtype)
    if name in ("sin", "cos"):
        x = x[~(np.abs(x) > 1e4) | np.isinf(x)]
    function = {"recip": "reciprocal"}.get(name, name)
    want = getattr(torch, function)(torch.from_numpy(x)).numpy()
    got = built(name, x)
    plain = np.isfinite(want) & (want != 0)
    if name == "log1p":  # torch's loses the least denormals; ours keeps them
        plain |= x != 0
        want = np.where(np.abs(x) < np.finfo(x.dtype).tiny, x, want)
    assert_identical(got[~plain], want[~plain])
    assert ulps(got[plain], want[plain].astype(np.longdouble)).max() <= 4


@pytest.mark.parametrize("name", EXACT)
def test_exact_functions_equal_those_of_torch(built: Built, name: str) -> None:
    x = np.concatenate([special(built.dtype), grid(built.dtype, 100), np.arange(-9, 9, 0.25).astype(built.dtype)])
    got, want = built(name, x), EXACT[name](torch.from_numpy(x)).numpy()
    np.testing.assert_array_equal(got, want)
    if name not in ("relu", "sign"):
        assert_identical(got, want)


def test_functions_of_two(built: Built) -> None:
    values = special(built.dtype)
    x, z = (a.ravel() for a in np.meshgrid(values, values))
    for name, function in {"min2": torch.minimum, "max2": torch.maximum}.items():
        np.testing.assert_array_equal(built(name, x, z), function(torch.from_numpy(x), torch.from_numpy(z)).numpy())
    np.testing.assert_array_equal(built("where", x, z), np.where(x < z, x, built.dtype(0.5)))
    with np.errstate(all="ignore"):
        want = np.power(x.astype(np.longdouble), z.astype(np.longdouble))
    assert ulps(built("pow2", x, z), want).max() <= 1


def test_first_lanes_only(built: Built) -> None:
    """Loads end at the last byte before a page that cannot be read; stores leave what is beyond."""
    library, lanes = built.library, built.lanes
    x = np.arange(1, 3 * lanes + 1).astype(built.dtype)
    for n in range(1, lanes + 1):
        want = np.where(np.arange(lanes) < n, x[:lanes], 0)
        fenced = fence(x[:n].tobytes())
        got = np.full(lanes, -1, built.dtype)
        library.load_n(ctypes.c_void_p(fenced), ctypes.c_void_p(got.ctypes.data), n)
        np.testing.assert_array_equal(got, want)
        library.gather(ctypes.c_void_p(fence(x[: 3 * (n - 1) + 1].tobytes())), ctypes.c_void_p(got.ctypes.data), n)
        np.testing.assert_array_equal(got, np.where(np.arange(lanes) < n, x[::3], 0))
        got = np.full(lanes + 1, -1, built.dtype)
        library.store_n(ctypes.c_void_p(x.ctypes.data), ctypes.c_void_p(got.ctypes.data), n)
        np.testing.assert_array_equal(got, np.where(np.arange(lanes + 1) < n, x[: lanes + 1], -1))


def fence(data: bytes) -> int:
    """The address of a copy of the data that ends where readable memory ends (POSIX; never freed)."""
    libc = ctypes.CDLL(None)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
    page = 16384
    private_anonymous = 0x22 if sys.platform == "linux" else 0x1002
    start: int = libc.mmap(None, 2 * page, 3, private_anonymous, -1, 0)
    assert libc.mprotect(ctypes.c_void_p(start + page), ctypes.c_size_t(page), 0) == 0
    ctypes.memmove(start + page - len(data), data, len(data))
    return start + page - len(data)


def test_reductions(built: Built) -> None:
    rng = np.random.default_rng(0)
    for n in range(1, built.lanes + 1):
        x = rng.normal(size=built.lanes).astype(built.dtype)
        tolerance = float(np.finfo(built.dtype).eps * np.abs(x).sum())
        for name, of in REDUCE.items():
            want = of(torch.from_numpy(x[:n])).item()
            assert built.real(f"{name}_n", x, n) == pytest.approx(want, rel=0, abs=tolerance if name == "sum" else 0)
            for bad in range(built.lanes):
                broken = x.copy()
                broken[bad] = np.nan
                assert math.isnan(built.real(f"{name}_n", broken, n)) == (bad < n)
        assert built.real("sum", x) == pytest.approx(x.sum(dtype=float), rel=0, abs=tolerance)
