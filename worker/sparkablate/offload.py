"""Where the layers lie that memory has no room for: a directory that goes when the model goes.

What a checkpoint holds as it is used is read from its own files; only tensors that are merged on their way in
(experts) are copied.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from sparkablate import memory
from sparkablate.errors import SparkablateError
from sparkablate.home import home

#: Of the memory that weights may take, what layers that stay there get; the others are read into the rest.
RESIDENT = 0.5


#: Directories of this process → the descriptor of the lock that says so.
_locks: dict[str, int] = {}


def placement(device: torch.device) -> dict[str, Any]:
    """Options of `from_pretrained`: as many layers in memory as have room, the others on disk, in a directory
    that `keep_while` or `remove` takes away. Raises ``load_failed`` where none can be made."""
    try:
        folder = _folder()
    except OSError as error:
        raise SparkablateError(
            "load_failed",
            f"layers that do not fit the memory go to a directory in {home() / 'offload'}, which cannot be "
            f"made ({error}); SPARKABLATE_HOME may name another place",
        ) from error
    return {"device_map": "auto", "max_memory": room(device), "offload_folder": folder}


def room(device: torch.device) -> dict[int | str, int]:
    """accelerate's `max_memory`: bytes on the device; none beside an accelerator, whose layers go to disk."""
    held = int(memory.budget(device).usable * RESIDENT)
    return {"cpu": held} if device.type == "cpu" else {device.index or 0: held, "cpu": 0}


def keep_while(model: Any, options: dict[str, Any]) -> None:
    """Removes the directory once the model is freed."""
    weakref.finalize(model, remove, options["offload_folder"])


def remove(folder: str) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    if (lock := _locks.pop(folder, None)) is not None:
        os.close(lock)


def remove_all() -> None:
    """For a process that ends without freeing its models."""
    for folder in list(_locks):
        remove(folder)


def sweep() -> None:
    """Removes the directories of processes that were killed."""
    if (root := home() / "offload").is_dir():
        with _gate(root):
            _remove_abandoned(root)


def _folder() -> str:
    """A new directory; abandoned ones are removed. Its lock is held as long as it, and the process, live."""
    root = home() / "offload"
    root.mkdir(parents=True, exist_ok=True)
    with _gate(root):
        _remove_abandoned(root)
        made = Path(tempfile.mkdtemp(dir=root))
        lock = os.open(made / "lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        _locks[str(made)] = lock
        fcntl.flock(lock, fcntl.LOCK_EX)
    return str(made)


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
