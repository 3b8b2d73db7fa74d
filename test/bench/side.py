"""One side of the bench, in a process of its own: measures the conditions that it is told on stdin.

    python side.py NAME MODEL_DIRECTORY IDS.npy THREADS

Each line is a JSON list of conditions; the answer is `{"seconds": …, "cpu_seconds": …, "nll": {id: mean}}`.
At the end of stdin it says `{"peak_bytes": …}`: the largest resident set of the whole process.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

Conditions = list[dict[str, Any]]
Side = Callable[[Conditions], dict[str, float]]


def mean_nll(logits: Tensor, ids: Tensor) -> float:
    """What everybody writes: the loss from full logits [batch, pos, vocab]."""
    losses = functional.cross_entropy(
        logits[:, :-1].float().flatten(0, 1), ids[:, 1:].flatten(), reduction="none"
    )
    return losses.view(len(ids), -1).double().sum(dim=1).sum().item() / losses.numel()


def plain(directory: str, ids: np.ndarray, threads: int) -> Side:
    """Whole forward passes of stock transformers with our hooks."""
    from contextlib import nullcontext

    from sparkablate.loading.open import load_model
    from sparkablate.manager import AblationManager
    from sparkablate.specs import from_wire

    model, _ = load_model(directory, dtype="float32", device="cpu", threads=threads)
    manager, tokens = AblationManager(model), torch.from_numpy(ids.astype(np.int64))

    @torch.inference_mode()
    def measure(conditions: Conditions) -> dict[str, float]:
        nll = {}
        for condition in conditions:
            specs = [from_wire(edit) for edit in condition["interventions"]]
            with manager.applied(specs) if specs else nullcontext():
                nll[condition["id"]] = mean_nll(model(input_ids=tokens, use_cache=False).logits, tokens)
        return nll

    return measure


def wire_model(directory: str, threads: int) -> dict[str, Any]:
    return {
        "name": directory,
        "revision": None,
        "dtype": "float32",
        "device": "cpu",
        "device_map": None,
        "attn_implementation": None,
        "threads": threads,
        "trust_remote_code": False,
    }


def walk(directory: str, ids: np.ndarray, threads: int) -> Side:
    """The engine as the worker uses it, its checks at load included."""
    from sparkablate.engines.local import LocalEngine
    from sparkablate.engines.requests import Caller, Evaluate, Load
    from sparkablate.measure.slice import Measurement

    engine = LocalEngine()
    engine.answer(Load(wire_model(directory, threads), ids.shape[1], ids.shape[0]))

    def measure(conditions: Conditions) -> dict[str, float]:
        measured: list[Measurement] = []
        engine._need().walk = None  # each round walks up again, as each batch of blocks does
        engine.answer(Evaluate(ids, conditions, ["nll"]), Caller(report=measured.append))
        return {m.condition: m.sums.sum() / (m.tokens * len(ids)) for m in measured}

    return measure


def actors(directory: str, ids: np.ndarray, threads: int) -> Side:
    """Two actors of a Ray cluster of this machine; two slices of a batch each, as a controller cuts them."""
    from concurrent.futures import ThreadPoolExecutor

    from sparkablate.engines.ray import cluster

    cluster.connect(None)
    from sparkablate.engines.ray.engine import start
    from sparkablate.engines.requests import Caller, Evaluate, Load
    from sparkablate.measure.slice import Measurement

    engine = start(num_cpus=1, actors=2)
    engine.answer(Load(wire_model(directory, threads), ids.shape[1], ids.shape[0]))
    slots = ThreadPoolExecutor(2)

    def measure(conditions: Conditions) -> dict[str, float]:
        measured: list[Measurement] = []

        def evaluate(part: Conditions) -> None:
            engine.answer(Evaluate(ids, part, ["nll"]), Caller(report=measured.append))

        size = -(-len(conditions) // 4)
        list(slots.map(evaluate, [conditions[at : at + size] for at in range(0, len(conditions), size)]))
        return {m.condition: m.sums.sum() / (m.tokens * len(ids)) for m in measured}

    return measure


def _head_of(condition: dict[str, Any]) -> tuple[int, int]:
    """(layer, head) of a condition that zeroes one head; (-1, -1): the baseline."""
    edits = condition["interventions"]
    return (edits[0]["layer"], edits[0]["heads"][0]) if edits else (-1, -1)


def nnsight(directory: str, ids: np.ndarray, threads: int) -> Side:
    from nnsight import LanguageModel

    torch.set_num_threads(threads)
    model = LanguageModel(directory, dtype=torch.float32, device_map="cpu", dispatch=True)
    tokens = torch.from_numpy(ids.astype(np.int64))
    width = model.config.head_dim

    @torch.inference_mode()
    def measure(conditions: Conditions) -> dict[str, float]:
        nll = {}
        for condition in conditions:
            layer, head = _head_of(condition)
            with model.trace(tokens, use_cache=False):
                if layer >= 0:
                    columns = slice(head * width, (head + 1) * width)
                    model.model.layers[layer].self_attn.o_proj.input[:, :, columns] = 0
                logits = model.lm_head.output.save()
            nll[condition["id"]] = mean_nll(logits, tokens)
        return nll

    return measure


def transformer_lens(directory: str, ids: np.ndarray, threads: int) -> Side:
    from transformer_lens.model_bridge import TransformerBridge
    from transformers import AutoModelForCausalLM, AutoTokenizer

    torch.set_num_threads(threads)
    stock = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(directory)
    model = TransformerBridge.boot_transformers(
        directory, hf_model=stock, tokenizer=tokenizer, dtype=torch.float32, device="cpu"
    )
    tokens = torch.from_numpy(ids.astype(np.int64))

    @torch.inference_mode()
    def measure(conditions: Conditions) -> dict[str, float]:
        nll = {}
        for condition in conditions:
            layer, head = _head_of(condition)

            def zero(z: Tensor, hook: Any, head: int = head) -> Tensor:
                z = z.clone()  # [batch, pos, head, d_head]
                z[:, :, head] = 0
                return z

            hooks = [(f"blocks.{layer}.attn.hook_z", zero)] if layer >= 0 else []
            nll[condition["id"]] = mean_nll(model.run_with_hooks(tokens, fwd_hooks=hooks), tokens)
        return nll

    return measure


def pyvene(directory: str, ids: np.ndarray, threads: int) -> Side:
    import pyvene as pv
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(threads)
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()
    tokens = torch.from_numpy(ids.astype(np.int64))
    width = model.config.head_dim

    @torch.inference_mode()
    def measure(conditions: Conditions) -> dict[str, float]:
        nll = {}
        for condition in conditions:
            layer, head = _head_of(condition)
            if layer < 0:
                nll[condition["id"]] = mean_nll(model(input_ids=tokens, use_cache=False).logits, tokens)
                continue

            def zero(base: Tensor, source: Any = None, subspaces: Any = None, head: int = head) -> Tensor:
                base = base.clone()
                base[..., head * width : (head + 1) * width] = 0
                return base

            component = f"model.layers[{layer}].self_attn.o_proj.input"
            edited = pv.IntervenableModel({"component": component, "intervention": zero}, model=model)
            _, output = edited({"input_ids": tokens, "use_cache": False})
            nll[condition["id"]] = mean_nll(output.logits, tokens)
        return nll

    return measure


SIDES: dict[str, Callable[[str, np.ndarray, int], Side]] = {
    "plain": plain,
    "walk": walk,
    "actors": actors,
    "nnsight": nnsight,
    "transformer_lens": transformer_lens,
    "pyvene": pyvene,
}


def main() -> None:
    name, directory, ids_file, threads = sys.argv[1:]
    answers, sys.stdout = sys.stdout, sys.stderr  # libraries print what they like
    measure = SIDES[name](directory, np.load(ids_file), int(threads))
    print(json.dumps({"ready": True}), file=answers, flush=True)
    for line in sys.stdin:
        began, cpu_began = time.perf_counter(), time.process_time()
        nll = measure(json.loads(line))
        took = {"seconds": time.perf_counter() - began, "cpu_seconds": time.process_time() - cpu_began}
        print(json.dumps({**took, "nll": nll}), file=answers, flush=True)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    print(json.dumps({"peak_bytes": peak}), file=answers, flush=True)


if __name__ == "__main__":
    main()
