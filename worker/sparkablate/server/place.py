"""Where a worker may listen: checked before the slow imports, so with nothing but Python's own modules."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import socket
import stat
import sys
import time
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

from sparkablate.errors import SparkablateError

#: ipc paths are limited by sockaddr_un, less its closing zero.
MAX_IPC_PATH_BYTES = 107 if sys.platform == "linux" else 103
LOOPBACK = ("127.0.0.1", "localhost", "[::1]")
#: A directory that a controller made for the socket of its own worker: src/link/spawn.ts.
_PRIVATE = re.compile(r"sparkablate-[A-Za-z0-9]{6}")
#: A controller has made its directory, and the worker that is to hold it has not yet begun.
_STARTING_S = 600.0


def check_address(bind: str, authenticated: bool) -> str:
    """Refuses addresses that others could reach: only ``ipc://`` in a private directory, or loopback, unless
    every client has to prove itself."""
    parts = urlsplit(bind)
    if parts.scheme == "ipc":
        _check_socket(Path(bind.removeprefix("ipc://")))
        return bind
    loopback = any(parts.netloc.startswith(f"{host}:") for host in LOOPBACK)
    if parts.scheme == "tcp" and (loopback or authenticated):
        return bind
    raise SparkablateError(
        "usage",
        f"--bind {bind}: only ipc:// or a loopback tcp:// address; anything else would be open to others"
        + (" without --keys" if parts.scheme == "tcp" else ""),
    )


def _check_socket(path: Path) -> None:
    directory = path.parent
    if len(os.fsencode(path)) > MAX_IPC_PATH_BYTES:
        raise SparkablateError("usage", f"--bind: {path} is longer than {MAX_IPC_PATH_BYTES} bytes")
    try:
        mode = directory.stat().st_mode
    except FileNotFoundError as error:
        raise SparkablateError("usage", f"--bind: the directory {directory} does not exist") from error
    except OSError as error:
        raise SparkablateError("usage", f"--bind: {directory}: {error.strerror}") from error
    if not stat.S_ISDIR(mode):
        raise SparkablateError("usage", f"--bind: {directory} is not a directory")
    if mode & 0o077:
        # Never chmod: what others may enter may be theirs as well, such as /tmp.
        raise SparkablateError(
            "usage",
            f"--bind: others may enter {directory}; leave out --bind, or make a directory of your own for"
            " the socket with 'mkdir -m 700 DIRECTORY'",
        )
    if not os.access(directory, os.W_OK | os.X_OK):
        raise SparkablateError("usage", f"--bind: {directory} cannot be written")
    if path.is_symlink() or (path.exists() and not path.is_socket()):
        raise SparkablateError("usage", f"--bind: {path} already exists, and is not a socket")
    if answers(path):
        # libzmq would silently take the path over from a worker that still listens there.
        raise SparkablateError("usage", f"--bind: another worker listens on {path}")


def answers(path: Path) -> bool:
    """Whether somebody listens on a socket. The file of a dead worker's stays, and is taken over."""
    with socket.socket(socket.AF_UNIX) as probe:
        return probe.connect_ex(os.fspath(path)) == 0


def remove_socket(bind: str) -> None:
    """libzmq leaves the file of an ``ipc://`` address behind."""
    if bind.startswith("ipc://"):
        Path(bind.removeprefix("ipc://")).unlink(missing_ok=True)


def leave(bind: str) -> None:
    """Removes the socket and, where it was made for this worker, its directory."""
    with suppress(OSError):
        remove_socket(bind)
        directory = Path(bind.removeprefix("ipc://")).parent
        if _PRIVATE.fullmatch(directory.name):
            directory.rmdir()


def hold(bind: str) -> None:
    """Marks a directory that was made for this worker as in use, for as long as this process lives, and
    removes those beside it whose controllers and workers were killed."""
    directory = Path(bind.removeprefix("ipc://")).parent
    if not bind.startswith("ipc://") or not _PRIVATE.fullmatch(directory.name):
        return
    with suppress(OSError):  # a file system without locks, or a directory of others: nothing is removed
        _lock(directory)
        for other in directory.parent.iterdir():
            if other != directory and _PRIVATE.fullmatch(other.name):
                _remove_abandoned(other)


def _lock(directory: Path) -> int:
    """A descriptor that holds the directory. Raises ``BlockingIOError`` where another process does."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def _remove_abandoned(directory: Path) -> None:
    """Only ours, holding nothing but a socket on which nobody listens, and not one that was just made."""
    with suppress(OSError):
        descriptor = _lock(directory)
        try:
            found = os.fstat(descriptor)
            young = abs(time.time() - found.st_mtime) < _STARTING_S
            names = os.listdir(descriptor)
            private = found.st_uid == os.geteuid() and stat.S_IMODE(found.st_mode) == 0o700
            ours = private and not set(names) - {"worker.sock"}
            # Version 0.1.0 held no lock.
            if ours and not young and not (names and answers(directory / "worker.sock")):
                shutil.rmtree(directory)
        finally:
            os.close(descriptor)
