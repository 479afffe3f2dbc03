"""This machine: what it is, and the most multiply-adds that it can do."""

from __future__ import annotations

import ctypes
import functools
import os
import platform
import subprocess
import tempfile
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

import cellwright
from cellwright.kernels.c import build, openmp
from cellwright.kernels.c.compiler import need_compiler
from cellwright.kernels.c.flags import flags

HEADERS = Path(build.__file__).parent
SECONDS = 0.05  # of one measurement of the peak
TRIES = 12
TELLING = ("avx", "avx2", "fma", "avx512f", "avx512_bf16", "avx512_vnni", "amx_tile", "asimd", "sve")

SOURCE = """// The most that a core can do: independent sums, each product added to one of them, all in registers.
#include "vector.h"

// Enough for two at a time with a latency of six; with two more for the factors they have to fit the registers.
#if VB == 64 || defined(__aarch64__)
#define EACH(DO) DO(0) DO(1) DO(2) DO(3) DO(4) DO(5) DO(6) DO(7) DO(8) DO(9) DO(10) DO(11) \\
    DO(12) DO(13) DO(14) DO(15) DO(16) DO(17) DO(18) DO(19) DO(20) DO(21) DO(22) DO(23)
#define SUMS 24
#else
#define EACH(DO) DO(0) DO(1) DO(2) DO(3) DO(4) DO(5) DO(6) DO(7) DO(8) DO(9) DO(10) DO(11)
#define SUMS 12
#endif

typedef struct { int64_t steps, flops; double seen; } peak_job;  // flops: of all threads that came

void peak(void *argument) {
    peak_job *job = argument;
    const vec factor = v_set1((real)0.999), term = v_set1((real)0.001);
#define BEGIN(i) vec s##i = v_set1((real)(i));
#define STEP(i) s##i = s##i * factor + term;
#define END(i) sum += s##i;
    EACH(BEGIN)
    for (int64_t step = 0; step < job->steps; step++) { EACH(STEP) }
    vec sum = {0};
    EACH(END)
    if (sum[0] < 0) job->seen = sum[0];  // never so, but the compiler has to do the sums
    __atomic_fetch_add(&job->flops, job->steps * SUMS * VL * 2, __ATOMIC_RELAXED);
}
"""


class Job(ctypes.Structure):
    """`peak_job` in C."""

    _fields_ = [("steps", ctypes.c_int64), ("flops", ctypes.c_int64), ("seen", ctypes.c_double)]


@functools.cache
def peak(threads: int) -> float:
    """The most float32 operations in a second that so many threads reached, in GF/s; the best of some tries."""
    function = build.load(SOURCE, HEADERS).peak
    steps, best = 10_000, 0.0
    for _ in range(TRIES):
        job = Job(steps)
        begin = time.perf_counter()
        openmp.launch(function, ctypes.byref(job), threads)
        seconds = time.perf_counter() - begin
        best = max(best, job.flops / seconds / 1e9)
        steps = max(steps, int(steps * SECONDS / seconds))
    return best


def describe() -> dict[str, str]:
    """The processor, the compiler and its flags, and the versions of what all benchmarks use."""
    compiler = need_compiler()
    with tempfile.TemporaryDirectory() as folder:
        taken = " ".join(flags(compiler, Path(folder)))
    name, features = _processor()
    return {
        "processor": f"{name}, {os.cpu_count()} cores seen, {len(os.sched_getaffinity(0))} allowed",
        "instructions": " ".join(one for one in TELLING if one in features) or platform.machine(),
        "memory": f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GiB",
        "system": f"{platform.system()} {platform.release()}, Python {platform.python_version()}",
        "compiler": f"{compiler.version.splitlines()[0]}, {taken}",
        "versions": f"cellwright {cellwright.__version__}{_commit()}, torch {torch.__version__}, {versions('numpy')}",
        "load": "{:.2f} {:.2f} {:.2f} when this was asked".format(*os.getloadavg()),
    }


def versions(*packages: str) -> str:
    """As in numpy 2.4.6, jax 0.9.1."""
    return ", ".join(f"{package} {_version(package)}" for package in packages)


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _processor() -> tuple[str, set[str]]:
    known = {}
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
        key, _, value = line.partition(":")
        known.setdefault(key.strip(), value.strip())
    return known.get("model name", platform.processor()), set(known.get("flags", known.get("Features", "")).split())


def _commit() -> str:
    """As in " (1a2b3c4, changed)"; nothing outside of a git repository."""

    def git(*words: str) -> str:
        done = subprocess.run(["git", "-C", str(HEADERS), *words], capture_output=True, text=True)
        return done.stdout.strip()

    try:
        head, changed = git("rev-parse", "--short", "HEAD"), git("status", "--porcelain", "--", str(HEADERS.parents[1]))
    except OSError:
        return ""
    return f" ({head}{', changed' if changed else ''})" if head else ""


if __name__ == "__main__":
    for key, value in describe().items():
        print(f"{key}: {value}")
    print(f"peak: {peak(torch.get_num_threads()):.1f} GF/s float32 on {torch.get_num_threads()} threads")
