"""The budget against what the system says, the refusal before loading, the watch."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import model_directory
import pytest
import torch
from safetensors.torch import load_file, save_file

from sparkablate.errors import SparkablateError
from sparkablate.loading import memory
from sparkablate.loading.configuration import build_empty, load_config
from sparkablate.loading.open import load_model
from sparkablate.loading.weights import Files
from tiny_models import TINY

CPU = torch.device("cpu")
GIB = 1 << 30


def test_the_budget_is_what_the_system_calls_available_less_a_reserve() -> None:
    if not Path("/proc/meminfo").is_file():
        pytest.skip("no /proc/meminfo to compare with")
    found = memory.budget(CPU)
    kib = {
        line.split(":")[0]: int(line.split()[1])
        for line in Path("/proc/meminfo").read_text().splitlines()
        if line.startswith("Mem")
    }
    assert found.total <= kib["MemTotal"] * 1024
    assert found.available == pytest.approx(min(kib["MemAvailable"] * 1024, found.available), rel=0.2)
    assert 0 < found.reserve == min(int(found.total * 0.05), 8 * GIB)
    assert found.usable == found.available - found.reserve


@pytest.mark.parametrize(
    ("parameters", "total", "fits"),
    [
        (8e9, 120 * GIB, True),  # a DGX Spark in bfloat16
        (32e9, 120 * GIB, True),
        (70e9, 120 * GIB, False),
        (32e9, 80 * GIB, True),  # an H100
        (44e9, 80 * GIB, False),
    ],
)
def test_which_sizes_fit_where(parameters: float, total: int, fits: bool) -> None:
    assert (parameters * 2 <= memory.Budget(total, total, "all of it").usable) is fits


@pytest.mark.parametrize("name", sorted(TINY))
def test_the_weights_of_an_empty_model_are_those_of_the_loaded_one(
    name: str, tiny: Callable[..., Any]
) -> None:
    dtype = torch.bfloat16
    loaded = tiny(name, dtype=dtype)
    seen = {}
    for tensor in [*loaded.parameters(), *loaded.buffers()]:
        seen[tensor.data_ptr()] = tensor.numel() * tensor.element_size()
    needed = memory.weight_bytes(build_empty(loaded.config), dtype)
    # Buffers that stay in float32 (rotary frequencies) are counted in the model's dtype.
    assert needed == pytest.approx(sum(seen.values()), rel=0.02)


def test_what_cannot_fit_is_refused_before_a_weight_is_read(tmp_path: Path) -> None:
    """A configuration of a hundred terabytes; its weight file is not even there."""
    directory = model_directory.save(tmp_path / "model")
    config = json.loads((directory / "config.json").read_text())
    config.update(hidden_size=1 << 20, intermediate_size=1 << 23, num_attention_heads=8192, head_dim=128)
    (directory / "config.json").write_text(json.dumps(config))
    (directory / "model.safetensors").unlink()
    with pytest.raises(SparkablateError) as caught:
        load_model(str(directory), dtype="bfloat16", device="cpu")
    assert caught.value.code == "load_failed"
    found = re.search(
        r"the weights take ([\d.]+) GiB, and cpu has room for ([\d.]+) GiB \((.+): ([\d.]+) GiB,"
        r" less a reserve of ([\d.]+) GiB\); nothing was loaded",
        caught.value.message,
    )
    assert found is not None, caught.value.message
    empty = build_empty(load_config(str(directory), revision=None, trust_remote_code=False))
    assert float(found[1]) == pytest.approx(memory.weight_bytes(empty, torch.bfloat16) / GIB, rel=1e-3)
    assert float(found[1]) > float(found[2]) == pytest.approx(float(found[4]) - float(found[5]), abs=0.2)


def limited(group: Path, limit: str, current: int = 0, stat: str = "") -> None:
    group.mkdir(parents=True, exist_ok=True)
    (group / "memory.max").write_text(f"{limit}\n")
    (group / "memory.current").write_text(f"{current}\n")
    (group / "memory.stat").write_text(stat)


@pytest.fixture
def groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The root of an empty cgroup v2 hierarchy, which this process is directly in."""
    monkeypatch.setattr(memory, "_CGROUP", tmp_path / "cgroup")
    monkeypatch.setattr(memory, "_OWN_CGROUP", tmp_path / "own")
    (tmp_path / "own").write_text("0::/\n")
    return tmp_path / "cgroup"


def test_a_container_limit_below_the_system_is_the_budget(groups: Path) -> None:
    limited(groups, str(GIB), GIB // 2, f"anon 1\ninactive_file {GIB // 4}\n")
    assert memory.system_memory() == (GIB // 4 * 3, GIB, "the container's memory limit")
    limited(groups, "max")
    assert memory.system_memory()[2] != "the container's memory limit"


def test_the_page_cache_of_a_container_is_free_however_often_it_was_read(groups: Path) -> None:
    """Weights that were loaded and then hashed fill a container up to its limit: no reason to end it."""
    stat = f"anon {GIB // 8}\ninactive_file {GIB // 8}\nactive_file {GIB // 2}\nslab_reclaimable {GIB // 4}\n"
    limited(groups, str(GIB), GIB, stat)
    assert memory.system_memory() == (GIB // 8 * 7, GIB, "the container's memory limit")


def test_the_limit_of_a_group_further_up_binds(groups: Path, tmp_path: Path) -> None:
    """As a batch system sets it: on the job, while the process is in a step of it."""
    (tmp_path / "own").write_text("4:memory:/elsewhere\n0::/batch/job/step\n")
    limited(groups / "batch/job/step", "max", GIB // 8)
    limited(groups / "batch/job", str(GIB), GIB // 2)
    limited(groups / "batch", str(2 * GIB), GIB // 2)
    assert memory.system_memory() == (GIB // 2, GIB, "the container's memory limit")
    limited(groups / "batch", str(2 * GIB), 2 * GIB - GIB // 4)
    assert memory.system_memory() == (GIB // 4, 2 * GIB, "the container's memory limit")


PLENTY, LOW = (4 * GIB, 120 * GIB, "MemAvailable"), (2 * GIB - 1, 120 * GIB, "MemAvailable")


def watched(figures: list[tuple[memory.SystemMemory, bool]]) -> tuple[list[str], int]:
    """What was said at the end, if anything, and how many of the figures (memory, busy) were looked at."""
    ended: list[str] = []
    seen, busy, looks = threading.Event(), False, 0

    def look() -> memory.SystemMemory:
        nonlocal busy, looks
        found, busy = figures[min(looks, len(figures) - 1)]
        looks += 1
        if looks > len(figures):
            seen.set()
        return found

    def end(why: str) -> None:
        ended.append(why)
        seen.set()

    stop = memory.watch(end, lambda: busy, look)
    assert seen.wait(60)
    stop.set()
    return ended, looks


def test_the_watch_ends_what_stays_low_while_it_computes_and_nothing_else() -> None:
    often = memory.LOOKS_UNDER_FLOOR
    ended, looks = watched([(PLENTY, True), *[(LOW, True)] * (often + 3)])
    assert looks == 1 + often
    assert ended == [
        "2.0 GiB of 120.0 GiB memory left (MemAvailable): it ended before the machine runs out; a smaller "
        "model, dtype or eval.batch_size needs less"
    ]
    dips = [*[(LOW, True)] * (often - 1), (PLENTY, True)] * 2  # comes back every time
    assert watched(dips)[0] == []
    assert watched([(LOW, False)] * (often + 3))[0] == []  # an idle worker
    assert watched([*[(LOW, True)] * (often - 1), (LOW, False)] * 2)[0] == []


def limited_v1(group: Path, limit: int, usage: int = 0, stat: str = "") -> None:
    group.mkdir(parents=True, exist_ok=True)
    (group / "memory.limit_in_bytes").write_text(f"{limit}\n")
    (group / "memory.usage_in_bytes").write_text(f"{usage}\n")
    (group / "memory.stat").write_text(stat)


def test_a_limit_of_cgroups_version_1_binds_too(groups: Path, tmp_path: Path) -> None:
    (tmp_path / "own").write_text("9:cpu,cpuacct:/other\n4:memory:/batch/job/step\n0::/\n")
    stat = f"inactive_file 1\ntotal_inactive_file {GIB // 8}\ntotal_active_file {GIB // 8}\ntotal_rss 7\n"
    unlimited = 9223372036854771712
    limited_v1(groups / "memory/batch/job/step", unlimited, GIB // 2)
    limited_v1(groups / "memory/batch/job", GIB, GIB // 2, stat)
    limited_v1(groups / "memory", unlimited, 2 * GIB)
    assert memory.system_memory() == (GIB // 4 * 3, GIB, "the container's memory limit")
    limited_v1(groups / "memory/batch", GIB, GIB)  # further up, and nothing left
    assert memory.system_memory() == (0, GIB, "the container's memory limit")
    limited(groups, str(GIB // 2), GIB // 2)  # both versions are mounted: the less binds
    limited_v1(groups / "memory/batch", unlimited)
    assert memory.system_memory() == (0, GIB // 2, "the container's memory limit")


def test_in_a_container_of_version_1_the_own_group_is_the_root(groups: Path, tmp_path: Path) -> None:
    (tmp_path / "own").write_text("4:memory:/docker/0123\n")
    limited_v1(groups / "memory", GIB, GIB // 4)
    assert memory.system_memory() == (GIB // 4 * 3, GIB, "the container's memory limit")


@pytest.mark.parametrize("total", [8 * GIB, 120 * GIB])
@pytest.mark.parametrize("share", [0.02, 0.03, 0.2, 0.5, 1.0])
def test_the_watch_looks_again_before_the_floor_can_be_reached(total: int, share: float) -> None:
    available, floor = int(total * share), min(int(total * 0.02), 2 * GIB)
    pause = memory.look_again_after(available, total)
    assert 0.1 <= pause <= 1.0
    if pause > 0.1:
        assert available - pause * memory.FASTEST_FILL >= floor - 1


def test_a_worker_that_runs_low_says_why_and_ends_with_a_code_of_its_own() -> None:
    code = """
import time
from sparkablate.loading import memory
memory.watch(memory.end_process, lambda: True, lambda: (1, 1 << 30, "MemAvailable"))
while True:
    sum(range(10**6))
"""
    env = {**os.environ, "PYTHONPATH": str(Path(memory.__file__).parents[2])}
    ended = subprocess.run(
        [sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=120, check=False
    )
    assert ended.returncode == memory.OUT_OF_MEMORY_EXIT
    assert "sparkablate worker: 0 MiB of 1.0 GiB memory left" in ended.stderr


@pytest.mark.parametrize(
    ("method", "device", "dense"),
    [
        ({"quant_method": "compressed-tensors"}, "cpu", False),
        ({"quant_method": "fp8", "dequantize": True}, "cuda", True),
        ({"quant_method": "fp8"}, "cpu", True),
        ({"quant_method": "fp8"}, "cuda", False),
    ],
)
def test_the_size_of_a_quantised_model_is_known_before_it_is_loaded(
    method: dict[str, object], device: str, dense: bool, tmp_path: Path
) -> None:
    directory = model_directory.save(tmp_path / "model")
    weights = directory / "model.safetensors"
    tensors = load_file(weights)
    packed = {name: t.to(torch.int8) for name, t in tensors.items() if "proj" in name}
    scales = {f"{name}_scale": torch.ones(len(t)) for name, t in packed.items()}
    save_file({**tensors, **packed, **scales}, weights, metadata={"format": "pt"})
    config = load_config(str(directory), revision=None, trust_remote_code=False)
    config.quantization_config = method
    size = Files(directory).quantised_bytes(config, torch.bfloat16, torch.device(device), False)
    plain = sum(t.numel() for name, t in tensors.items() if name not in packed)
    in_packed = sum(t.numel() for t in packed.values())
    if dense:
        assert size == pytest.approx(2 * (plain + in_packed), rel=0.01)
    else:
        assert size == 2 * plain + in_packed + 4 * sum(t.numel() for t in scales.values())
