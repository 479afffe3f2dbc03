"""C functions on torch's own OpenMP threads: as many as asked for, cheaply, without the GIL, and never hanging."""

import ctypes
import multiprocessing
import os
import signal
import threading
import time
import warnings
from pathlib import Path

import pytest
import torch

from cellwright.kernels.c import openmp
from cellwright.kernels.c.build import find_compiler, load
from cellwright.kernels.c.openmp import launch, thread_functions

pytestmark = pytest.mark.skipif(find_compiler() is None, reason="needs a C compiler")
parallel = pytest.mark.skipif(thread_functions() == (0, 0), reason="torch has no OpenMP here")
SOURCE = """
struct work { int (*thread)(void), (*threads)(void); int calls[16]; volatile int begun, go_on; int team; };
void count(void *argument) {
    struct work *w = argument;
    int thread = w->thread ? w->thread() : 0;
    w->calls[thread]++;
    if (thread == 0) w->team = w->threads ? w->threads() : 1;
}
void wait(void *argument) {
    struct work *w = argument;
    w->begun = 1;
    while (!w->go_on) ;
}
void nothing(void *argument) { }
"""


class Work(ctypes.Structure):
    _fields_ = [
        *(("thread", ctypes.c_void_p), ("threads", ctypes.c_void_p), ("calls", ctypes.c_int * 16)),
        *(("begun", ctypes.c_int), ("go_on", ctypes.c_int), ("team", ctypes.c_int)),
    ]


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    folder = tmp_path_factory.mktemp("openmp")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CELLWRIGHT_CACHE", str(folder / "cache"))
        yield load(SOURCE, folder)


@pytest.fixture(autouse=True)
def threads_of_torch():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def calls(function, threads):
    """How often each thread was in a function launched once, and how many the team had."""
    work = Work(*thread_functions())
    launch(function, ctypes.addressof(work), threads)
    assert sum(work.calls) == work.team
    return [n for n in work.calls if n], work.team


def forked(work, seconds=20):
    """The exit status of a forked process that does some work; it is killed if it hangs."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12: torch has threads
        process = os.fork()
    if process == 0:
        status = 1
        try:
            signal.signal(signal.SIGALRM, signal.SIG_DFL)  # a handler in Python would wait for the C function
            signal.alarm(seconds)
            work()
            status = 0
        finally:
            os._exit(status)
    return os.waitpid(process, 0)[1]


@parallel
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_each_thread_calls_the_function_once(library, threads):
    assert calls(library.count, threads) == ([1] * threads, threads)


def test_functions_and_arguments_come_in_all_forms(library):
    address = ctypes.cast(library.count, ctypes.c_void_p).value
    for function in (library.count, address, ctypes.CFUNCTYPE(None, ctypes.c_void_p)(address)):
        for threads in (1, 2):
            work = Work(*thread_functions())
            for argument in (ctypes.addressof(work), ctypes.byref(work), ctypes.pointer(work)):
                launch(function, argument, threads)
            assert work.calls[0] == 3


@parallel
@pytest.mark.skipif(not os.path.exists("/proc/self/maps"), reason="needs Linux")
def test_the_runtime_is_torchs_and_the_only_one(library):
    calls(library.count, 2)
    lines = [line.split() for line in Path("/proc/self/maps").read_text().splitlines()]
    named = [(line[0].split("-"), line[5]) for line in lines if len(line) == 6]
    runtimes = {path for _, path in named if any(name in Path(path).name for name in ("libgomp", "libomp", "libiomp"))}
    homes = {
        path
        for (start, end), path in named
        for address in thread_functions()
        if int(start, 16) <= address < int(end, 16)
    }
    assert homes == runtimes
    assert len(runtimes) == 1


@parallel
def test_torchs_number_of_threads_may_change_between(library):
    numbers = torch.randn(300_000)
    for torchs in (1, 2, 3, 1, 2):
        torch.set_num_threads(torchs)
        for ours in (1, 2, 3):
            total = numbers.exp().sum()
            assert calls(library.count, ours)[1] == ours
            torch.testing.assert_close(numbers.exp().sum(), total)
        assert torch.get_num_threads() == torchs


@pytest.mark.parametrize("threads", [1, 2])
def test_python_runs_on_meanwhile(library, threads):
    work = Work()
    thread = threading.Thread(target=launch, args=(library.wait, ctypes.addressof(work), threads))
    thread.start()
    end = time.monotonic() + 20
    while not work.begun and time.monotonic() < end:
        time.sleep(0.001)
    assert thread.is_alive()
    work.go_on = 1
    thread.join(20)
    assert work.begun
    assert not thread.is_alive()


@parallel
def test_python_threads_launch_at_the_same_time(library):
    works = [Work(*thread_functions()) for _ in range(2)]

    def many(work):
        for _ in range(200):
            launch(library.count, ctypes.addressof(work), 2)

    threads = [threading.Thread(target=many, args=(work,)) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert [list(work.calls[:3]) for work in works] == [[200, 200, 0]] * 2


def test_a_forked_process_has_one_thread_and_does_not_hang(library):
    calls(library.count, 2)  # the parent's team exists; in the child it does not

    def work():
        assert calls(library.count, 2) == ([1], 1)
        assert calls(ctypes.cast(library.count, ctypes.c_void_p).value, 2) == ([1], 1)

    assert forked(work) == 0
    if thread_functions() != (0, 0):
        assert calls(library.count, 2) == ([1, 1], 2)  # the parent's is as it was


class Launching(torch.utils.data.Dataset):
    def __init__(self, function):
        self.function = function

    def __len__(self):
        return 2

    def __getitem__(self, index):
        return calls(self.function, 2)[1]


def test_workers_of_a_data_loader_have_one_thread(library):
    calls(library.count, 2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        context = multiprocessing.get_context("fork")
        loader = torch.utils.data.DataLoader(
            Launching(library.count), num_workers=1, multiprocessing_context=context, timeout=20
        )
        assert [int(team) for team in loader] == [1, 1]


def test_without_a_runtime_there_is_one_thread(library, monkeypatch):
    monkeypatch.setattr(openmp, "_loaded_libraries", lambda: [library])
    assert openmp._find() is None
    monkeypatch.setattr(openmp, "_team", None)
    monkeypatch.setattr(openmp, "_runtime", None)
    assert thread_functions() == (0, 0)
    assert calls(library.count, 4) == ([1], 1)


@parallel
def test_torchs_own_library_leads_to_the_same_runtime():
    addresses = {openmp._address(handle.GOMP_parallel) for handle in openmp._loaded_libraries()}
    assert len(addresses) == 1


@pytest.mark.alone
@pytest.mark.parametrize(("threads", "limit"), [(1, 10e-6), (2, 60e-6)])
def test_a_launch_costs_microseconds(library, threads, limit):
    best = float("inf")
    for _ in range(15):  # the quietest moment of a busy machine
        start = time.perf_counter()
        for _ in range(50):
            launch(library.nothing, 0, threads)
        best = min(best, (time.perf_counter() - start) / 50)
    assert best < limit
