"""A model whose layers lie in main memory or on disk: every site gives the bits of the one that does not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import accelerate
import model_directory
import numpy as np
import pytest
import torch
from model_directory import model_config

from sparkablate import AblationManager, AblationSpec, SparkablateError
from sparkablate.directions import find_directions
from sparkablate.engines.local import LocalEngine
from sparkablate.engines.requests import Calibrate, Caller, Evaluate, Load, PutMeans
from sparkablate.loading import memory, offload
from sparkablate.loading.open import load_model
from sparkablate.measure.slice import Measurement
from tiny_models import tokens

#: Also transposed weights and biases, both orders of the additions, merged experts, a wrapper, no attention.
ROWS = ["llama", "gemma2", "gpt2", "gpt_neox", "opt", "qwen3_moe", "llava", "mamba2"]
SEQ_LEN, BATCH = 24, 3


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPARKABLATE_HOME", str(tmp_path / "home"))


def conditions(model_map: dict[str, Any]) -> list[dict[str, Any]]:
    """Every kind of site of every layer, in every mode."""
    offered: list[dict[str, Any]] = []
    for index, layer in enumerate(model_map["layers"]):
        for kind in layer["sites"]:
            if kind == "direction":
                continue
            which = {"head": {"heads": [0]}, "kv_group": {"groups": [0]}, "neuron": {"neurons": [0]}}.get(
                kind, {}
            )
            modes = ("skip",) if kind == "layer" else ("zero", "mean", "resample")
            for mode in modes:
                edit = {"kind": kind, "layer": index, "mode": mode, **which}
                offered.append(edit if kind == "layer" else {**edit, "positions": "all"})
    wanted = [{"id": f"edit {at}", "interventions": [edit]} for at, edit in enumerate(offered)]
    return [{"id": "baseline", "interventions": []}, *wanted]


def measured(request: dict[str, Any]) -> tuple[dict[str, np.ndarray], list[str]]:
    """Condition → its sums, and the notices of the load."""
    engine = LocalEngine()
    loaded = engine.answer(Load(request, SEQ_LEN, BATCH))
    rng = np.random.default_rng(0)
    ids, others = rng.integers(2, 258, (2, BATCH, SEQ_LEN)).astype(np.int32)
    wanted = conditions(loaded["model_map"])
    needed = sorted(
        {
            ("head" if edit["kind"] == "kv_group" else edit["kind"], edit["layer"])
            for one in wanted
            for edit in one["interventions"]
            if edit["mode"] == "mean"
        }
    )
    sites = [{"kind": kind, "layer": layer, "positions": "all"} for kind, layer in needed]
    if sites:
        engine.answer(PutMeans("0" * 64, *engine.answer(Calibrate(list(others), BATCH, sites))))
    found: list[Measurement] = []
    means = "0" * 64 if sites else None
    engine.answer(
        Evaluate(ids, wanted, ["nll"], means, donors={"resample": others}), Caller(report=found.append)
    )
    assert [one.error for one in found] == [None] * len(wanted)
    return {one.condition: one.sums for one in found}, loaded["notices"]


@pytest.mark.parametrize("row", ROWS)
def test_layers_on_disk_give_the_same_bits(row: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    request = model_config(model_directory.save(tmp_path / "model", row))
    held, _ = measured(request)
    monkeypatch.setattr(memory, "RESERVE", (1.0, 1 << 60))  # others have reserved all of it
    with pytest.raises(SparkablateError, match="has room for") as caught:
        measured(request)
    assert caught.value.code == "load_failed"
    spread, notices = measured({**request, "device_map": "auto"})
    assert any("fetched at every pass" in notice for notice in notices)
    assert spread.keys() == held.keys()
    different = [name for name in held if not np.array_equal(held[name], spread[name])]
    assert different == []


@pytest.mark.parametrize("where", ["main memory", "disk"])
def test_the_managers_edits_on_a_model_that_accelerate_holds(where: str, tmp_path: Path) -> None:
    directory = model_directory.save(tmp_path / "model", "llama")
    plain, _ = load_model(str(directory), dtype="float32", device="cpu")
    spread, _ = load_model(str(directory), dtype="float32", device="cpu")
    if where == "disk":
        accelerate.disk_offload(spread, tmp_path / "offload", execution_device=torch.device("cpu"))
    else:
        accelerate.cpu_offload(spread, execution_device=torch.device("cpu"))
    assert {parameter.device.type for parameter in spread.parameters()} == {"meta"}
    ids = tokens()
    for spec in (
        AblationSpec("head", 1, heads=(0, 2)),
        AblationSpec("attn", 0),
        AblationSpec("mlp", 2),
        AblationSpec("layer", 1),
    ):
        seen = []
        for model in (plain, spread):
            with torch.inference_mode(), AblationManager(model).applied(spec):
                seen.append(model(input_ids=ids, use_cache=False).logits)
        assert torch.equal(*seen), spec


def test_a_device_with_room_keeps_everything(tmp_path: Path) -> None:
    directory = model_directory.save(tmp_path / "model")
    model, _ = load_model(str(directory), dtype="float32", device="cpu", device_map="auto")
    assert {parameter.device.type for parameter in model.parameters()} == {"cpu"}
    assert not offload.root().exists()
    with pytest.raises(SparkablateError, match=r"device_map 'balanced': use auto, or leave it out"):
        load_model(str(directory), device_map="balanced")


class Card:
    """What torch says of a GPU."""

    def __init__(self, name: str, total: int, integrated: bool = False) -> None:
        self.name, self.total_memory, self.is_integrated = name, total, integrated


def test_rooms_are_those_of_gpus_of_one_kind_then_main_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    gib = 1 << 30
    cards = [Card("H100", 80 * gib), Card("L4", 24 * gib), Card("H100", 80 * gib)]
    monkeypatch.setattr(torch.cuda, "device_count", lambda: len(cards))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda at: cards[_index(at)].name)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda at: cards[_index(at)])
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda at: (70 * gib, 80 * gib))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda at: 0)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda at: 0)
    rooms = offload.rooms(torch.device("cuda"))
    assert list(rooms) == [0, 2, "cpu"]
    assert 40 * gib < rooms[0] == rooms[2] < 70 * gib
    assert rooms["cpu"] > 0


def _index(device: Any) -> int:
    return device if isinstance(device, int) else (device.index or 0)


def test_a_direction_is_found_where_layers_lie_on_disk(tmp_path: Path) -> None:
    directory = model_directory.save(tmp_path / "model", "llama")
    plain, _ = load_model(str(directory), dtype="float32", device="cpu")
    spread, _ = load_model(str(directory), dtype="float32", device="cpu")
    accelerate.disk_offload(spread, tmp_path / "offload", execution_device=torch.device("cpu"))
    sides = tokens(10, 6, seed=0).tolist(), tokens(10, 6, seed=1).tolist()
    held, found = (
        find_directions(AblationManager(model), *sides, resamples=2).candidates for model in (plain, spread)
    )
    assert len(held) == len(found) > 0
    for one, other in zip(held, found, strict=True):
        assert torch.equal(one.vector, other.vector)
        assert (one.scores, one.random) == (other.scores, other.random)
