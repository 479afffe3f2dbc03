"""contract.h compiled as it is and called through ctypes: A^T D against numpy, its edges, its order of adding."""

import ctypes
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

KERNELS = Path(__file__).parents[2] / "cellwright" / "kernels" / "c"
COMPILER = shutil.which("gcc") or shutil.which("cc")
FLAGS = {
    "sse": [],
    "avx2": ["-mavx2", "-mfma"],
    "avx512": ["-mavx512f", "-mavx512vl", "-mfma"],
    "amx": ["-mavx512f", "-mavx512vl", "-mfma", "-mamx-tile", "-mamx-bf16"],
}
NEEDS = {"sse": {"sse2"}, "avx2": {"avx2", "fma"}, "avx512": {"avx512f", "avx512vl", "fma"}}
NEEDS["amx"] = {*NEEDS["avx512"], "amx_tile", "amx_bf16"}
TEAM = """
#include <pthread.h>
#include "contract.h"
typedef struct {
    const contract_job *jobs;
    const Block *blocks;  // in their place
    long count, K;
    contract_room room;
} Share;
static void *share(void *given) {
    const Share s = *(Share *)given;
    if (s.jobs) contract_jobs(s.jobs, s.count, s.room);
    else contract(s.blocks, s.count, s.K, s.room.at, s.room.barrier, s.room.me, s.room.team);
    return 0;
}
// As so many threads at once.
static void together(Share given, real *scratch, int team) {
    Barrier barrier = {0};
    Share shares[8];
    pthread_t threads[8];
    for (int me = team - 1; me >= 0; me--) {
        shares[me] = given, shares[me].room = (contract_room){scratch, 0, 0, &barrier, me, team};
        pthread_create(threads + me, 0, share, shares + me);
    }
    for (int me = 0; me < team; me++) pthread_join(threads[me], 0);
}
long scratch(long K, long M, long N, int team) {
    const Block block = {0, M, 0, N, 0, M, N, N};
    return contract(&block, 1, K, 0, 0, 0, team);
}
"""
WRAPPER = """
void run(const real *A, long lda, const real *D, long ldd, real *C, long ldc, long segment, long K, long M, long N,
         real *scratch, int team) {
    const contract_job job = contract_plan(A, lda, D, ldd, C, ldc, segment, K, M, N);
    together((Share){.jobs = &job, .count = 1}, scratch, team);
}
// The columns of A are those of so many products that share D. Returns how much scratch they need.
long run_parts(const real *A, const real *D, real *C, long K, long M, long N, long parts, real *scratch, int team) {
    Block blocks[64];
    for (long p = 0; p < parts; p++) {
        const long from = M * p / parts, rows = M * (p + 1) / parts - from;
        blocks[p] = (Block){A + from, M, D, N, C + from * N, rows, N, N};
    }
    if (scratch) together((Share){.blocks = blocks, .count = parts, .K = K}, scratch, team);
    return contract(blocks, parts, K, 0, 0, 0, team);
}
"""
# Any products: of each, addresses and row lengths of A and D, the address of C, rows and columns. Returns as above.
BLOCKS = """
long run_blocks(const long *given, long count, long K, real *scratch, int team) {
    Block blocks[CONTRACT_MOST];
    for (long i = 0; i < count; i++, given += 7)
        blocks[i] = (Block){(real *)given[0], given[1], (real *)given[2], given[3],
                            (real *)given[4], given[5], given[6], given[6]};
    if (scratch) together((Share){.blocks = blocks, .count = count, .K = K}, scratch, team);
    return contract(blocks, count, K, 0, 0, 0, team);
}
"""
# Every array ends (or starts) where its last (first) page does, between pages that may not be touched.
FENCE = """
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
static real *fenced(long reals, int at_end) {
    const long page = 65536, bytes = reals * (long)sizeof(real), whole = (bytes + page - 1) / page * page;
    char *p = mmap(0, whole + 2 * page, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED || mprotect(p + page, whole, PROT_READ | PROT_WRITE)) exit(2);
    return (real *)(p + page + (at_end ? whole - bytes : 0));
}
int main(int count, char **sizes) {
    for (int i = 1; i + 2 < count; i += 3)
        for (int team = 1; team < 4; team++)
            for (int at_end = 0; at_end < 2; at_end++) {
                const long K = atol(sizes[i]), M = atol(sizes[i + 1]), N = atol(sizes[i + 2]);
                real *A = fenced(K * M, at_end), *D = fenced(K * N, at_end), *C = fenced(M * N, at_end);
                const Block block = {A, M, D, N, C, M, N, N};
                together((Share){.blocks = &block, .count = 1, .K = K}, fenced(scratch(K, M, N, team), at_end), team);
            }
    puts("done");
}
"""
SENTINEL = 12345.0

pytestmark = pytest.mark.skipif(COMPILER is None, reason="no C compiler")


def cpu_flags() -> set[str]:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return set()
    return next((set(line.split()) for line in lines if line.startswith("flags")), set())


class Contract:
    """The compiled header, for one element type."""

    def __init__(self, library: Path, dtype: type) -> None:
        self.dtype = dtype
        self.library = ctypes.CDLL(str(library))
        pointer, long, integer = ctypes.c_void_p, ctypes.c_long, ctypes.c_int
        self.library.run.argtypes = [pointer, long] * 3 + [long] * 4 + [pointer, integer]
        self.library.run.restype = None
        self.library.run_parts.argtypes = [pointer] * 3 + [long] * 4 + [pointer, integer]
        self.library.run_parts.restype = long
        self.library.run_blocks.argtypes = [pointer, long, long, pointer, integer]
        self.library.run_blocks.restype = long
        self.library.scratch.argtypes = [long] * 3 + [integer]
        self.library.scratch.restype = long

    def __call__(
        self,
        A: np.ndarray,
        D: np.ndarray,
        gaps: tuple[int, int, int] = (0, 0, 0),
        team: int = 1,
        shift: int = 0,
        segments: int = 1,
    ) -> np.ndarray:
        """A^T D, from inputs in a sea of NaN (`gaps` between rows, and before and after) to an output in one of 12345.

        `shift` moves every array off its alignment.
        """
        (K, M), N = A.shape, D.shape[1]
        a, a_view = self.guarded(A, gaps[0], shift, np.nan)
        d, d_view = self.guarded(D, gaps[1], shift, np.nan)
        c, c_view = self.guarded(np.full((segments * M, N // segments), SENTINEL), gaps[2], shift, SENTINEL)
        s, s_view = self.guarded(np.full((1, self.library.scratch(K, M, N, team)), np.nan), 0, shift, SENTINEL)
        before = a.copy(), d.copy()
        strides = M + gaps[0], N + gaps[1], N // segments + gaps[2]
        self.library.run(
            *(a_view.ctypes.data, strides[0], d_view.ctypes.data, strides[1], c_view.ctypes.data, strides[2]),
            *(N // segments, K, M, N, s_view.ctypes.data, team),
        )
        np.testing.assert_array_equal(a, before[0])
        np.testing.assert_array_equal(d, before[1])
        result = np.concatenate(np.split(c_view.copy(), segments), axis=1)
        c_view[:] = s_view[:] = SENTINEL
        assert np.all(c == SENTINEL), "wrote outside of C"
        assert np.all(s == SENTINEL), "wrote outside of the scratch"
        return result

    def guarded(self, x: np.ndarray, gap: int, shift: int, fill: float) -> tuple[np.ndarray, np.ndarray]:
        """The flat array with its guards, and the view of it that holds x."""
        rows, cols = x.shape
        guard = 128
        flat = np.full(2 * guard + shift + rows * (cols + gap), fill, self.dtype)
        inner = flat[guard + shift : guard + shift + rows * (cols + gap)]
        view = inner.reshape(rows, cols + gap)[:, :cols]
        view[:] = x
        return flat, view


KINDS = pytest.mark.parametrize(
    "kind", [(name, real) for name in FLAGS for real in ("float", "double")], ids="-".join, scope="module"
)


def build(kind: tuple[str, str], folder: Path, source: str, *flags: str) -> Path:
    name, real = kind
    if not NEEDS[name] <= cpu_flags():
        pytest.skip(f"this machine does not run {name}")
    (folder / "wrap.c").write_text(TEAM + source)
    flags = (
        "-O3",
        "-std=gnu11",
        "-ffp-contract=fast",
        "-Wall",
        "-Wextra",
        "-Werror",
        "-Wno-unused-function",
        "-pthread",
        *flags,
    )
    define = ["-DREAL_DOUBLE"] if real == "double" else []
    command = [str(COMPILER), *flags, *FLAGS[name], *define, f"-I{KERNELS}", "wrap.c", "-o", "wrap", "-lm"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder / "wrap"


@pytest.fixture(scope="module")
def contract(kind: tuple[str, str], tmp_path_factory: pytest.TempPathFactory) -> Contract:
    library = build(kind, tmp_path_factory.mktemp("contract"), WRAPPER + BLOCKS, "-fPIC", "-shared")
    return Contract(library, np.float64 if kind[1] == "double" else np.float32)


def draw(contract: Contract, K: int, M: int, N: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    return random.standard_normal((K, M)).astype(contract.dtype), random.standard_normal((K, N)).astype(contract.dtype)


def check(contract: Contract, A: np.ndarray, D: np.ndarray, result: np.ndarray) -> None:
    """Within the bound for sums in any order, but with the root of K: no more is lost than by chance."""
    wide = np.longdouble if contract.dtype is np.float64 and A.size * D.shape[1] < 10**7 else np.float64
    exact = A.astype(wide).T @ D.astype(wide)
    size = np.abs(A).astype(wide).T @ np.abs(D).astype(wide)
    bound = np.finfo(contract.dtype).eps * (2 + np.sqrt(len(A))) * size
    assert np.all(np.abs(result - exact) <= bound), float(np.max(np.abs(result - exact) / (bound + 1e-300)))


SIZES = [
    *[(1, 1, 1), (1, 28, 33), (2, 1, 650), (3, 650, 1), (7, 6, 64), (7, 7, 65), (16, 13, 1), (50, 5, 63), (5, 1, 128)],
    *[(100, 256, 192), (257, 12, 130), (385, 28, 33), (511, 33, 28), (769, 40, 96), (700, 65, 260), (1120, 28, 200)],
    *[(3, 2600, 70), (400, 1000, 66), (900, 3, 1024), (2000, 1, 512), (600, 512, 3), (50000, 2, 33), (50000, 1, 4)],
    (1540, 20, 40),  # in thirds a half of k needs blocks deeper than the whole
]


@KINDS
@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("team", [1, 2, 3])
def test_sum(contract: Contract, size: tuple[int, int, int], team: int) -> None:
    A, D = draw(contract, *size)
    check(contract, A, D, contract(A, D, team=team))


@KINDS
@settings(max_examples=150, deadline=None, database=None, derandomize=True)
@given(
    K=st.integers(1, 1800),
    M=st.integers(1, 90),
    N=st.integers(1, 150),
    gaps=st.tuples(*[st.integers(0, 9)] * 3),
    team=st.integers(1, 7),
    shift=st.integers(0, 20),
)
def test_sum_of_any_shape(
    contract: Contract, K: int, M: int, N: int, gaps: tuple[int, int, int], team: int, shift: int
) -> None:
    A, D = draw(contract, K, M, N, seed=K)
    check(contract, A, D, contract(A, D, gaps, team, shift))


@KINDS
@pytest.mark.parametrize(
    "size", [(40, 7, 8), (401, 28, 256), (30, 70, 2600), (90, 650, 12), (500, 300, 6), (500, 90, 32)], ids=str
)
@pytest.mark.parametrize("gaps", [(0, 0, 0), (3, 1, 5)], ids=["close", "gaps"])
def test_segments_are_the_same_sums_elsewhere(
    contract: Contract, size: tuple[int, int, int], gaps: tuple[int, int, int]
) -> None:
    A, D = draw(contract, *size)
    alone = contract(A, D)
    for segments in (1, 2, size[2]):
        for team in (1, 3):
            np.testing.assert_array_equal(alone, contract(A, D, gaps, team, segments=segments))


@KINDS
@pytest.mark.parametrize("size", [(40, 70, 8), (401, 280, 256), (30, 70, 260), (700, 650, 90)], ids=str)
def test_products_that_share_d_are_the_same_sums(contract: Contract, size: tuple[int, int, int]) -> None:
    K, M, N = size
    A, D = draw(contract, *size)
    for parts in (2, 5, 12):
        for team in (1, 3):
            C = np.full((M, N), SENTINEL, contract.dtype)
            a, d, c = (one.ctypes.data for one in (A, D, C))
            scratch = np.empty(contract.library.run_parts(a, d, c, K, M, N, parts, None, team), contract.dtype)
            contract.library.run_parts(a, d, c, K, M, N, parts, scratch.ctypes.data, team)
            check(contract, A, D, C)


Columns = tuple[str, int, int]
"""Of a matrix by name, from and to."""
FAMILIES: dict[str, list[tuple[Columns, Columns]]] = {
    "of a GRU": [(("h", 0, 64), ("d", 0, 192)), (("x", 0, 28), ("d", 64, 256))],
    "of a GRU, turned": [(("d", 64, 192), ("h", 0, 64)), (("d", 0, 64), ("h", 0, 64)), (("d", 64, 256), ("x", 0, 28))],
    "of an MGU": [(("e", 0, 64), ("d", 0, 64)), (("x", 0, 28), ("d", 0, 128)), (("h", 0, 64), ("d", 64, 128))],
    "nothing in common": [(("h", 0, 64), ("d", 192, 256)), (("h", 0, 64), ("d", 0, 64))],
    "the same twice": [(("h", 0, 40), ("d", 0, 96)), (("h", 0, 40), ("d", 0, 96)), (("h", 0, 64), ("d", 32, 96))],
    "one twice": [(("e", 0, 64), ("d", 0, 128)), (("h", 0, 64), ("d", 0, 64)), (("h", 0, 64), ("d", 64, 128))],
    "off the grid": [(("h", 0, 64), ("d", 0, 192)), (("h", 0, 64), ("d", 50, 250)), (("x", 3, 28), ("d", 64, 256))],
}
WIDTHS = {"h": 64, "e": 64, "x": 28, "d": 256}


def run_blocks(
    contract: Contract, matrices: dict[str, np.ndarray], family: list[tuple[Columns, Columns]], team: int
) -> list[np.ndarray]:
    """All products of a family at once, each in a sea of 12345."""
    given, results = [], []
    for (left, start, stop), (right, begin, end) in family:
        A, D = matrices[left][:, start:stop], matrices[right][:, begin:end]
        results.append(np.full((stop - start + 2, end - begin), SENTINEL, contract.dtype))
        given += [
            A.ctypes.data,
            WIDTHS[left],
            D.ctypes.data,
            WIDTHS[right],
            results[-1][1:].ctypes.data,
            *results[-1].shape,
        ]
        given[-2] -= 2
    table, K = np.array(given, np.int64), len(matrices["h"])
    size = contract.library.run_blocks(table.ctypes.data, len(family), K, None, team)
    scratch = np.full(size + 1, SENTINEL, contract.dtype)
    contract.library.run_blocks(table.ctypes.data, len(family), K, scratch.ctypes.data, team)
    edges = [scratch[-1], *(one[place, 0] for one in results for place in (0, -1))]
    assert edges == [SENTINEL] * len(edges), "wrote outside of C or the scratch"
    return [one[1:-1] for one in results]


@KINDS
@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("K", [40, 700])
def test_products_that_read_some_of_the_same_columns(contract: Contract, name: str, K: int) -> None:
    random = np.random.default_rng(K)
    matrices = {one: random.standard_normal((K, width)).astype(contract.dtype) for one, width in WIDTHS.items()}
    found = {team: run_blocks(contract, matrices, FAMILIES[name], team) for team in (1, 2, 3, 8)}
    for place, ((left, start, stop), (right, begin, end)) in enumerate(FAMILIES[name]):
        check(contract, matrices[left][:, start:stop], matrices[right][:, begin:end], found[1][place])
        for other in found.values():
            np.testing.assert_array_equal(found[1][place], other[place])


@KINDS
def test_a_number_that_is_not_finite_leaves_products_alone_that_do_not_read_it(contract: Contract) -> None:
    random = np.random.default_rng(0)
    matrices = {one: random.standard_normal((90, width)).astype(contract.dtype) for one, width in WIDTHS.items()}
    matrices["d"][30, 200] = np.inf
    (h, x) = run_blocks(contract, matrices, FAMILIES["of a GRU"], 2)
    check(contract, matrices["h"], matrices["d"][:, :192], h)
    assert np.isfinite(np.delete(x, 200 - 64, axis=1)).all()
    assert not np.isfinite(x[:, 200 - 64]).any()


@KINDS
@pytest.mark.parametrize(
    "size", [(900, 31, 200), (900, 200, 5), (5000, 1, 130), (300, 700, 100), (999, 40, 49)], ids=str
)
def test_same_bits_for_any_team_and_alignment(contract: Contract, size: tuple[int, int, int]) -> None:
    A, D = draw(contract, *size)
    alone = contract(A, D)
    for team in (1, 2, 3, 8):
        np.testing.assert_array_equal(alone, contract(A, D, gaps=(team, 1, 3), team=team, shift=team))


@KINDS
@pytest.mark.parametrize(
    "size", [(1, 1, 1), (400, 8, 70), (400, 70, 8), (900, 1, 33), (33, 90, 1), (200, 20, 40)], ids=str
)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_not_a_number_goes_where_a_plain_sum_takes_it(
    contract: Contract, size: tuple[int, int, int], value: float
) -> None:
    K, M, N = size
    A, D = draw(contract, *size)
    A[:, 0] = 0  # 0 * inf
    A[K // 2, M - 1] = value
    D[K // 3, N - 1] = value
    with np.errstate(invalid="ignore"):
        expected = (A.astype(np.float64)[:, :, None] * D.astype(np.float64)[:, None, :]).sum(0)
    result = contract(A, D, gaps=(1, 1, 1), team=2)
    finite = np.isfinite(expected)
    np.testing.assert_array_equal(result[~finite], expected[~finite].astype(contract.dtype))
    assert np.all(np.isfinite(result[finite]))


@KINDS
def test_nothing_to_sum_is_zero(contract: Contract) -> None:
    result = contract(np.zeros((0, 7), contract.dtype), np.zeros((0, 40), contract.dtype), team=2)
    np.testing.assert_array_equal(result, np.zeros((7, 40)))


@KINDS
def test_touches_nothing_outside(kind: tuple[str, str], tmp_path: Path) -> None:
    program = build(kind, tmp_path, FENCE)
    sizes = [str(side) for size in SIZES for side in size]
    done = subprocess.run([str(program), *sizes], capture_output=True, text=True)
    assert done.stdout == "done\n", f"exit status {done.returncode}"
