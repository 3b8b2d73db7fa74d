"""`npm run bench`: conditions a second and peak memory of the walk, plain hooked passes, and other libraries.

Every side is a process of its own and measures the same conditions on the same tokens, in interleaved
rounds: side after side within a round, so that a slow minute of the machine hits all of them. Reported are
medians over rounds and the median of each round's ratio to the plain pass, in elapsed and in CPU time. Losses
are compared, so that speed is not bought with numbers.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import statistics
import subprocess
import sys
import venv
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from against import compare_versions
from operations import Operations, count_operations
from process import Conditions, Process, running

from sparkablate import __version__
from sparkablate.loading.configuration import resolve_source
from sparkablate.loading.home import home
from sparkablate.loading.open import load_model

ROOT = Path(__file__).resolve().parents[2]
MODEL = "builtin:smollm2-135m"
CORPUS = ROOT / "configs" / "corpora" / "northanger-abbey.txt"

#: Side → the package it needs in the bench's own environment; None: ours.
SIDES = {
    "plain": None,
    "walk": None,
    "nnsight": "nnsight==0.8.1",
    "transformer_lens": "transformer_lens==4.3.0",
    "pyvene": "pyvene==0.1.8",
}
#: The others are asked for single heads only, and for fewer of them: nothing in them depends on how many.
OTHERS_CONDITIONS = 6

#: Issue "The engine": conditions a second against the plain pass, share of the bound, share of its memory.
BARS = {"heads": 1.45, "layers": 1.5, "mlp": 1.5}
BOUND_BAR, MEMORY_BAR = 0.85, 0.75
#: Two actors of one thread each against one worker of one thread.
ACTORS_BAR = 1.7


def conditions_of(sweep: str, n_layers: int, n_heads: int, round_index: int, rounds: int) -> Conditions:
    """The round's share of the sweep. Heads are dealt out over the rounds: together they are all heads."""
    if sweep == "heads":
        every = [
            (f"L{layer}.head[{head}].zero", {"kind": "head", "layer": layer, "heads": [head]})
            for layer in range(n_layers)
            for head in range(n_heads)
        ][round_index::rounds]
    else:
        kind = "layer" if sweep == "layers" else "mlp"
        every = [(f"L{layer}.{kind}", {"kind": kind, "layer": layer}) for layer in range(n_layers)]
    mode = {"mode": "skip"} if sweep == "layers" else {"mode": "zero", "positions": "all"}
    return [{"id": name, "interventions": [{**edit, **mode}]} for name, edit in every]


def compare(sides: dict[str, Process], rounds: list[Conditions]) -> dict[str, Any]:
    """Interleaved rounds of all sides on the same conditions, the baseline included."""
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in sides}
    for index, conditions in enumerate(rounds):
        wanted = [{"id": "baseline", "interventions": []}, *conditions]
        for name, side in sides.items():
            answer = side.measure(wanted)
            runs[name].append({**answer, "conditions": len(wanted)})
            wall, cpu = (answer[key] / len(wanted) for key in ("seconds", "cpu_seconds"))
            print(f"  round {index + 1}: {name} {wall:.3f} s a condition, {cpu:.3f} of CPU", flush=True)
    report: dict[str, Any] = {}
    for name in sides:
        speeds = [run["conditions"] / run["seconds"] for run in runs[name]]
        ratios = [
            ours["conditions"] / ours["seconds"] * plain["seconds"] / plain["conditions"]
            for ours, plain in zip(runs[name], runs["plain"], strict=True)
        ]
        cpu_ratios = [
            plain["cpu_seconds"] / ours["cpu_seconds"]
            for ours, plain in zip(runs[name], runs["plain"], strict=True)
        ]
        differences = [
            abs(ours["nll"][condition] - plain["nll"][condition])
            for ours, plain in zip(runs[name], runs["plain"], strict=True)
            for condition in plain["nll"]
        ]
        report[name] = {
            "conditions_per_second": statistics.median(speeds),
            "ratio_to_plain": statistics.median(ratios),
            "ratios": ratios,
            "cpu_ratio_to_plain": statistics.median(cpu_ratios),
            "largest_nll_difference": max(differences),
        }
    return report


def compare_actors(arguments: list[str], rounds: list[Conditions]) -> dict[str, Any]:
    """Two actors of one thread each against one engine of one thread, in rounds that follow each other."""
    with ExitStack() as stack:
        sides = {
            name: stack.enter_context(running(sys.executable, name, [*arguments, "1"]))
            for name in ("walk", "actors")
        }
        ratios, differences = [], []
        for index, conditions in enumerate(rounds):
            wanted = [{"id": "baseline", "interventions": []}, *conditions]
            one, two = (side.measure(wanted) for side in sides.values())
            ratios.append(one["seconds"] / two["seconds"])
            differences += [abs(one["nll"][name] - two["nll"][name]) for name in one["nll"]]
            print(f"  round {index + 1}: {one['seconds']:.1f} s and {two['seconds']:.1f} s", flush=True)
    return {"ratio": statistics.median(ratios), "ratios": ratios, "largest_nll_difference": max(differences)}


def bench_python(packages: list[str]) -> str:
    """The Python of ``$SPARKABLATE_HOME/bench-venv``, where the other libraries are installed once."""
    directory = home() / "bench-venv"
    python = directory / ("Scripts" if sys.platform == "win32" else "bin") / "python"
    if not python.is_file():
        venv.create(directory, with_pip=True)
    import torch
    import transformers

    base = [
        f"torch=={torch.__version__.split('+')[0]}",
        f"transformers=={transformers.__version__}",
        "accelerate",
    ]
    subprocess.run([str(python), "-m", "pip", "install", "--quiet", *base, *packages], check=True)
    return str(python)


def token_ids(tokenizer: Any, batch: int, seq_len: int) -> np.ndarray:
    """The corpus's first tokens, int32 [batch, seq_len]."""
    text = CORPUS.read_text(encoding="utf-8")[: batch * seq_len * 12]
    ids = tokenizer(text, add_special_tokens=False)["input_ids"][: batch * seq_len]
    return np.asarray(ids, dtype=np.int32).reshape(batch, seq_len)


def show(sweep: str, report: dict[str, Any], bound: float) -> None:
    print(f"\n{sweep}: bound in operations {bound:.2f}")
    print(f"  {'side':18}{'conditions/s':>14}{'× plain':>9}{'in CPU time':>15}{'of bound':>10}{'ΔNLL':>9}")
    for name, row in report.items():
        share = f"{row['ratio_to_plain'] / bound:.2f}" if name == "walk" else "–"
        print(
            f"  {name:18}{row['conditions_per_second']:14.3f}{row['ratio_to_plain']:9.2f}"
            f"{row['cpu_ratio_to_plain']:15.2f}{share:>10}{row['largest_nll_difference']:9.1e}"
        )


def write(out: Path, result: dict[str, Any]) -> None:
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(f"\n{out}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--sweeps", nargs="+", choices=list(BARS), default=list(BARS))
    parser.add_argument(
        "--sides", nargs="+", choices=list(SIDES), default=list(SIDES), help="plain is always run"
    )
    parser.add_argument(
        "--every", type=int, default=1, help="only each n-th condition of a round: a quick look"
    )
    parser.add_argument("--actors", action="store_true", help="two actors of a Ray cluster and nothing else")
    parser.add_argument(
        "--against",
        type=Path,
        metavar="DIR",
        help="the rows of this checkout and of another one, and no others",
    )
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--seq-len", type=int, default=256)
    parser.add_argument("--out", type=Path, default=ROOT / "results" / "bench.json")
    options = parser.parse_args()

    directory = resolve_source(MODEL)
    model, tokenizer = load_model(MODEL, dtype="float32", device="cpu", threads=options.threads)
    operations: Operations = count_operations(model, options.seq_len)
    n_heads = model.config.num_attention_heads
    ids = token_ids(tokenizer, options.batch, options.seq_len)
    del model, tokenizer
    sides = options.sides if options.against is None else ()
    others = [name for name in sides if SIDES[name] is not None]
    other_python = bench_python([SIDES[name] for name in others]) if others else ""  # type: ignore[misc]
    result: dict[str, Any] = {
        "model": MODEL,
        "version": __version__,
        "shape": [options.batch, options.seq_len],
        "threads": options.threads,
        "rounds": options.rounds,
        "ids_sha256": hashlib.sha256(ids.tobytes()).hexdigest(),
        "operations": asdict(operations),
        "sweeps": {},
    }
    with TemporaryDirectory() as temporary, ExitStack() as stack:
        file = Path(temporary) / "ids.npy"
        np.save(file, ids)
        if options.against is not None:
            rows = {
                sweep: [
                    conditions_of(sweep, operations.n_layers, n_heads, index, options.rounds)[
                        :: options.every
                    ]
                    for index in range(options.rounds)
                ]
                for sweep in options.sweeps
            }
            arguments = [directory, str(file), str(options.threads)]
            result["against"] = compare_versions(options.against.resolve(), ROOT, arguments, rows)
            write(options.out, result)
            return
        print("two actors, one thread each, against one worker of one thread:", flush=True)
        heads = [
            conditions_of("heads", operations.n_layers, n_heads, index, options.rounds)[:: options.every]
            for index in range(options.rounds)
        ]
        actors = result["actors"] = compare_actors([directory, str(file)], heads)
        print(
            f"  {actors['ratio']:.2f} times (bar {ACTORS_BAR}), "
            f"ΔNLL {actors['largest_nll_difference']:.1e}\n",
            flush=True,
        )
        if options.actors:
            return
        arguments = [directory, str(file), str(options.threads)]
        names = ["plain", *(name for name in options.sides if name != "plain")]
        sides = {
            name: stack.enter_context(
                running(other_python if name in others else sys.executable, name, arguments)
            )
            for name in names
        }
        for sweep in options.sweeps:
            print(f"{sweep}:", flush=True)
            rounds = [
                conditions_of(sweep, operations.n_layers, n_heads, index, options.rounds)[:: options.every]
                for index in range(options.rounds)
            ]
            ours = {name: side for name, side in sides.items() if name not in others}
            report = compare(ours, rounds)
            bound = statistics.median(operations.bound(conditions) for conditions in rounds)
            digest = hashlib.sha256(json.dumps(rounds).encode()).hexdigest()
            if sweep == "heads" and others:
                few = [conditions[:: max(1, len(conditions) // OTHERS_CONDITIONS)] for conditions in rounds]
                against = compare({name: side for name, side in sides.items() if name != "walk"}, few)
                report |= {name: against[name] for name in others}
            result["sweeps"][sweep] = {"bound": bound, "conditions_sha256": digest, "sides": report}
        result["peak_bytes"] = {name: side.finish() for name, side in sides.items()}

    for sweep, entry in result["sweeps"].items():
        show(sweep, entry["sides"], entry["bound"])
    plain = result["peak_bytes"]["plain"]
    print("\npeak memory of the whole process:")
    for name, peak in result["peak_bytes"].items():
        print(f"  {name:18}{peak / 1e6:10.0f} MB{peak / plain:8.2f} × plain")
    write(options.out, result)
    print(f"bars: {BARS}; of bound {BOUND_BAR}; memory {MEMORY_BAR}")


if __name__ == "__main__":
    main()
