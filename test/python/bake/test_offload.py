"""A bake of a model that does not fit the memory: layers stay on disk, on both sides of the certificate."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import model_directory
import pytest
import torch
from model_directory import model_config
from safetensors.torch import load_file, save_file
from transformers import LlamaForCausalLM

import tiny_models
from sparkablate import AblationSpec, DirectionSpec, SparkablateError
from sparkablate.bake import bake, certificate, live
from sparkablate.engines.local import LocalEngine
from sparkablate.engines.requests import Load
from sparkablate.loading import memory
from sparkablate.loading.open import open_model

#: Tied; tied, with transposed weights and biases; merged experts; a wrapper.
ROWS = ["gemma", "gpt2", "qwen2_moe", "llava"]


@pytest.fixture(autouse=True)
def _short_text(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(live, "BLOCKS", 2)
    monkeypatch.setattr(live, "LENGTH", 24)
    monkeypatch.setenv("SPARKABLATE_HOME", str(tmp_path / "home"))


@pytest.fixture
def no_room(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """From now on all of the memory is reserved for others."""

    def reserve() -> None:
        monkeypatch.setattr(memory, "RESERVE", (1.0, 1 << 60))

    return reserve


def folders(home: Path) -> list[str]:
    gc.collect()
    return [path.name for path in (home / "offload").iterdir() if path.is_dir()]


@pytest.mark.parametrize("row", ROWS)
def test_the_same_directory_and_certificate(
    row: str, tmp_path: Path, no_room: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    source = model_directory.save(tmp_path / "model", row)
    vector = torch.randn(tiny_models.D_MODEL, generator=torch.Generator().manual_seed(0))
    specs = [
        AblationSpec("head", 1, heads=(0,)),
        AblationSpec("mlp", 0),
        DirectionSpec("project_out", vector / vector.norm()),
    ]
    jobs: list[dict[str, Any]] = []
    place = certificate._placed

    def noted(job: dict[str, Any]) -> dict[str, Any]:
        jobs.append(place(job))
        return jobs[-1]

    monkeypatch.setattr(certificate, "_placed", noted)
    held = bake(str(source), specs, tmp_path / "held", device="cpu", threads=1)
    no_room()
    on_disk = bake(str(source), specs, tmp_path / "on-disk", device="cpu", threads=1)
    assert [job["offload"] is not None for job in jobs] == [False, True]
    assert on_disk["certificate"] == held["certificate"]
    assert on_disk["untied"] == held["untied"] == (row in ("gemma", "gpt2"))
    before, after = (load_file(tmp_path / name / "model.safetensors") for name in ("held", "on-disk"))
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert folders(tmp_path / "home") == []


@pytest.mark.parametrize("row", ROWS)
def test_every_site_passes_its_tests_from_disk(row: str, tmp_path: Path, no_room: Callable[[], None]) -> None:
    source = model_directory.save(tmp_path / "model", row)
    engine = LocalEngine()
    held = engine.answer(Load(model_config(source), 16, 2))
    no_room()
    with pytest.raises(SparkablateError, match="has room for") as caught:
        LocalEngine().answer(Load(model_config(source), 16, 2))
    assert caught.value.code == "load_failed"
    on_disk = LocalEngine().answer(Load(model_config(source), 16, 2, may_offload=True))
    assert "on disk; what is on disk" in " ".join(on_disk["notices"])
    for key in ("self_test", "model_map", "numerics", "weights_sha256"):
        assert on_disk[key] == held[key], key


@pytest.mark.parametrize("equal", [True, False])
def test_files_overrule_a_tie(equal: bool, tmp_path: Path, no_room: Callable[[], None]) -> None:
    """The configuration says tied, and the files hold both tensors: they are one only if they are equal."""
    source = model_directory.save(tmp_path / "model", "gemma")
    held = load_file(source / "model.safetensors")
    held["lm_head.weight"] = held["model.embed_tokens.weight"] * (1 if equal else 2)
    save_file(held, source / "model.safetensors", metadata={"format": "pt"})
    no_room()
    spec = DirectionSpec("project_out", torch.eye(tiny_models.D_MODEL)[0])
    assert bake(str(source), spec, tmp_path / "out", device="cpu", threads=1)["untied"] == equal
    after = load_file(tmp_path / "out" / "model.safetensors")
    assert torch.equal(after["lm_head.weight"], held["lm_head.weight"])


def test_a_killed_process_leaves_nothing_for_long(tmp_path: Path, no_room: Callable[[], None]) -> None:
    source = model_directory.save(tmp_path / "model")
    left = tmp_path / "home" / "offload" / "of-a-killed-process"
    left.mkdir(parents=True)
    (left / "lock").touch()
    no_room()
    opened = open_model(**model_config(source), may_offload=True)
    assert opened.offloaded
    assert len(folders(tmp_path / "home")) == 1
    assert not left.exists()
    second = open_model(**model_config(source), may_offload=True)
    assert len(folders(tmp_path / "home")) == 2
    del opened, second
    assert folders(tmp_path / "home") == []


def test_a_load_that_fails_leaves_nothing(tmp_path: Path, no_room: Callable[[], None]) -> None:
    source = model_directory.save(tmp_path / "model")
    weights = load_file(source / "model.safetensors")
    del weights["model.norm.weight"]
    save_file(weights, source / "model.safetensors", metadata={"format": "pt"})
    no_room()
    with pytest.raises(SparkablateError, match=r"lacks 1 weights, e\.g\. model\.norm\.weight"):
        open_model(**model_config(source), may_offload=True)
    assert folders(tmp_path / "home") == []
    (source / "model.safetensors").write_bytes(b"torn")
    with pytest.raises(SparkablateError) as caught:
        open_model(**model_config(source), may_offload=True)
    assert caught.value.code == "load_failed"
    assert folders(tmp_path / "home") == []


def test_where_layers_cannot_be_put_is_named(tmp_path: Path, no_room: Callable[[], None]) -> None:
    source = model_directory.save(tmp_path / "model")
    (tmp_path / "home").write_text("a file")
    no_room()
    with pytest.raises(SparkablateError, match=r"home/offload.*SPARKABLATE_HOME") as caught:
        open_model(**model_config(source), may_offload=True)
    assert caught.value.code == "load_failed"


def test_the_directory_is_checked_in_the_memory_that_the_live_model_gave_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = model_directory.save(tmp_path / "model")
    has_room = memory.has_room
    of_other_tests = weakref.WeakSet(_held())
    alive: list[int] = []

    def noted(needed: int, device: torch.device) -> bool:
        alive.append(sum(one not in of_other_tests for one in _held()))
        return has_room(needed, device)

    monkeypatch.setattr(memory, "has_room", noted)
    bake(str(source), AblationSpec("mlp", 0), tmp_path / "out", device="cpu", threads=1)
    assert alive[0] == 0  # before the live model is loaded
    assert alive[-1] == 0  # before the verifying one is


def _held() -> list[LlamaForCausalLM]:
    """The models in memory whose weights are."""
    models = [one for one in gc.get_objects() if isinstance(one, LlamaForCausalLM)]
    return [one for one in models if any(p.device.type != "meta" for p in one.parameters())]
