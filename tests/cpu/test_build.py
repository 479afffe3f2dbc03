"""Compiling and loading C: once for a machine, never half a file, never a file that others could have written."""

import ctypes
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import warnings

import pytest

from cellwright import cache
from cellwright.errors import BackendError
from cellwright.kernels.c import build, compiler, flags
from cellwright.kernels.c.build import find_compiler, library_path, load

GCC = shutil.which("gcc") or shutil.which("cc")
pytestmark = pytest.mark.skipif(GCC is None, reason="needs a C compiler")
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files to others")
SOURCE = '#include "seven.h"\nint answer(void) { return SEVEN * 6; }\n'


@pytest.fixture(autouse=True)
def fresh(monkeypatch, tmp_path):
    """A cache of the test's own, and a process that has neither loaded nor found anything yet."""
    for name in ("CC", "CELLWRIGHT_CFLAGS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("CELLWRIGHT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(build, "_loaded", {})
    monkeypatch.setattr(build, "_warned", set())
    compiler._find.cache_clear()
    yield
    compiler._find.cache_clear()


@pytest.fixture
def headers(tmp_path):
    folder = tmp_path / "headers"
    folder.mkdir()
    (folder / "seven.h").write_text("#define SEVEN 7\n")
    return folder


def script(path, text):
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


def forget():
    build._loaded.clear()


def forbid_compiling(monkeypatch):
    monkeypatch.setattr(build, "compile_library", lambda *_: pytest.fail("it was compiled again"))


def forked(work):
    """A forked process that does some work; its exit status is 0 if that returns."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12: torch has threads
        process = os.fork()
    if process == 0:
        status = 1
        try:
            work()
            status = 0
        finally:
            os._exit(status)
    return process


# Loading


def test_a_source_is_compiled_with_its_headers_and_kept_beside_its_library(headers, tmp_path):
    library = load(SOURCE, headers)
    assert library.answer() == 42
    path = library_path(SOURCE, headers)
    assert path.parent == tmp_path / "cache"
    assert sorted(file.suffix for file in path.parent.iterdir()) == [".c", ".sha256", ".so"]
    assert path.with_suffix(".c").read_text() == SOURCE
    assert path.parent.stat().st_mode & 0o777 == 0o700


def test_a_process_loads_once_and_the_next_one_does_not_compile(headers, monkeypatch):
    library = load(SOURCE, headers)
    forbid_compiling(monkeypatch)
    assert load(SOURCE, headers) is library
    forget()
    assert load(SOURCE, headers).answer() == 42


def test_a_library_is_known_by_all_that_it_depends_on(headers, monkeypatch, tmp_path):
    paths = [library_path(SOURCE, headers), library_path(SOURCE + " ", headers)]
    (headers / "seven.h").write_text("#define SEVEN 8\n")
    paths.append(library_path(SOURCE, headers))
    monkeypatch.setenv("CELLWRIGHT_CFLAGS", "-g")
    paths.append(library_path(SOURCE, headers))
    monkeypatch.setenv("CC", script(tmp_path / "bin" / "newcc", "echo newcc 1"))
    paths.append(library_path(SOURCE, headers))
    script(tmp_path / "bin" / "newcc", "echo newcc 2")
    compiler._find.cache_clear()
    paths.append(library_path(SOURCE, headers))
    monkeypatch.setattr(build, "machine", lambda: ("another",))
    paths.append(library_path(SOURCE, headers))
    assert len(set(paths)) == 7


def test_the_machine_is_its_kind_and_the_instructions_of_its_processor():
    assert sys.platform in build.machine()
    if os.path.exists("/proc/cpuinfo"):
        assert any(line.startswith(("flags", "Features", "isa")) for line in build.machine())
        assert not any("MHz" in line for line in build.machine())


def test_the_cache_is_a_folder_of_the_users(monkeypatch, tmp_path):
    monkeypatch.delenv("CELLWRIGHT_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert build.cache_folder() == tmp_path / "cellwright" / "c"


def test_many_processes_build_the_same_at_once(headers):
    (started, start), (path, expected) = os.pipe(), (library_path(SOURCE, headers), 42)

    def work():
        os.close(start)
        os.read(started, 1)  # until the parent closes its end: all begin together
        assert load(SOURCE, headers).answer() == expected

    processes = [forked(work) for _ in range(16)]
    os.close(start)
    assert [os.waitpid(process, 0)[1] for process in processes] == [0] * 16
    os.close(started)
    assert len(list(path.parent.iterdir())) == 3
    assert load(SOURCE, headers).answer() == expected


def build_in_another_process(headers):
    """Fill the cache; the loader of this process, which remembers files by name, has not seen the library."""
    assert os.waitpid(forked(lambda: load(SOURCE, headers)), 0)[1] == 0


def truncate(path):
    os.truncate(path, path.stat().st_size // 2)


def flip(path):
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def replace_by_text_with_its_digest(path):
    path.write_text("no library")
    path.with_suffix(".sha256").write_text(build._digest(path))


def replace_by_a_link(path):
    path.rename(path.parent / "elsewhere.so")
    path.symlink_to(path.parent / "elsewhere.so")


DAMAGES = {
    "truncated": truncate,
    "a bit flipped": flip,
    "empty": lambda path: os.truncate(path, 0),
    "no record": lambda path: path.with_suffix(".sha256").unlink(),
    "no text": lambda path: path.with_suffix(".sha256").write_bytes(b"\xff" * 64),
    "not a library": replace_by_text_with_its_digest,
    "a link": replace_by_a_link,
    "others may write it": lambda path: path.chmod(0o777),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_library_is_built_again(damage, headers, monkeypatch):
    build_in_another_process(headers)
    path = library_path(SOURCE, headers)
    damage(path)
    assert load(SOURCE, headers).answer() == 42
    assert path.lstat().st_mode & 0o777 == 0o700
    forget()
    forbid_compiling(monkeypatch)
    assert load(SOURCE, headers).answer() == 42


@as_root
def test_a_library_of_another_user_is_built_again(headers):
    build_in_another_process(headers)
    path = library_path(SOURCE, headers)
    os.chown(path, 12345, 12345)
    assert load(SOURCE, headers).answer() == 42
    assert path.stat().st_uid == 0


def test_files_are_the_users_own_whatever_the_umask(headers, monkeypatch):
    before = os.umask(0)
    try:
        load(SOURCE, headers)
    finally:
        os.umask(before)
    forget()
    forbid_compiling(monkeypatch)
    assert load(SOURCE, headers).answer() == 42


def test_an_interrupted_build_leaves_no_half_files(headers, monkeypatch, tmp_path):
    slow = 'case "$*" in *-shared*) touch cell.so; sleep 20;; *) exec ' + GCC + ' "$@";; esac'
    monkeypatch.setenv("CC", script(tmp_path / "bin" / "slowcc", slow))

    def interrupt(*_):
        raise KeyboardInterrupt

    def interrupt_while_it_links():
        while not list((tmp_path / "cache").glob(".new-*/cell.so")):
            time.sleep(0.01)
        time.sleep(0.1)
        signal.pthread_kill(threading.main_thread().ident, signal.SIGALRM)

    before = signal.signal(signal.SIGALRM, interrupt)
    threading.Thread(target=interrupt_while_it_links, daemon=True).start()
    try:
        start = time.monotonic()
        with pytest.raises(KeyboardInterrupt):
            load(SOURCE, headers)
        assert time.monotonic() - start < 10  # what the compiler started is ended too
    finally:
        signal.signal(signal.SIGALRM, before)
    assert [file.suffix for file in (tmp_path / "cache").iterdir()] == [".c"]


def test_what_killed_builds_left_is_removed_after_a_while(headers, tmp_path):
    old, new = tmp_path / "cache" / ".new-old", tmp_path / "cache" / ".new-new"
    old.mkdir(parents=True)
    new.mkdir()
    (tmp_path / "cache").chmod(0o700)
    os.utime(old, (time.time() - 1e5,) * 2)
    load(SOURCE, headers)
    assert (old.exists(), new.exists()) == (False, True)


# Folders that others could write


def elsewhere(headers, reason):
    """Loads, expecting a private folder and one warning with the reason."""
    with pytest.warns(UserWarning, match=reason):
        library = load(SOURCE, headers)
    assert library.answer() == 42
    assert load(SOURCE + "\n", headers).answer() == 42  # a second warning would be an error


@pytest.mark.parametrize("mode", [0o777, 0o775, 0o1777, 0o757])
def test_a_folder_that_others_may_write_is_not_used(mode, headers, tmp_path):
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache").chmod(mode)
    elsewhere(headers, "cache can be written by others")
    assert list((tmp_path / "cache").iterdir()) == []


@as_root
def test_a_folder_of_another_user_is_not_used(headers, monkeypatch, tmp_path):
    (tmp_path / "cache").mkdir(mode=0o755)
    os.chown(tmp_path / "cache", 12345, 12345)
    elsewhere(headers, "belongs to another user")
    monkeypatch.setenv("CELLWRIGHT_CACHE", str(tmp_path / "cache" / "inner"))
    with pytest.raises(PermissionError, match="cache belongs to another user"):
        cache.own_folder(build.cache_folder())


@pytest.mark.parametrize(
    ("mode", "mine", "trusted"),
    [(0o777, True, False), (0o1777, False, True), (0o775, True, True), (0o775, False, False), (0o755, False, True)],
)
def test_folders_above_are_looked_at_too(mode, mine, trusted, monkeypatch, tmp_path):
    monkeypatch.setattr(cache, "_only_mine", lambda group: mine)
    (tmp_path / "above").mkdir()
    (tmp_path / "above").chmod(mode)
    if trusted:
        assert cache.own_folder(tmp_path / "above" / "mine") == tmp_path / "above" / "mine"
    else:
        with pytest.raises(PermissionError, match="above can be written by others"):
            cache.own_folder(tmp_path / "above" / "mine")


def test_the_users_own_group_is_nobody_else(monkeypatch):
    def only_mine(group, name, members):
        entry = cache.grp.struct_group((name, "", group, members))
        monkeypatch.setattr(cache.grp, "getgrgid", lambda _: entry)
        return cache._only_mine(group)

    monkeypatch.setattr(cache.pwd, "getpwuid", lambda _: cache.pwd.struct_passwd(("me", "", 1, 5, "", "", "")))
    assert only_mine(5, "me", [])
    assert only_mine(5, "me", ["me"])
    assert not only_mine(5, "me", ["you"])
    assert not only_mine(5, "staff", [])
    assert not only_mine(6, "me", [])


def test_a_link_counts_for_what_it_leads_to(headers, tmp_path):
    for name, mode in (("good", 0o700), ("bad", 0o777)):
        (tmp_path / name).mkdir()
        (tmp_path / name).chmod(mode)
        (tmp_path / f"to {name}").symlink_to(tmp_path / name)
    assert cache.own_folder(tmp_path / "to good" / "c") == tmp_path / "good" / "c"
    with pytest.raises(PermissionError, match="bad can be written by others"):
        cache.own_folder(tmp_path / "to bad")


def test_a_folder_that_cannot_be_made_is_replaced_by_a_private_one(headers, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("CELLWRIGHT_CACHE", str(tmp_path / "file" / "cache"))
    elsewhere(headers, "file")
    assert list(cache.private_folder(os.getpid()).glob("*.so"))


def test_a_full_disk_is_not_taken_for_an_error_in_the_source(headers, monkeypatch, tmp_path):
    full = f'case "$PWD" in {tmp_path}/cache/*) echo as: No space left on device >&2; exit 1;; esac\nexec {GCC} "$@"'
    monkeypatch.setenv("CC", script(tmp_path / "bin" / "fullcc", full))
    elsewhere(headers, "No space left on device")


def test_without_any_folder_the_error_says_what_is_needed(headers, monkeypatch, tmp_path):
    monkeypatch.setenv("CELLWRIGHT_CACHE", "/dev/null/cache")
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    monkeypatch.setattr(build, "private_folder", lambda process: tmp_path / "open")
    with pytest.raises(BackendError, match=r"a folder of your own; got .*null.*open can be written.*CELLWRIGHT_CACHE"):
        load(SOURCE, headers)


def test_a_private_folder_is_removed_when_its_process_ends_and_not_by_a_fork(tmp_path):
    code = (
        "import os, sys; sys.path.insert(0, sys.argv[1]); import cache\n"
        "folder = cache.private_folder(os.getpid()); process = os.fork()\n"
        "if process: os.wait(); print(folder, folder.exists(), oct(folder.stat().st_mode))"
    )
    command = [sys.executable, "-c", code, os.path.dirname(cache.__file__)]
    said = subprocess.run(command, capture_output=True, text=True, check=True, env={"TMPDIR": str(tmp_path)}).stdout
    assert said.split()[1:] == ["True", "0o40700"]
    assert list(tmp_path.iterdir()) == []


# Compilers


def test_a_compile_error_tells_the_compilers_words_and_keeps_the_source(headers):
    with pytest.raises(BackendError, match=r"SEVENTY.*undeclared") as caught:
        load("int answer(void) { return SEVENTY; }", headers)
    path = library_path("int answer(void) { return SEVENTY; }", headers)
    assert str(path.with_suffix(".c")) in str(caught.value)
    assert path.with_suffix(".c").exists()
    assert not path.exists()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (None, "not found"),
        ("echo mycc 1; echo broken >&2; exit 3", "ended with 3: broken"),
        ("exit 0", "ended with 0"),
        ("exec sleep 9", "no end within 0.2 s"),
    ],
)
def test_a_compiler_chosen_by_name_that_does_not_run_is_an_error(text, reason, monkeypatch, tmp_path, headers):
    monkeypatch.setattr(compiler, "SECONDS_FOR_VERSION", 0.2)
    path = str(tmp_path / "bin" / "mycc") if text is None else script(tmp_path / "bin" / "mycc", text)
    monkeypatch.setenv("CC", path)
    with pytest.raises(BackendError, match=f"CC='{path}'.*{reason}"):
        find_compiler()
    with pytest.raises(BackendError, match=reason):
        load(SOURCE, headers)


def test_a_compiler_chosen_by_name_may_hold_arguments(headers, monkeypatch):
    monkeypatch.setenv("CC", f"{GCC} -DTIMES='2 + 1'")
    assert find_compiler().command == (GCC, "-DTIMES=2 + 1")
    assert load("int answer(void) { return TIMES; }", headers).answer() == 3


def test_a_broken_compiler_is_passed_over(monkeypatch, tmp_path):
    script(tmp_path / "bin" / "cc", "exit 1")
    script(tmp_path / "bin" / "gcc", f'exec {GCC} "$@"')
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    assert find_compiler().command == (str(tmp_path / "bin" / "gcc"),)


def test_without_any_compiler_the_error_says_what_was_tried(headers, monkeypatch, tmp_path):
    script(tmp_path / "bin" / "gcc", "echo broken >&2; exit 1")
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert find_compiler() is None
    with pytest.raises(
        BackendError, match=r"cc: not found; gcc: .*broken; clang: not found; ziglang: not installed.*ins"
    ):
        load(SOURCE, headers)


def test_the_wheel_ziglang_is_the_last_resort(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name == "ziglang")
    assert compiler._candidates("")[-1] == f"{sys.executable} -m ziglang cc"


def test_flags_that_a_compiler_refuses_are_left_out(headers, monkeypatch, tmp_path):
    choosy = f'case "$*" in *-Wno-psabi*) echo unknown flag >&2; exit 1;; esac; exec {GCC} "$@"'
    monkeypatch.setenv("CC", script(tmp_path / "bin" / "choosycc", choosy))
    assert load(SOURCE, headers).answer() == 42
    taken = flags.flags(find_compiler(), tmp_path)
    assert "-fno-math-errno" in taken
    assert "-Wno-psabi" not in taken


def test_flags_of_the_users_come_last_and_win(headers, monkeypatch):
    source = "int answer(void) {\n#ifdef __OPTIMIZE__\nreturn 3;\n#endif\nreturn NUMBER; }"
    monkeypatch.setenv("CELLWRIGHT_CFLAGS", "-O0 -DNUMBER=5")
    assert load(source, headers).answer() == 5
    monkeypatch.setenv("CELLWRIGHT_CFLAGS", "'-O0")
    with pytest.raises(BackendError, match="CELLWRIGHT_CFLAGS"):
        load(source, headers)


def test_vectors_are_as_wide_as_the_processors(tmp_path):
    taken = flags.flags(find_compiler(), tmp_path)
    if any(line.startswith("flags") and "avx512f" in line for line in build.machine()):
        assert "-mprefer-vector-width=512" in taken
    assert any("native" in flag for flag in taken)


NUMBERS = """
#include <math.h>
void select_max(const float *a, const float *b, float *out, int n) {
    for (int i = 0; i < n; i++) out[i] = a[i] > b[i] ? a[i] : b[i];
}
void unordered(const float *a, const float *b, float *out, int n) {
    for (int i = 0; i < n; i++) out[i] = (a[i] != a[i]) + 2 * !(a[i] <= b[i]) + 4 * !!isnan(b[i]) + 8 * !!isinf(a[i]);
}
void arithmetic(const float *a, const float *b, float *out, int n) {
    for (int i = 0; i < n; i++) out[i] = a[i] * 0.0f + (b[i] - b[i]);
}
"""


def test_the_flags_keep_nan_infinity_and_the_sign_of_zero(headers):
    nan, inf = float("nan"), float("inf")
    a, b = [nan, 1.0, nan, inf, -0.0, 0.0, 2.0, -inf] * 8, [1.0, nan, nan, 1.0, 0.0, -0.0, 1.0, inf] * 8
    expected = {
        "select_max": [x if x > y else y for x, y in zip(a, b, strict=True)],
        "unordered": [
            float((x != x) + 2 * (not x <= y) + 4 * (y != y) + 8 * (abs(x) == inf)) for x, y in zip(a, b, strict=True)
        ],
        "arithmetic": [x * 0.0 + (y - y) for x, y in zip(a, b, strict=True)],
    }
    library, Row = load(NUMBERS, headers), ctypes.c_float * len(a)
    for name, right in expected.items():
        out = Row()
        getattr(library, name)(Row(*a), Row(*b), out, len(a))
        assert list(map(repr, out)) == list(map(repr, right)), name
