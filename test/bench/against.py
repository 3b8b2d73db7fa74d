"""Two checkouts side by side: the same conditions on the same tokens, in rounds that follow each other."""

from __future__ import annotations

import math
import statistics
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from process import Conditions, Process, running

#: What a checkout measures with no other library.
ROWS = ("plain", "walk")
#: This checkout may be as much slower, beyond the interval.
ALLOWED = 0.02


def median_interval(values: list[float]) -> tuple[float, float] | None:
    """The median's 95 % interval by order statistics, whatever the distribution; None: under six values."""
    n, tail, rank = len(values), 0.0, 0
    while True:
        tail += math.comb(n, rank) / 2**n
        if 2 * tail > 0.05:
            break
        rank += 1
    return (sorted(values)[rank - 1], sorted(values)[n - rank]) if rank > 0 else None


def compare_row(sides: dict[str, Process], rounds: list[Conditions]) -> dict[str, Any]:
    """Ratios are the other's time over ours: above 1, this checkout is faster."""
    ratios, cpu_ratios, differences = [], [], []
    for index, conditions in enumerate(rounds):
        wanted = [{"id": "baseline", "interventions": []}, *conditions]
        # Each goes first as often as the other.
        order = list(sides) if index % 2 == 0 else list(reversed(sides))
        answers = {name: sides[name].measure(wanted) for name in order}
        here, there = answers["here"], answers["there"]
        ratios.append(there["seconds"] / here["seconds"])
        cpu_ratios.append(there["cpu_seconds"] / here["cpu_seconds"])
        differences += [abs(here["nll"][name] - there["nll"][name]) for name in there["nll"]]
        print(
            f"  round {index + 1}: {here['seconds']:.2f} s here, {there['seconds']:.2f} s there", flush=True
        )
    return {
        "speed": statistics.median(ratios),
        "interval": median_interval(ratios),
        "cpu": statistics.median(cpu_ratios),
        "ratios": ratios,
        "largest_nll_difference": max(differences),
    }


def compare_versions(
    other: Path, ours: Path, arguments: list[str], sweeps: dict[str, list[Conditions]]
) -> dict[str, Any]:
    """Every row of both checkouts; each measures with its own worker package and its own side.py."""
    table: dict[str, Any] = {}
    peaks: dict[str, Any] = {}
    for row in ROWS:
        with ExitStack() as stack:
            sides = {
                name: stack.enter_context(running(sys.executable, row, arguments, checkout))
                for name, checkout in (("here", ours), ("there", other))
            }
            for side in sides.values():  # the first pass of a process is slower, whichever it is
                side.measure([{"id": "baseline", "interventions": []}])
            for sweep, rounds in sweeps.items():
                print(f"{sweep}, {row}:", flush=True)
                table[f"{sweep}, {row}"] = compare_row(sides, rounds)
            peaks[row] = {name: side.finish() for name, side in sides.items()}
    show(other, table, peaks)
    return {"other": str(other), "rows": table, "peak_bytes": peaks}


def show(other: Path, table: dict[str, Any], peaks: dict[str, Any]) -> None:
    print(f"\nspeed of this checkout, {other} = 1:")
    print(f"  {'row':20}{'median':>8}{'95 % interval':>18}{'in CPU time':>13}{'ΔNLL':>10}")
    for name, row in table.items():
        interval = row["interval"]
        ends = "–" if interval is None else f"{interval[0]:.3f} to {interval[1]:.3f}"
        slower = interval is not None and interval[1] < 1 - ALLOWED
        print(
            f"  {name:20}{row['speed']:8.3f}{ends:>18}{row['cpu']:13.3f}{row['largest_nll_difference']:10.1e}"
            f"{'  SLOWER' if slower else ''}"
        )
    print(f"SLOWER: the whole interval is below {1 - ALLOWED:.2f}; six rounds or more have one.")
    for row, peak in peaks.items():
        print(f"peak memory, {row}: {peak['here'] / 1e6:.0f} MB here, {peak['there'] / 1e6:.0f} MB there")
