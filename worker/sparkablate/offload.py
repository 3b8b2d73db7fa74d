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
from pathlib import Path
from typing import Any

import torch

from sparkablate import memory
from sparkablate.home import home

#: Of the memory that weights may take, what layers that stay there get; the others are read into the rest.
RESIDENT = 0.5


def placement(device: torch.device) -> dict[str, Any]:
    """Options of `from_pretrained`: as many layers in memory as have room, the others on disk."""
    return {"device_map": "auto", "max_memory": room(device), "offload_folder": str(_folder())}


def room(device: torch.device) -> dict[int | str, int]:
    """accelerate's `max_memory`: bytes on the device; none beside an accelerator, whose layers go to disk."""
    held = int(memory.budget(device).usable * RESIDENT)
    return {"cpu": held} if device.type == "cpu" else {device.index or 0: held, "cpu": 0}


def keep_while(model: Any, options: dict[str, Any]) -> None:
    """Removes the directory once the model is freed."""
    weakref.finalize(model, shutil.rmtree, options["offload_folder"], ignore_errors=True)


def _folder() -> Path:
    """A new directory; those of processes that were killed are removed. The descriptor of its lock stays open
    as long as the process lives."""
    root = home() / "offload"
    root.mkdir(parents=True, exist_ok=True)
    with (root / "lock").open("w") as gate:
        fcntl.flock(gate, fcntl.LOCK_EX)
        for other in root.iterdir():
            if other.is_dir() and _abandoned(other):
                shutil.rmtree(other, ignore_errors=True)
        made = Path(tempfile.mkdtemp(dir=root))
        fcntl.flock(os.open(made / "lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600), fcntl.LOCK_EX)
    return made


def _abandoned(folder: Path) -> bool:
    try:
        with (folder / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except FileNotFoundError:
        return True
    except BlockingIOError:
        return False
    return True
