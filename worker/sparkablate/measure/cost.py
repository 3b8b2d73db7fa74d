"""What one unedited pass costs here: the time and memory that the plan before a run is made of."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from sparkablate.measure.likelihood import Likelihood
from sparkablate.measure.metrics import metrics_of

_STATUS = Path("/proc/self/status")
_CLEAR_REFS = Path("/proc/self/clear_refs")
#: What clear_refs takes to set the peak back to the present (proc(5)).
_RESET_PEAK = "5"


@dataclass(frozen=True)
class Cost:
    """One pass over a batch. ``peak_bytes``: of the process (CPU), of torch on the device (else)."""

    stack_seconds: float
    head_seconds: float
    peak_bytes: int

    def to_wire(self, walks: bool) -> dict[str, object]:
        return {**asdict(self), "walks": walks}


def warm_up(likelihood: Likelihood, ids: Tensor) -> None:
    """A pass that nobody times: on CUDA the first of a shape also picks, loads or compiles its kernels."""
    if ids.device.type == "cuda":
        likelihood.measure(likelihood.final_hidden(ids), ids, metrics_of(["nll"]), None)


def measured_nll(likelihood: Likelihood, ids: Tensor) -> tuple[Tensor, Cost]:
    """NLL [batch, pos - 1] of the unedited model on ``ids`` [batch, pos], and what it cost."""
    device = ids.device
    with _peak_memory(device) as peak:
        began = _now(device)
        hidden = likelihood.final_hidden(ids)
        reached_head = _now(device)
        nll = likelihood.measure(hidden, ids, metrics_of(["nll"]), None)["nll"]
        ended = _now(device)
    return nll, Cost(reached_head - began, ended - reached_head, peak[0])


def _now(device: torch.device) -> float:
    """Seconds, once the device has done what it was told."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
    return time.perf_counter()


@contextmanager
def _peak_memory(device: torch.device) -> Iterator[list[int]]:
    """The list holds the peak in bytes once the block has ended."""
    peak: list[int] = []
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        yield peak
        peak.append(torch.cuda.max_memory_allocated(device))
    elif device.type == "mps":
        yield peak
        peak.append(torch.mps.driver_allocated_memory())
    else:
        _reset_process_peak()
        yield peak
        peak.append(_process_peak())


def _reset_process_peak() -> None:
    """Where the system allows it; elsewhere the peak includes the loading, which is no smaller."""
    try:
        _CLEAR_REFS.write_text(_RESET_PEAK, encoding="ascii")
    except OSError:
        return


def _process_peak() -> int:
    if _STATUS.is_file():
        for line in _STATUS.read_text(encoding="ascii", errors="replace").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return largest if sys.platform == "darwin" else largest * 1024
