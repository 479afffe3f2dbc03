"""The folders that cached files lie in, and whether another user could put files of his own there."""

from __future__ import annotations

import atexit
import functools
import os
import shutil
import stat
import sys
import tempfile
from pathlib import Path

if sys.platform != "win32":  # there, nothing is compiled, and nothing asks whose a folder is
    import grp
    import pwd


def user_cache() -> Path:
    """Where this user's cached files are kept: `~/.cache/cellwright`, or under $XDG_CACHE_HOME.

    >>> user_cache().name
    'cellwright'

    Raises:
        OSError: this user has no home directory.
    """
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    try:
        return Path(base).expanduser() / "cellwright"
    except RuntimeError as error:
        raise OSError(str(error)) from error


def own_folder(path: Path) -> Path:
    """Make a folder where there is none; return its real path once only this user can change what lies in it.

    The path that comes back holds no symbolic link: whoever turns a link elsewhere afterwards changes nothing.

    >>> own_folder(private_folder(os.getpid())).is_dir()
    True

    Raises:
        OSError: it cannot be made, or its rights or those of a folder above let others replace files; says which.
    """
    real = Path(os.path.realpath(path))
    for folder in (*reversed(real.parents), real):
        if not folder.exists():
            folder.mkdir(mode=0o700, exist_ok=True)
    for folder in (real, *real.parents):
        if reason := _distrusted(folder, inner=folder == real):
            raise PermissionError(f"{folder} {reason}")
    return real


def own_file(path: Path) -> bool:
    """Whether a path is a plain file (no link) of this user's that nobody else may write.

    >>> own_file(Path("/no/such/file"))
    False
    """
    try:
        info = path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    return stat.S_ISREG(info.st_mode) and info.st_uid == os.geteuid() and not info.st_mode & 0o022


@functools.cache
def private_folder(process: int) -> Path:
    """A fresh folder of a process's own (pass `os.getpid()`: a fork gets another), removed when it exits."""
    folder = Path(tempfile.mkdtemp(prefix="cellwright-"))
    atexit.register(_remove, folder, process)
    return folder


def _remove(folder: Path, process: int) -> None:
    if os.getpid() == process:  # a forked child runs its parent's handlers too
        shutil.rmtree(folder, ignore_errors=True)


def _distrusted(folder: Path, inner: bool) -> str | None:
    """What lets others replace files in a folder, or the next folder on the way to them; None if nothing does."""
    info = folder.lstat()
    # Whoever owns "/" can do all anyway: root, or what root is called inside a container.
    owners = {os.geteuid()} if inner else {0, os.geteuid(), os.lstat("/").st_uid}
    if not stat.S_ISDIR(info.st_mode):
        return "is not a directory"
    if info.st_uid not in owners:
        return f"belongs to another user ({info.st_uid})"
    if inner:
        return "can be written by others" if info.st_mode & 0o022 else None
    if info.st_mode & stat.S_ISVTX:  # as /tmp: others may add names there, but not replace ours
        return None
    if info.st_mode & 0o002 or (info.st_mode & 0o020 and not _only_mine(info.st_gid)):
        return "can be written by others"
    return None


def _only_mine(group: int) -> bool:
    """Whether a group is this user's own and of nobody else: most Linux systems give each user such a one.

    With it goes the umask 002, so that `~/.cache` may be writable by "the group", which is the user again.
    """
    try:
        user, entry = pwd.getpwuid(os.geteuid()), grp.getgrgid(group)
    except KeyError:
        return False
    return user.pw_gid == group and entry.gr_name == user.pw_name and set(entry.gr_mem) <= {user.pw_name}
