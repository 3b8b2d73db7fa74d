"""Where the layers lie that memory has no room for: a directory that goes when the model goes.

What a checkpoint holds as it is used is read from its own files; only tensors that are merged on their way in
(experts) are copied.
"""

from __future__ import annotations

import weakref
from pathlib import Path
from typing import Any

import torch

from sparkablate import folders, memory
from sparkablate.errors import SparkablateError
from sparkablate.home import home

#: Of the memory that weights may take, what layers that stay there get; the others are read into the rest.
RESIDENT = 0.5


def root() -> Path:
    return home() / "offload"


def placement(device: torch.device) -> dict[str, Any]:
    """Options of `from_pretrained`: as many layers in memory as have room, the others on disk, in a directory
    that `keep_while` or `folders.remove` takes away. Raises ``load_failed`` where none can be made."""
    try:
        folder = folders.make(root())
    except OSError as error:
        raise SparkablateError(
            "load_failed",
            f"layers that do not fit the memory go to a directory in {root()}, which cannot be "
            f"made ({error}); SPARKABLATE_HOME may name another place",
        ) from error
    return {"device_map": "auto", "max_memory": room(device), "offload_folder": folder}


def room(device: torch.device) -> dict[int | str, int]:
    """accelerate's `max_memory`: bytes on the device; none beside an accelerator, whose layers go to disk."""
    held = int(memory.budget(device).usable * RESIDENT)
    return {"cpu": held} if device.type == "cpu" else {device.index or 0: held, "cpu": 0}


def keep_while(model: Any, options: dict[str, Any]) -> None:
    """Removes the directory once the model is freed."""
    weakref.finalize(model, folders.remove, options["offload_folder"])
