"""Checks baked directories with stock transformers: a script of its own that imports nothing of sparkablate.

usage: python -I verify.py JOBS.json   (a list of jobs as certificate.py writes them)

Prints a line of JSON for every step ({"done", "total"}) and one for every job ({"report"} or {"failure"}).
Ends when its standard input does, so that it never outlives the process that started it.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import threading
import time
import traceback
import zipfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

Job = dict[str, Any]
#: Blocks of the fixed text in a timed pass, how many passes of each model count, and after how many seconds
#: no more are begun.
TIMED_BLOCKS, TIMED_ROUNDS, TIMED_S = 4, 5, 60.0
#: Most problems that a report spells out.
SHOWN = 20


def main() -> None:
    threading.Thread(target=_end_with_parent, daemon=True).start()
    os.environ["HF_HUB_OFFLINE"] = "1"
    for job in json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")):
        try:
            say({"report": verify(job)})
        except Exception as error:
            say({"failure": f"{type(error).__name__}: {error}", "detail": traceback.format_exc()})


def _end_with_parent() -> None:
    sys.stdin.buffer.read()
    os._exit(1)


def say(message: dict[str, Any]) -> None:
    print(json.dumps(message), flush=True)


def verify(job: Job) -> dict[str, Any]:
    """The edit, tensor by tensor, then the behaviour, block by block."""
    problems, edit = check_edits(job)
    loaded, behaviour = check_behaviour(job)
    return {
        "problems": [*problems, *loaded][:SHOWN],
        "edit": edit,
        "behaviour": behaviour,
        "timing": compare_speed(job) if job["timed"] else None,
        "imports_sparkablate": any(name.split(".")[0] == "sparkablate" for name in sys.modules),
    }


# ── The edit ─────────────────────────────────────────────────────────────────────────────────
def check_edits(job: Job) -> tuple[list[str], dict[str, Any]]:
    """Every tensor of the directory against the source's."""
    problems: list[str] = []
    largest, edited, equal = 0.0, 0, 0
    with ExitStack() as stack:
        readers: dict[str, Any] = {}

        def read(path: str, name: str) -> Tensor:
            if path not in readers:
                readers[path] = (
                    stack.enter_context(safe_open(path, framework="pt"))
                    if path.endswith(".safetensors")
                    else torch.load(
                        path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path)
                    )
                )
            held = readers[path]
            return held[name] if isinstance(held, dict) else held.get_tensor(name)

        vectors = load_file(job["vectors"]) if job["vectors"] else {}
        found = _names(job["directory"])
        expected = {tensor["name"] for tensor in job["tensors"]}
        if missing := sorted(expected ^ found.keys()):
            problems.append(f"{len(missing)} tensors are missing or too many, e.g. {missing[0]}")
        for number, tensor in enumerate(job["tensors"]):
            name = tensor["name"]
            if name not in found:
                continue
            new = read(found[name], name)
            added = tensor["source"] is None
            old = (
                torch.zeros(tensor["shape"], dtype=new.dtype)
                if added
                else read(tensor["source_file"], tensor["source"])
            )
            if str(new.dtype) != tensor["dtype"]:
                problems.append(f"{name} is {new.dtype}, not {tensor['dtype']}")
            elif not tensor["edits"]:
                equal += not added
                if not _same_bytes(new, old.to(new.dtype)):
                    wanted = "zero" if added else "the source's"
                    problems.append(f"{name} should be {wanted}, and is not")
            else:
                edited += 1
                problem, residual = _edit_fault(new, old, tensor["edits"], vectors)
                largest = max(largest, residual)
                if problem is not None:
                    problems.append(f"{name} {problem}")
            if number % 64 == 0:
                say({"done": number, "total": len(job["tensors"]), "unit": "tensors"})
    return problems, {"edited": edited, "equal": equal, "largest_residual": largest}


def _names(directory: str) -> dict[str, str]:
    """Tensor → its file, of all the safetensors files that are there."""
    found = {}
    for path in sorted(Path(directory).glob("*.safetensors")):
        with safe_open(path, framework="pt") as reader:
            for name in reader.keys():  # noqa: SIM118 (not a dict)
                found[name] = str(path)
    return found


def _same_bytes(left: Tensor, right: Tensor) -> bool:
    if left.shape != right.shape or left.dtype != right.dtype:
        return False
    # A number without an axis has no bytes to be viewed as.
    first, second = left.reshape(-1).contiguous(), right.reshape(-1).contiguous()
    return torch.equal(first.view(torch.uint8), second.view(torch.uint8))


def _edit_fault(
    new: Tensor, old: Tensor, edits: list[dict[str, Any]], vectors: dict[str, Tensor]
) -> tuple[str | None, float]:
    """What is wrong with an edited tensor, and how far it is off, relative to its norm."""
    base, exact = old.double(), True
    projection: dict[str, Any] | None = None
    zeroed: list[dict[str, Any]] = []
    for edit in edits:
        if projection is not None:  # something follows it: what it gives is computed, and compared as a whole
            base, exact, projection = _projected(base, projection, vectors), False, None
        if edit["op"] == "fill":
            axis = edit["axis"]
            if axis is None:
                base = torch.zeros_like(base) + edit["value"]
            else:
                base = base.clone()
                base.movedim(axis, 0)[edit["indices"]] = edit["value"]
                zeroed.append(edit)
        elif edit["op"] == "keep":
            base = base.index_select(edit["axis"], torch.tensor(edit["indices"]))
            zeroed = [_renumbered(one, edit, old.dim()) for one in zeroed]
        elif edit["op"] == "shift":
            base, exact = base + vectors[edit["vector"]], False
        elif edit["op"] == "assign":
            base, exact = vectors[edit["vector"]].expand_as(base), False
        else:
            projection = edit
    if new.shape != base.shape:
        return f"has the shape {list(new.shape)}, not {list(base.shape)}", 1.0
    for edit in zeroed:
        if not bool((new.movedim(edit["axis"], 0)[edit["indices"]] == edit["value"]).all()):
            return f"is not {edit['value']:g} where it was zeroed", 1.0
    if projection is None and exact:
        return (None, 0.0) if _same_bytes(new, base.to(new.dtype)) else ("differs beside the edit", 1.0)
    tolerance = max(1e-6, 2 * torch.finfo(new.dtype).eps if new.dtype != torch.float32 else 0.0)
    scale = float(base.norm()) or 1.0
    if projection is None:
        residual = float((new.double() - base).norm()) / scale
        return (None if residual <= tolerance else f"is {residual:.2e} off its mean"), residual
    basis = vectors[projection["vector"]]  # [d_model, k]
    before = base.movedim(projection["axis"], -1)
    after = new.double().movedim(projection["axis"], -1)
    left = after @ basis - (1 - projection["coefficient"]) * (before @ basis)
    change = after - before
    beside = change - (change @ basis) @ basis.T
    along, across = float(left.norm()) / scale, float(beside.norm()) / scale
    residual = max(along, across)
    if along > tolerance:
        return f"keeps {along:.2e} of its norm along the direction", residual
    if across > tolerance:
        return f"changed by {across:.2e} of its norm across the direction", residual
    return None, residual


def _renumbered(fill: dict[str, Any], keep: dict[str, Any], dims: int) -> dict[str, Any]:
    """What was filled, counted among the positions that stay."""
    if fill["axis"] % dims != keep["axis"] % dims:
        return fill
    filled = set(fill["indices"])
    return {**fill, "indices": [new for new, old in enumerate(keep["indices"]) if old in filled]}


def _projected(tensor: Tensor, edit: dict[str, Any], vectors: dict[str, Tensor]) -> Tensor:
    basis = vectors[edit["vector"]]  # [d_model, k]
    x = tensor.movedim(edit["axis"], -1)
    return (x - edit["coefficient"] * ((x @ basis) @ basis.T)).movedim(-1, edit["axis"])


# ── The behaviour ────────────────────────────────────────────────────────────────────────────
def check_behaviour(job: Job) -> tuple[list[str], dict[str, Any]]:
    """Logits of the loaded directory against the live intervention's, which the job names."""
    _configure(job)
    model, problems = _load(job)
    compared = Comparison()
    blocks = sorted(Path(job["live"]).glob("block-*.safetensors"))
    for number, path in enumerate(blocks):
        live = load_file(path)
        with watching_experts(model) as experts, torch.inference_mode():
            logits = model(input_ids=live["ids"].to(job["device"]), use_cache=False).logits
        renamed = {_old_path(name, job): chosen for name, chosen in experts.items()}
        compared.add(live, logits[0].float().cpu(), renamed)
        say({"done": number + 1, "total": len(blocks), "unit": "blocks"})
    return problems, compared.report()


def _configure(job: Job) -> None:
    """The same numerics as the live side's."""
    torch.set_num_threads(job["threads"])
    torch.set_float32_matmul_precision("highest")
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.benchmark = False
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)


def _load(job: Job) -> tuple[Any, list[str]]:
    import transformers

    auto = getattr(transformers, job["auto_class"])
    options: dict[str, Any] = {"dtype": "auto", "attn_implementation": job["attn_implementation"]}
    if job["offload"] is not None:
        # Above the memory budget, layers stay on disk and are read when they are needed.
        options |= {
            "device_map": "auto",
            "offload_folder": job["offload"],
            "max_memory": dict(job["max_memory"]),
        }
    elif job["device"] != "cpu":
        options["device_map"] = {"": job["device"]}
    model, info = auto.from_pretrained(job["directory"], output_loading_info=True, **options)
    model.eval()
    problems = []
    if missing := sorted(info["missing_keys"]):
        problems.append(f"stock transformers finds {len(missing)} weights missing, e.g. {missing[0]}")
    unexpected = sorted(set(info["unexpected_keys"]) & set(job["must_be_read"]))
    if unexpected:
        problems.append(f"stock transformers leaves {len(unexpected)} weights unread, e.g. {unexpected[0]}")
    if str(model.dtype) != job["dtype"]:
        problems.append(f"it loads as {model.dtype}, not {job['dtype']}")
    return model, problems


# ── The speed ────────────────────────────────────────────────────────────────────────────────
def compare_speed(job: Job) -> dict[str, Any]:
    """Tokens a second of the source and of the directory: forward passes of one batch of the fixed text, by
    turns, the middle one of each. Both are in the result's dtype, and nothing is read from a cache."""
    import transformers

    auto = getattr(transformers, job["auto_class"])
    options = {"dtype": getattr(torch, job["dtype"].removeprefix("torch."))}
    options["attn_implementation"] = job["attn_implementation"]
    if job["device"] != "cpu":
        options["device_map"] = {"": job["device"]}
    sides = {"before": job["source"], "after": job["directory"]}
    models = {side: auto.from_pretrained(place, **options).eval() for side, place in sides.items()}
    blocks = sorted(Path(job["live"]).glob("block-*.safetensors"))[:TIMED_BLOCKS]
    ids = torch.cat([load_file(path)["ids"] for path in blocks]).to(job["device"])

    def seconds(side: str) -> float:
        began = time.perf_counter()
        with torch.inference_mode():
            # Waits for the device.
            float(models[side](input_ids=ids, use_cache=False).logits[0, 0, 0])
        return time.perf_counter() - began

    began = time.monotonic()
    taken: dict[str, list[float]] = {side: [] for side in sides}
    for number in range(TIMED_ROUNDS + 1):
        if number > 1 and time.monotonic() - began > TIMED_S:
            break
        # Who comes first changes: what the machine does besides falls on both.
        for side in sorted(sides, reverse=number % 2 == 0):
            taken[side].append(seconds(side))
        say({"done": number + 1, "total": TIMED_ROUNDS + 1, "unit": "timed rounds"})
    # The first round warms up.
    rate = {side: ids.numel() / statistics.median(times[1:]) for side, times in taken.items()}
    return {
        **rate,
        "batch_size": len(ids),
        "seq_len": ids.shape[1],
        "rounds": len(taken["before"]) - 1,
        "dtype": job["dtype"].removeprefix("torch."),
        "device": job["device"],
        "threads": job["threads"],
    }


def _old_path(path: str, job: Job) -> str:
    """A module of the loaded model → its path in the source model, whose layers were numbered otherwise."""
    prefix = job["layers_path"]
    if not path.startswith(prefix):
        return path
    index, _, rest = path.removeprefix(prefix).partition(".")
    return f"{prefix}{job['kept'][int(index)]}.{rest}"


class Comparison:
    """Accumulates over blocks. Positions are left out from the first one on whose experts differ: what
    follows in the block has read it."""

    def __init__(self) -> None:
        self.largest_difference = self.largest_logit = 0.0
        self.kl = self.live_nll = self.nll = 0.0
        self.positions = self.rerouted = self.left_out = self.targets = 0
        self.finite = True

    def add(self, live: dict[str, Tensor], logits: Tensor, experts: dict[str, Tensor]) -> None:
        """`live`: ids [1, pos], logits [pos, vocab], experts:PATH [pos, k]; `logits` [pos, vocab]."""
        expected, ids = live["logits"].float(), live["ids"][0]
        length = len(ids)
        differs = torch.zeros(length, dtype=torch.bool)
        for key, chosen in live.items():
            name = key.removeprefix("experts:")
            if name != key and name in experts:
                differs |= (experts[name] != chosen).any(dim=-1)
        first = int(differs.nonzero()[0]) if bool(differs.any()) else length
        self.positions += length
        self.rerouted += int(differs.sum())
        self.left_out += length - first
        if first == 0:
            return
        expected, logits = expected[:first], logits[:first]
        self.finite &= bool(logits.isfinite().all()) and bool(expected.isfinite().all())
        self.largest_difference = max(self.largest_difference, float((logits - expected).abs().max()))
        self.largest_logit = max(self.largest_logit, float(expected.abs().max()))
        live_log = torch.log_softmax(expected.double(), dim=-1)
        baked_log = torch.log_softmax(logits.double(), dim=-1)
        self.kl += float((live_log.exp() * (live_log - baked_log)).sum())
        targets = ids[1 : first + 1]
        rows = torch.arange(len(targets))
        self.targets += len(targets)
        self.live_nll -= float(live_log[rows, targets].sum())
        self.nll -= float(baked_log[rows, targets].sum())

    def report(self) -> dict[str, Any]:
        compared = max(1, self.positions - self.left_out)
        targets = max(1, self.targets)
        return {
            "logit_difference": self.largest_difference / (self.largest_logit or 1.0),
            "largest_logit": self.largest_logit,
            "kl": max(0.0, self.kl / compared),
            "nll": self.nll / targets,
            "delta_nll": (self.nll - self.live_nll) / targets,
            "positions": self.positions,
            "rerouted": self.rerouted,
            "left_out": self.left_out,
            "finite": self.finite,
        }


@contextmanager
def watching_experts(model: nn.Module) -> Iterator[dict[str, Tensor]]:
    """Module → the experts it chose [pos, k], sorted, of the passes inside the block: routers are the only
    modules of a language model that give out integers."""
    chosen: dict[str, Tensor] = {}

    def watcher(name: str) -> Callable[..., None]:
        def watch(module: nn.Module, args: Any, output: Any) -> None:
            for item in output if isinstance(output, tuple) else (output,):
                if isinstance(item, Tensor) and item.dtype in (torch.int64, torch.int32) and item.dim() >= 2:
                    chosen[name] = item.flatten(0, -2).sort(dim=-1).values.cpu()

        return watch

    handles = [module.register_forward_hook(watcher(name)) for name, module in model.named_modules()]
    try:
        yield chosen
    finally:
        for handle in handles:
            handle.remove()


if __name__ == "__main__":
    main()
