"""How much memory a model may take: asked before anything is loaded, and watched afterwards.

The CPU, Apple's GPUs and NVIDIA's integrated ones (GB10: the DGX Spark) share the system's memory. There the
driver's own figure is of no use (``cudaMemGetInfo`` counts the page cache as used), no container limit binds
what CUDA takes, and running out can freeze the machine; so the budget is what the system calls available,
less a reserve. Cards with memory of their own are asked through their driver.
"""

from __future__ import annotations

import gc
import os
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import torch

from sparkablate.errors import SparkablateError
from sparkablate.wording import setting

#: Left free by a budget: activations, the page cache, and everybody else. Share of the total, and the most.
RESERVE = (0.05, 8 << 30)
#: With less of the system's memory available than this, a worker ends itself. Likewise.
FLOOR = (0.02, 2 << 30)
#: So often in a row, a tenth of a second apart, before it does: what others take for a moment comes back.
LOOKS_UNDER_FLOOR = 5
#: Bytes a second; no machine known fills its memory faster. The watch looks again before the floor can be
#: reached, and within these seconds.
FASTEST_FILL = 40 << 30
LOOK_AGAIN_S = (0.1, 1.0)
#: Exit code of a worker that ended itself for want of memory.
OUT_OF_MEMORY_EXIT = 71

_CGROUP = Path("/sys/fs/cgroup")
_OWN_CGROUP = Path("/proc/self/cgroup")


@dataclass(frozen=True)
class _Hierarchy:
    """The memory files of one version of cgroups, and what of memory.stat the kernel takes back."""

    limit: str
    usage: str
    reclaimable: tuple[str, ...]


_V2 = _Hierarchy("memory.max", "memory.current", ("inactive_file", "active_file", "slab_reclaimable"))
#: Its usage has the groups below in it, as the fields of memory.stat that begin with total_ have; it does not
#: count slabs apart. Without a limit it says a number beyond any memory.
_V1 = _Hierarchy(
    "memory.limit_in_bytes", "memory.usage_in_bytes", ("total_inactive_file", "total_active_file")
)


#: Available and total bytes, and whose figures they are.
SystemMemory = tuple[int, int, str]


@dataclass(frozen=True)
class Budget:
    """Bytes: what is `available` of `total`, and what of it stays unused; `origin` says who told."""

    available: int
    total: int
    origin: str

    @property
    def reserve(self) -> int:
        return _part(self.total, RESERVE)

    @property
    def usable(self) -> int:
        """What weights may take."""
        return max(self.available - self.reserve, 0)

    def __str__(self) -> str:
        less = f"less a reserve of {gib(self.reserve)}"
        return f"{gib(self.usable)} ({self.origin}: {gib(self.available)}, {less})"


def budget(device: torch.device) -> Budget:
    """What a model on `device` may take now. What torch holds for itself and does not use counts as free."""
    if not shares_system_memory(device):
        free, total = torch.cuda.mem_get_info(device)
        return Budget(free + _cached(device), total, "free by the driver")
    available, total, origin = system_memory()
    if device.type == "mps":
        # Metal refuses more than its recommended share of the system's memory.
        limit = torch.mps.recommended_max_memory()
        left = max(limit - torch.mps.driver_allocated_memory(), 0)
        if left < available:
            return Budget(left, limit, "recommended by Metal")
    return Budget(available + _cached(device), total, origin)


def shares_system_memory(device: torch.device) -> bool:
    return device.type != "cuda" or bool(torch.cuda.get_device_properties(device).is_integrated)


def system_memory() -> SystemMemory:
    """The system's, or a container's or batch job's limit (cgroup v1 or v2) where that leaves less."""
    system = psutil.virtual_memory()  # available: MemAvailable, what is free or given back by the page cache
    origin = "MemAvailable" if sys.platform == "linux" else "available to programs"
    least = (system.available, system.total, origin)
    for group, files in _own_cgroups(_OWN_CGROUP, _CGROUP):
        limit = _number(group / files.limit)
        if limit is None or limit >= system.total:
            continue
        used = (_number(group / files.usage) or 0) - _reclaimable(group, files)
        if (left := max(limit - used, 0)) < least[0]:
            least = (left, limit, "the container's memory limit")
    return least


def total_memory() -> int:
    """Bytes of the machine, or the least of the container's or batch job's limits: what is in use does not
    change it."""
    limits = (_number(group / files.limit) for group, files in _own_cgroups(_OWN_CGROUP, _CGROUP))
    return min([psutil.virtual_memory().total, *(limit for limit in limits if limit is not None)])


def weight_bytes(model: torch.nn.Module, dtype: torch.dtype) -> int:
    """Of a model's parameters and buffers once its floating-point ones are in `dtype`; the model may be empty
    (on the meta device). A tied tensor counts once."""
    return sum(
        tensor.numel() * (dtype.itemsize if tensor.is_floating_point() else tensor.element_size())
        for tensors in (model.parameters(), model.buffers())
        for tensor in tensors
    )


def has_room(needed: int, device: torch.device) -> bool:
    """Whether weights of `needed` bytes fit the budget, once what nobody uses any more is given back."""
    if needed <= budget(device).usable:
        return True
    gc.collect()  # a model that was let go of may still hang in a cycle
    if device.type == "cuda":
        torch.cuda.empty_cache()
    elif device.type == "mps":
        torch.mps.empty_cache()  # what Metal counts as taken
    return needed <= budget(device).usable


class NoRoom(SparkablateError):
    """Weights that do not fit the memory that is free now."""


def require_room(what: str, needed: int, device: torch.device) -> None:
    """Raises ``load_failed``, with the figures, for weights of `needed` bytes that do not fit the budget."""
    if not has_room(needed, device):
        raise NoRoom(
            "load_failed",
            f"{what}: the weights take {gib(needed)}, and {device} has room for {budget(device)}; "
            f"nothing was loaded; set {setting('model.device_map', 'auto')} to put layers elsewhere, which "
            "is slow",
        )


def limit_allocations(device: torch.device) -> None:
    """Lets torch run out of memory before an integrated device's machine does: what asks for more fails
    alone, with ``torch.OutOfMemoryError``."""
    if device.type == "cuda" and shares_system_memory(device):
        index = torch.cuda.current_device() if device.index is None else device.index
        total = torch.cuda.get_device_properties(device).total_memory
        held = torch.cuda.memory_reserved(device)
        share = (budget(device).usable - _cached(device) + held) / total
        torch.cuda.set_per_process_memory_fraction(min(max(share, 0.0), 1.0), index)  # takes no bare "cuda"


def watch(
    end: Callable[[str], None],
    busy: Callable[[], bool],
    look: Callable[[], SystemMemory] = system_memory,
) -> threading.Event:
    """Calls `end` once, with words for a person, when memory stays under the floor while the worker is `busy`
    (ending an idle one would free nothing that anybody waits for); from a thread of its own, since a forward
    pass does not stop to look. Set the event to stop."""
    stop = threading.Event()

    def wait() -> None:
        pause, low = 0.0, 0
        while not stop.wait(pause):
            available, total, origin = look()
            pause = look_again_after(available, total)
            low = low + 1 if busy() and available < _part(total, FLOOR) else 0
            if low == LOOKS_UNDER_FLOOR:
                end(
                    f"{gib(available)} of {gib(total)} memory left ({origin}): it ended before the machine "
                    "runs out; a smaller model, dtype or eval.batch_size needs less"
                )
                return

    threading.Thread(target=wait, name="memory", daemon=True).start()
    return stop


def look_again_after(available: int, total: int) -> float:
    """Seconds until memory could be down at the floor: with plenty of it a watch need not wake up often."""
    least, most = LOOK_AGAIN_S
    return min(max((available - _part(total, FLOOR)) / FASTEST_FILL, least), most)


def end_process(why: str) -> None:
    """The end of a worker that would take the machine down with it: nothing measured is lost."""
    print(f"sparkablate worker: {why}", file=sys.stderr, flush=True)
    os._exit(OUT_OF_MEMORY_EXIT)


def gib(count: int) -> str:
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:.0f} MiB"


def _cached(device: torch.device) -> int:
    """What torch's allocator keeps for later."""
    if device.type != "cuda":
        return 0
    return torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)


def _part(total: int, share_and_most: tuple[float, int]) -> int:
    share, most = share_and_most
    return min(int(total * share), most)


def _number(file: Path) -> int | None:
    """None where there is no such file, or no limit ("max")."""
    try:
        text = file.read_text(encoding="ascii").strip()
    except OSError:
        return None
    return int(text) if text.isdigit() else None


def _own_cgroups(own: Path, root: Path) -> Iterator[tuple[Path, _Hierarchy]]:
    """The directories of this process's groups and of those above them, of both versions; in a container,
    which sees its own group as the root, one. Args: own, /proc/self/cgroup; root, where they are mounted."""
    try:
        lines = own.read_text(encoding="utf-8").splitlines()
    except OSError:
        return
    paths = {"": "/"}
    for line in lines:
        _, controllers, path = line.split(":", 2)
        paths |= dict.fromkeys(controllers.split(","), path)
    below = Path(paths[""].lstrip("/"))
    yield from ((root / part, _V2) for part in (below, *below.parents))
    if "memory" in paths:
        below = Path(paths["memory"].lstrip("/"))
        yield from ((root / "memory" / part, _V1) for part in (below, *below.parents))


def _reclaimable(group: Path, files: _Hierarchy) -> int:
    """What the kernel takes back before it ends a process, as in MemAvailable: page cache and slabs."""
    try:
        lines = (group / "memory.stat").read_text(encoding="ascii").splitlines()
    except OSError:
        return 0
    return sum(int(size) for name, size in map(str.split, lines) if name in files.reclaimable)
