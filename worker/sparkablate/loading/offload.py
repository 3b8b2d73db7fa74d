"""Where the layers lie that memory has no room for: a directory that goes when the model goes.

What a checkpoint holds as it is used is read from its own files; only tensors that are merged on their way in
(experts) are copied.
"""

from __future__ import annotations

import weakref
from collections import Counter
from pathlib import Path
from typing import Any

import torch

from sparkablate.errors import SparkablateError
from sparkablate.loading import folders, memory
from sparkablate.loading.home import home

#: Of the memory that weights may take, what layers that stay there get; the others are read into the rest.
RESIDENT = 0.5
#: The same of a GPU that has memory of its own, where layers stay: activations and one layer that passes by.
PLACED = 0.8


def root() -> Path:
    return home() / "offload"


def placement(rooms: dict[int | str, int]) -> dict[str, Any]:
    """Options of `from_pretrained`: as many layers where there is room, the others on disk, in a directory
    that `keep_while` or `folders.remove` takes away. Raises ``load_failed`` where none can be made."""
    try:
        folder = folders.make(root())
    except OSError as error:
        raise SparkablateError(
            "load_failed",
            f"layers that do not fit the memory go to a directory in {root()}, which cannot be "
            f"created ({error}); set SPARKABLATE_HOME to another place",
        ) from error
    return {"device_map": "auto", "max_memory": rooms, "offload_folder": folder}


def room(device: torch.device) -> dict[int | str, int]:
    """accelerate's `max_memory`: bytes on the device; none beside an accelerator, whose layers go to disk."""
    held = int(memory.budget(device).usable * RESIDENT)
    return {"cpu": held} if device.type == "cpu" else {device.index or 0: held, "cpu": 0}


def rooms(device: torch.device) -> dict[int | str, int]:
    """The same where layers may lie on every GPU of the device's kind, whose bits are the same, and in main
    memory, from which they are copied at every pass."""
    if device.type == "cpu" or memory.shares_system_memory(device):
        return room(device)
    name = torch.cuda.get_device_name(device)
    alike = [at for at in range(torch.cuda.device_count()) if torch.cuda.get_device_name(at) == name]
    usable = {at: memory.budget(torch.device("cuda", at)).usable for at in alike}
    found: dict[int | str, int] = {at: int(size * PLACED) for at, size in usable.items()}
    return {**found, **room(torch.device("cpu"))}


def places(model: Any) -> str:
    """Where accelerate put the parts of the model, in words."""
    counts = Counter(str(place) for place in model.hf_device_map.values())
    parts = ", ".join(f"{count} on {place}" for place, count in counts.items())
    return (
        f"of its parts lie {parts}; what is on disk or beside the device is fetched at every pass, which "
        "is slow"
    )


def keep_while(model: Any, folder: str) -> None:
    """Removes the directory once the model is freed."""
    weakref.finalize(model, folders.remove, folder)
