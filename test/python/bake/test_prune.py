"""Pruned configurations describe the layers that are left, and checkpoints named otherwise are understood."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM

import tiny_models
from sparkablate import AblationSpec, SparkablateError
from sparkablate.bake import bake, live
from sparkablate.bake.prune import Renumbering, mend_config


@pytest.fixture(autouse=True)
def _short_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "BLOCKS", 2)
    monkeypatch.setattr(live, "LENGTH", 24)


def mended(model_type: str, removed: set[int], **settings: Any) -> Any:
    """The configuration after the file was mended and read again, as a checkpoint's reader sees it."""
    base = tiny_models.TINY[model_type]
    config = AutoConfig.for_model(base.model_type, **{**base.config, **settings})
    layers = config.num_hidden_layers
    raw = {**json.loads(config.to_json_string(use_diff=False))}
    raw.pop("layer_types", None)  # left to the class's default, which goes by the layer's number
    return AutoConfig.for_model(**mend_config(raw, config, Renumbering(frozenset(removed), layers)))


@pytest.mark.parametrize("step", [1, 2, 3])
def test_sparse_steps_become_a_list(step: int) -> None:
    before = {"num_hidden_layers": 7, "decoder_sparse_step": step, "mlp_only_layers": [3]}
    config = mended("qwen2_moe", {0, 4}, **before)
    dense = [(index + 1) % step != 0 or index == 3 for index in range(7) if index not in (0, 4)]
    assert config.num_hidden_layers == 5
    assert config.decoder_sparse_step == 1
    assert [index in config.mlp_only_layers for index in range(5)] == dense


@pytest.mark.parametrize(
    ("model_type", "settings"),
    [
        ("gemma2", {}),
        ("cohere2", {}),
        ("gpt_oss", {}),
        ("smollm3", {}),
        ("qwen2", {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 4}),
    ],
)
def test_each_layer_keeps_its_kind_of_attention(model_type: str, settings: dict[str, Any]) -> None:
    base = tiny_models.TINY[model_type]
    whole = AutoConfig.for_model(base.model_type, **{**base.config, **settings, "num_hidden_layers": 8})
    assert len(set(whole.layer_types)) > 1 or model_type == "smollm3"
    config = mended(model_type, {1, 2, 6}, num_hidden_layers=8, **settings)
    kept = [0, 3, 4, 5, 7]
    assert config.layer_types == [whole.layer_types[index] for index in kept]
    if model_type == "smollm3":
        assert config.no_rope_layers == [whole.no_rope_layers[index] for index in kept]
    if model_type == "qwen2":
        assert config.max_window_layers == 2  # of layers 0 to 3, two are left


def test_first_dense_layers_are_counted_anew() -> None:
    assert (
        mended("deepseek_v3", {1, 4}, num_hidden_layers=6, first_k_dense_replace=3).first_k_dense_replace == 2
    )


@pytest.mark.parametrize(
    ("model_type", "settings", "said"),
    [
        ("gpt2", {"scale_attn_by_inverse_layer_idx": True}, "scaled by the layer's number"),
        ("llama", {"attention_multipliers": [1.0, 2.0, 3.0]}, "attention_multipliers"),
    ],
)
def test_a_number_that_means_more_than_a_place(model_type: str, settings: dict[str, Any], said: str) -> None:
    with pytest.raises(SparkablateError, match=said) as caught:
        mended(model_type, {1}, **settings)
    assert caught.value.code == "bake_refused"
    assert "Leave prune_layers out" in caught.value.message


def test_layers_beyond_the_models_own_move_along(tmp_path: Path) -> None:
    """Multi-token prediction: a checkpoint may hold a layer more, which stock transformers does not read."""
    source = tmp_path / "model"
    tiny_models.build("deepseek_v3").save_pretrained(source)
    held = load_file(source / "model.safetensors")
    extra = torch.ones(tiny_models.D_MODEL)
    held[f"model.layers.{tiny_models.LAYERS}.enorm.weight"] = extra
    save_file(held, source / "model.safetensors", metadata={"format": "pt"})
    bake(str(source), AblationSpec("layer", 1), tmp_path / "out", prune_layers=True, threads=1)
    after = load_file(tmp_path / "out" / "model.safetensors")
    assert torch.equal(after[f"model.layers.{tiny_models.LAYERS - 1}.enorm.weight"], extra)


@pytest.mark.parametrize(
    ("name", "prefix"), [("gpt2", "transformer."), ("opt", "model."), ("bloom", "transformer.")]
)
def test_old_checkpoints_leave_the_models_name_out(name: str, prefix: str, tmp_path: Path) -> None:
    source = tmp_path / "model"
    tiny_models.build(name).save_pretrained(source)
    held = load_file(source / "model.safetensors")
    short = {key.removeprefix(prefix): value for key, value in held.items()}
    save_file(short, source / "model.safetensors", metadata={"format": "pt"})
    report = bake(
        str(source),
        [AblationSpec("head", 0, heads=(1,)), AblationSpec("mlp", 2)],
        tmp_path / "out",
        threads=1,
    )
    assert report["certificate"]["behaviour"]["logit_difference"] == 0
    after = load_file(tmp_path / "out" / "model.safetensors")
    assert after.keys() == short.keys()
    AutoModelForCausalLM.from_pretrained(tmp_path / "out")
