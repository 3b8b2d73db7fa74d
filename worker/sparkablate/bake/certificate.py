"""The certificate: a fresh process that knows only stock transformers checks the written directory."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from sparkablate.bake.edits import Edit, Fill, Keep, ProjectOut, Shift
from sparkablate.bake.writer import Output
from sparkablate.errors import SparkablateError
from sparkablate.loading import memory, offload
from sparkablate.progress import Progress
from sparkablate.wording import flag

SCRIPT = Path(__file__).with_name("verify.py")
#: Largest logit difference over largest logit where nothing but the order of operations differs.
TOLERANCE = 1e-5
#: A difference up to this many times that between two equal live runs is rounding.
FLOORS = 10.0
#: However much two equal live runs differ, the result is no equivalent beyond these: of the largest logit,
#: and nats a position.
CEILING, KL_CEILING = 1e-2, 1e-3
#: Largest share of positions whose experts may differ.
REROUTED = 1e-3
#: How often a waiting bake says that it is alive.
BEAT_S = 2.0


def write_job(
    directory: Path,
    source: Path,
    files: dict[str, str],
    outputs: Iterable[Output],
    loading: dict[str, Any],
    work: Path,
) -> dict[str, Any]:
    """What verify.py is to check; the vectors that edits need go into a file in `work`.

    `files`: source tensor → its file. `loading`: how it loads the directory. `work` holds the live side's
    blocks too.
    """
    vectors: dict[str, Tensor] = {}
    tensors = [
        {
            "name": output.name,
            "source": output.source,
            "source_file": None if output.source is None else str(source / files[output.source]),
            "shape": list(output.source_shape),
            "dtype": str(output.dtype),
            "edits": [_stated(edit, vectors) for edit in output.edits],
        }
        for output in outputs
    ]
    if vectors:
        save_file(vectors, work / "vectors.safetensors")
    return {
        "directory": str(directory),
        "source": str(source),
        "tensors": tensors,
        "vectors": str(work / "vectors.safetensors") if vectors else None,
        "live": str(work),
        "threads": torch.get_num_threads(),
        **loading,
    }


def _placed(job: dict[str, Any]) -> dict[str, Any]:
    """The job with where the directory's layers go: decided once the live model's memory is free again."""
    size = sum(path.stat().st_size for path in Path(job["directory"]).glob("*.safetensors"))
    device = torch.device(job["device"])
    offloaded = device.type != "mps" and not memory.has_room(size, device)
    # Beside each other, and the source in the result's dtype: at most twice as wide as it lies on disk.
    both = size + 2 * sum(Path(file).stat().st_size for file in _source_files(job))
    return {
        **job,
        "timed": job["timed"] and not offloaded and memory.has_room(both, device),
        "offload": str(Path(job["live"]) / "offload") if offloaded else None,
        "max_memory": list(offload.room(device).items()) if offloaded else None,
    }


def _source_files(job: dict[str, Any]) -> set[str]:
    return {tensor["source_file"] for tensor in job["tensors"] if tensor["source_file"] is not None}


def _stated(edit: Edit, vectors: dict[str, Tensor]) -> dict[str, Any]:
    if isinstance(edit, Fill):
        return {"op": "fill", "value": edit.value, "axis": edit.axis, "indices": list(edit.indices)}
    if isinstance(edit, Keep):
        return {"op": "keep", "axis": edit.axis, "indices": list(edit.indices)}
    name = str(len(vectors))
    vectors[name] = (edit.basis if isinstance(edit, ProjectOut) else edit.vector).contiguous().clone()
    if isinstance(edit, ProjectOut):
        return {"op": "project", "vector": name, "axis": edit.axis, "coefficient": edit.coefficient}
    return {"op": "shift" if isinstance(edit, Shift) else "assign", "vector": name}


def run_jobs(
    jobs: list[dict[str, Any]], work: Path, progress: Progress, stop: Callable[[], None]
) -> list[dict[str, Any]]:
    """One fresh process for all jobs; their reports. `stop` may raise, which ends it.

    Raises "certificate_failed" where a directory cannot even be checked.
    """
    path = work / "jobs.json"
    path.write_text(json.dumps([_placed(job) for job in jobs]), encoding="utf-8")
    # -I: no PYTHONPATH, no user packages, not the directory one stands in.
    process = subprocess.Popen(
        [sys.executable, "-I", str(SCRIPT), str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf-8",
    )
    assert process.stdout is not None
    assert process.stderr is not None
    messages: list[dict[str, Any]] = []
    errors: list[str] = []
    readers = [
        threading.Thread(target=lambda: messages.extend(map(json.loads, process.stdout or ())), daemon=True),
        threading.Thread(target=lambda: errors.extend(process.stderr or ()), daemon=True),
    ]
    for reader in readers:
        reader.start()
    beat = time.monotonic()
    try:
        while process.poll() is None:
            stop()
            if time.monotonic() - beat > BEAT_S:
                beat = time.monotonic()
                steps = [message for message in messages if "done" in message]
                if steps:
                    progress("certify", steps[-1]["done"], steps[-1]["total"], steps[-1]["unit"])
                else:
                    progress("certify", 0.0, None, "tensors")
            time.sleep(0.02)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
        for reader in readers:
            reader.join()
        for stream in (process.stdin, process.stdout, process.stderr):
            if stream is not None:
                stream.close()
    failures = [message for message in messages if "failure" in message]
    reports = [message["report"] for message in messages if "report" in message]
    if failures or len(reports) != len(jobs):
        why = failures[0]["failure"] if failures else f"the process ended with code {process.returncode}"
        detail = failures[0]["detail"] if failures else "".join(errors[-50:])
        raise SparkablateError(
            "certificate_failed", f"stock transformers cannot check the written directory: {why}", detail
        )
    return reports


def judge(report: dict[str, Any], floor: float | None, dtype: str) -> dict[str, Any]:
    """The certificate: all figures, the tolerance, and the problems (none: it passed).

    `dtype`: in which both sides compute, as write_job states it.
    """
    behaviour, problems = report["behaviour"], list(report["problems"])
    allowed = max(TOLERANCE, FLOORS * floor) if floor is not None else TOLERANCE
    tolerance = min(allowed, CEILING)
    difference, kl = behaviour["logit_difference"], behaviour["kl"]
    compared = behaviour["positions"] - behaviour["left_out"]
    differs = f"its logits differ from the live intervention's by {difference:.2e} of the largest"
    if not behaviour["finite"]:
        problems.append("its logits are not finite")
    elif compared == 0:
        problems.append("no position could be compared")
    elif allowed <= CEILING and not difference <= allowed:
        problems.append(f"{differs}; tolerance {tolerance:.2e}")
    elif not (difference <= CEILING and kl <= KL_CEILING):
        rounding = "" if floor is None else _amplified(floor, dtype)
        problems.append(
            f"{differs} and KL is {kl:.2e} nats; allowed are at most {CEILING:g} and {KL_CEILING:g}{rounding}"
        )
    if behaviour["rerouted"] > REROUTED * behaviour["positions"]:
        problems.append(f"{behaviour['rerouted']} of {behaviour['positions']} positions take other experts")
    if report["imports_sparkablate"]:
        problems.append("the checking process imported sparkablate, so it proves nothing of stock readers")
    return {
        "passed": not problems,
        "problems": problems,
        "edit": report["edit"],
        "behaviour": {**behaviour, "tolerance": tolerance, "floor": floor},
    }


def _amplified(floor: float, dtype: str) -> str:
    """Why two sides that are equal on paper differ by so much, and what helps."""
    name = dtype.removeprefix("torch.")
    remedy = (
        "measure it with 'sparkablate run' instead"
        if name == "float32"
        else f"bake with {flag('dtype', 'float32')}"
    )
    return (
        f". This edit amplifies rounding in {name}: two equal live runs already differ by {floor:.2e} of the "
        f"largest logit; {remedy}"
    )
