"""Multimodal wrappers: the text tower is found on the model, its logits are the wrapper's own, and a bake
finds its tensors under the names that the wrapper's checkpoints have."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
import tiny_wrappers
import torch
from tiny_wrappers import OTHER_NAMES, REFUSED, UNTESTED, WORKING
from transformers import AutoConfig
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
    MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES,
)

import tiny_models
from sparkablate import AblationManager, AblationSpec, SparkablateError
from sparkablate.anatomy.architectures import locate, row_of
from sparkablate.bake.baking import Baking, Source
from sparkablate.bake.checkpoint import Checkpoint, find_names
from sparkablate.proofs import self_test


@pytest.fixture(scope="module")
def wrapper() -> Callable[[str], Any]:
    return lru_cache(maxsize=None)(tiny_wrappers.build)


def test_every_wrapper_of_a_known_text_model_is_listed() -> None:
    types = {*MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES, *MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES}
    known = set()
    for name in types:
        config = AutoConfig.for_model(name)
        text = config.get_text_config()
        if text is not config and row_of(text) is not None:
            known.add(name)
    assert known == {*WORKING, *REFUSED, *UNTESTED}
    assert len(WORKING) >= 40


@pytest.mark.parametrize("name", WORKING)
def test_logits_of_a_text_are_those_of_tower_and_head(name: str, wrapper: Callable[[str], Any]) -> None:
    model = wrapper(name)
    sites = locate(model)
    assert sites.layers
    assert sites.model_type == model.config.get_text_config().model_type
    ids = tiny_models.tokens()
    with torch.inference_mode():
        logits = model(input_ids=ids, use_cache=False).logits
        hidden = sites.stack(input_ids=ids, use_cache=False)[0]
        assert torch.equal(sites.to_logits(hidden), logits)


@pytest.mark.parametrize("name", [name for name in WORKING if name not in OTHER_NAMES])
def test_a_bake_finds_the_towers_tensors(name: str, tmp_path: Path, wrapper: Callable[[str], Any]) -> None:
    model = wrapper(name)
    sites = locate(model)
    model.save_pretrained(tmp_path)
    row = row_of(model.config.get_text_config())
    assert row is not None
    with Checkpoint(tmp_path) as checkpoint:
        names = find_names(row, sites, model, checkpoint.entries)
        for layer in sites.layers:
            if layer.attention_output is None:
                continue
            weight: Any = layer.attention_output.weight
            stored = checkpoint.read(f"{names.layer(layer.index)}{row.attention_output}.weight")
            assert torch.equal(stored, weight)
        if names.head in checkpoint.entries:
            head: Any = sites.head.weight
            assert torch.equal(checkpoint.read(names.head), head)
        source = Source(name, None, tmp_path, None, AblationManager(model, sites))
        last = next(layer for layer in reversed(sites.layers) if "mlp" in layer.sites)
        spec = AblationSpec("mlp", last.index)
        edits = Baking(source, [spec], tmp_path / "out", "float32", False, force=False).edits.by_tensor
        shapes = [checkpoint.entries[tensor].shape for tensor in edits]
        assert sum(map(math.prod, shapes)) == tiny_models.writing_elements(last.module)


@pytest.mark.parametrize("name", OTHER_NAMES)
def test_other_names_on_disk_are_refused(name: str, tmp_path: Path, wrapper: Callable[[str], Any]) -> None:
    model = wrapper(name)
    model.save_pretrained(tmp_path)
    source = Source(name, None, tmp_path, None, AblationManager(model))
    with pytest.raises(SparkablateError) as caught:
        Baking(source, [AblationSpec("head", 0, heads=(0,))], tmp_path / "out", "float32", False, force=False)
    assert caught.value.code in ("architecture_unsupported", "bake_refused")


@pytest.mark.parametrize(("name", "said"), REFUSED.items())
def test_wrappers_that_are_no_text_model_are_refused_by_name(name: str, said: str) -> None:
    with pytest.raises(SparkablateError, match=said) as caught:
        locate(tiny_wrappers.build(name))
    assert caught.value.code == "architecture_unsupported"


@pytest.mark.parametrize(
    "name", ["qwen2_vl", "internvl", "idefics3", "nemotron_h_omni", "cohere2_vision", "glm4v"]
)
def test_towers_pass_the_self_test(name: str, wrapper: Callable[[str], Any]) -> None:
    model = wrapper(name)
    assert all(result["passed"] for result in self_test.run(model, locate(model)))


def test_two_towers_of_one_kind_are_not_guessed() -> None:
    model = tiny_wrappers.build("llava")
    tower = model.model.language_model
    model.model.draft = type(tower)(tower.config)
    with pytest.raises(SparkablateError, match=r"2 of its modules could be the 'llama' text tower") as caught:
        locate(model)
    assert "model.language_model, model.draft" in caught.value.message


@pytest.mark.parametrize("name", ["qwen3_5", "llama4"])
def test_the_text_model_of_a_wrappers_checkpoint(name: str, tmp_path: Path) -> None:
    """AutoModelForCausalLM loads it without the other towers, whose tensors stay in a bake."""
    from transformers import AutoModelForCausalLM

    tiny_wrappers.build(name).save_pretrained(tmp_path / "model")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    assert model.config.get_text_config() is model.config
    source = Source(name, None, tmp_path / "model", None, AblationManager(model))
    layer = next(layer.index for layer in source.manager.sites.layers if "head" in layer.sites)
    baking = Baking(
        source, [AblationSpec("head", layer, heads=(0,))], tmp_path / "out", "float32", False, force=False
    )
    (edited,) = baking.edits.by_tensor
    assert f"layers.{layer}.self_attn.o_proj.weight" in edited
    assert any("vision" in name or "visual" in name for name in baking.files)
