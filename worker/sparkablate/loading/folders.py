"""Directories that live as long as their process; the next process removes what a killed one left."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

#: Directories of this process → the descriptor of the lock that says so.
_locks: dict[str, int] = {}


def make(root: Path) -> str:
    """A new directory in ``root``; abandoned ones are removed. Its lock is held as long as it, and this
    process, live."""
    root.mkdir(parents=True, exist_ok=True)
    with _gate(root):
        _remove_abandoned(root)
        made = Path(tempfile.mkdtemp(dir=root))
        lock = os.open(made / "lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        _locks[str(made)] = lock
        fcntl.flock(lock, fcntl.LOCK_EX)
    return str(made)


def remove(folder: str) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    if (lock := _locks.pop(folder, None)) is not None:
        os.close(lock)


def remove_all() -> None:
    """For a process that ends without freeing what uses them."""
    for folder in list(_locks):
        remove(folder)


def sweep(root: Path) -> None:
    """Removes the directories of processes that were killed."""
    if root.is_dir():
        with _gate(root):
            _remove_abandoned(root)


@contextmanager
def _gate(root: Path) -> Iterator[None]:
    """One process at a time makes and removes directories."""
    with (root / "lock").open("w") as gate:
        fcntl.flock(gate, fcntl.LOCK_EX)
        yield


def _remove_abandoned(root: Path) -> None:
    for other in root.iterdir():
        if other.is_dir() and _abandoned(other):
            shutil.rmtree(other, ignore_errors=True)


def _abandoned(folder: Path) -> bool:
    try:
        with (folder / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except FileNotFoundError:
        return True
    except BlockingIOError:
        return False
    return True
