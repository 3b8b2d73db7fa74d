"""Tensors that the model does not take, two shards, two sets of weights, adapters: nothing in silence."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import model_directory
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from sparkablate.bake.checkpoint import Checkpoint
from sparkablate.errors import SparkablateError
from sparkablate.loading import checkpoint_files
from sparkablate.loading.open import load_model

IDS = torch.arange(2, 22).view(1, -1)


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPARKABLATE_HOME", str(tmp_path / "home"))


def tensors_of(directory: Path) -> dict[str, torch.Tensor]:
    return load_file(directory / "model.safetensors")


def write(directory: Path, tensors: dict[str, torch.Tensor], file: str = "model.safetensors") -> None:
    save_file(tensors, directory / file, metadata={"format": "pt"})


def add(directory: Path, **more: torch.Tensor) -> None:
    write(directory, {**tensors_of(directory), **{name.replace("__", "."): t for name, t in more.items()}})


def configure(directory: Path, **changes: Any) -> None:
    path = directory / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def opened(directory: Path) -> tuple[Any, list[str]]:
    """The model, and the notices."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model, _ = load_model(str(directory), dtype="float32", device="cpu", threads=1)
    return model, [str(warning.message) for warning in caught if warning.category is UserWarning]


def logits(model: Any) -> torch.Tensor:
    with torch.inference_mode():
        return model(input_ids=IDS).logits


def refused(directory: Path, words: str) -> None:
    with pytest.raises(SparkablateError, match=words) as caught:
        opened(directory)
    assert caught.value.code == "load_failed"
    assert str(directory) in caught.value.message


# ── Tensors that the configuration has no place for ──────────────────────────────────────────
@pytest.mark.parametrize(
    ("name", "key", "tensor"),
    [
        ("llama_bias", {"attention_bias": False}, r"self_attn\..*bias"),
        ("llama_bias", {"mlp_bias": False}, r"mlp\..*bias"),
        ("llama", {"num_hidden_layers": 2}, r"model\.layers\.2\..*2 layers, and the weights have 3"),
        ("gpt2", {"n_layer": 1}, r"h\.1\..*1 layers, and the weights have 3"),
        ("qwen3", {"model_type": "llama", "architectures": ["LlamaForCausalLM"]}, r"self_attn\.[qk]_norm"),
        ("deepseek_v3", {"num_hidden_layers": 2}, r"layers\.2\."),
    ],
)
def test_what_config_json_switches_off_is_refused(
    name: str, key: dict[str, Any], tensor: str, tmp_path: Path
) -> None:
    directory = model_directory.save(tmp_path / "model", name)
    configure(directory, **key)
    if "layer_types" in json.loads((directory / "config.json").read_text()):
        configure(directory, layer_types=None)
    refused(directory, rf"tensors of the checkpoint have no place in the model, e\.g\. .*{tensor}")


@pytest.mark.parametrize(
    "name",
    [
        "model.layers.0.self_attn.sinks",
        "layers.0.self_attn.q_proj.bias",
        "model.embed_tokens.bias",
        "model.norm.bias",
        "lm_head.bias",
        "model.layers.7.mlp.up_proj.weight",
    ],
)
def test_a_parameter_of_the_text_tower_is_refused_wherever_it_is(name: str, tmp_path: Path) -> None:
    directory = model_directory.save(tmp_path / "model")
    add(directory, **{name: torch.zeros(4)})
    refused(directory, "have no place in the model")


def test_a_base_model_s_own_names_hide_nothing(tmp_path: Path) -> None:
    """Checkpoints of 2019 leave the model's name out: what is beyond the last layer is refused there, too."""
    directory = model_directory.save(tmp_path / "model", "gpt2")
    short = {name.removeprefix("transformer."): tensor for name, tensor in tensors_of(directory).items()}
    write(directory, short)
    opened(directory)
    configure(directory, n_layer=2)
    refused(directory, r"h\.2\.")


def test_one_parameter_under_two_names_is_refused(tmp_path: Path) -> None:
    directory = model_directory.save(tmp_path / "model")
    add(directory, norm__weight=torch.zeros(32))
    refused(directory, "the same parameter")


# ── What may be read past ────────────────────────────────────────────────────────────────────
@pytest.mark.parametrize(
    ("kind", "name", "shape", "what"),
    [
        ("llama", "model.layers.0.self_attn.rotary_emb.inv_freq", (8,), "1 buffers that the model computes"),
        ("gpt2", "h.0.attn.bias", (1, 1, 128, 128), "1 causal masks of old checkpoints"),
        ("gpt2", "transformer.h.0.attn.masked_bias", (), "1 buffers"),
        ("gpt_neox", "gpt_neox.layers.1.attention.bias", (1, 1, 16, 16), "1 causal masks"),
        ("llama", "mtp.layers.0.mlp.up_proj.weight", (4,), "1 multi-token prediction"),
        ("llama", "vision_tower.encoder.layers.0.weight", (4,), "1 towers of other modalities"),
        ("llama", "model.visual.blocks.0.weight", (4,), "1 towers of other modalities"),
        ("llama", "model.layers.0.self_attn.k_proj.k_scale", (), "1 scales of a key/value cache"),
        ("llama", "v_head.summary.weight", (4,), "1 outside embedding, layers, norm and head"),
    ],
)
def test_what_no_logit_depends_on_is_read_past_and_told(
    kind: str, name: str, shape: tuple[int, ...], what: str, tmp_path: Path
) -> None:
    directory = model_directory.save(tmp_path / "model", kind)
    before = logits(opened(directory)[0])
    add(directory, **{name: torch.ones(shape)})
    model, notices = opened(directory)
    assert torch.equal(logits(model), before)
    assert len(notices) == 1
    assert f"{what}" in notices[0]
    assert name in notices[0]


@pytest.mark.parametrize("kind", ["gpt2", "gpt_neox"])
def test_a_bias_under_a_mask_s_name_is_no_mask(kind: str, tmp_path: Path) -> None:
    """transformers' own list would hide it."""
    directory = model_directory.save(tmp_path / "model", kind)
    name = {"gpt2": "transformer.h.0.attn.bias", "gpt_neox": "gpt_neox.layers.0.attention.bias"}[kind]
    add(directory, **{name: torch.ones(32)})
    refused(directory, "have no place in the model")


def test_a_layer_of_multi_token_prediction_is_told_from_one_too_many(tmp_path: Path) -> None:
    directory = model_directory.save(tmp_path / "model", "deepseek_v3")
    extra = {
        "model.layers.3.eh_proj.weight": torch.ones(4),
        "model.layers.3.mlp.up_proj.weight": torch.ones(4),
    }
    add(directory, **extra)
    assert "2 multi-token prediction" in opened(directory)[1][0]
    add(directory, **{"model.layers.4.mlp.up_proj.weight": torch.ones(4)})
    refused(directory, "3 layers, and the weights have 5")


@pytest.mark.parametrize(
    "kind",
    [
        "llama",
        "gpt2",
        "gpt_neox",
        "mixtral",
        "deepseek_v3",
        "qwen3_next",
        "mamba2",
        "gemma3",
        "llava",
        "falcon",
    ],
)
def test_a_checkpoint_as_it_should_be_has_no_notice(kind: str, tmp_path: Path) -> None:
    assert opened(model_directory.save(tmp_path / "model", kind))[1] == []


@pytest.mark.parametrize("equal", [True, False])
def test_a_head_beside_a_tied_embedding(equal: bool, tmp_path: Path) -> None:
    directory = model_directory.save(tmp_path / "model")
    tensors = tensors_of(directory)
    if equal:
        tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
        write(directory, tensors)
    head = tensors["lm_head.weight"]
    configure(directory, tie_word_embeddings=True)
    model, notices = opened(directory)
    assert torch.equal(model.lm_head.weight, head)
    assert [("a head of its own" in notice) for notice in notices] == ([] if equal else [True])


def test_another_shape_is_told_with_both(tmp_path: Path) -> None:
    directory = model_directory.save(tmp_path / "model")
    configure(directory, intermediate_size=48)
    refused(directory, r"mlp\.down_proj\.weight: \[32, 64\] in the checkpoint, \[32, 48\] by config.json")


def test_packed_weights_without_a_quantiser_are_refused(tmp_path: Path) -> None:
    directory = model_directory.save(tmp_path / "model")
    name = "model.layers.0.mlp.up_proj.weight"
    add(directory, **{name: tensors_of(directory)[name].mul(64).to(torch.int8)})
    refused(directory, f"{name} is I8, and config.json has no quantization_config")


# ── Two shards, two sets of weights ──────────────────────────────────────────────────────────
def shards(directory: Path, kind: str, named: int) -> tuple[str, torch.Tensor]:
    """Shards that both hold one tensor, with other values; the index names shard ``named``. Returns what
    counts."""
    tensors = tensors_of(directory)
    (directory / "model.safetensors").unlink()
    shared = "model.layers.1.mlp.up_proj.weight"
    versions = [tensors[shared], tensors[shared] * 3]
    names = sorted(tensors)
    files = [f"{kind}-{number}" for number in (0, 1)]
    end = {"model": ".safetensors", "pytorch_model": ".bin"}[kind]
    parts = [{name: tensors[name] for name in names[number::2]} for number in (0, 1)]
    weight_map = {name: files[number] + end for number in (0, 1) for name in parts[number]}
    for number, part in enumerate(parts):
        part[shared] = versions[number].clone()
        if end == ".bin":
            torch.save(part, directory / (files[number] + end))
        else:
            write(directory, part, files[number] + end)
    weight_map[shared] = files[named] + end
    index = directory / (
        "model.safetensors.index.json" if kind == "model" else "pytorch_model.bin.index.json"
    )
    index.write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return shared, versions[named]


@pytest.mark.parametrize("named", [0, 1])
@pytest.mark.parametrize("kind", ["model", "pytorch_model"])
def test_a_tensor_of_two_shards_is_taken_from_where_the_index_says(
    kind: str, named: int, tmp_path: Path
) -> None:
    directory = model_directory.save(tmp_path / "model")
    name, expected = shards(directory, kind, named)
    model, notices = opened(directory)
    assert torch.equal(model.get_parameter(name), expected)
    with Checkpoint(directory) as checkpoint:
        assert torch.equal(checkpoint.read(name), expected)
    stock = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
    # What is guarded against: stock transformers takes the last shard's.
    assert torch.equal(stock.get_parameter(name), expected) is (named == 1)
    assert len(notices) == (named == 0)
    del model


def test_a_tensor_of_two_shards_that_the_index_does_not_name_is_refused(tmp_path: Path) -> None:
    directory = model_directory.save(tmp_path / "model")
    name, _ = shards(directory, "model", 0)
    path = directory / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    del index["weight_map"][name]
    path.write_text(json.dumps(index))
    refused(directory, "the index does not say which of them to use")


@pytest.mark.parametrize("other", ["pytorch_model.bin", "consolidated.safetensors", "model-0.safetensors"])
def test_of_two_sets_of_weights_run_and_bake_read_the_same(other: str, tmp_path: Path) -> None:
    directory = model_directory.save(tmp_path / "model")
    right = tensors_of(directory)
    wrong = {name: tensor * 2 for name, tensor in right.items()}
    if other.endswith(".bin"):
        torch.save(wrong, directory / other)
    else:
        write(directory, wrong, other)
    if other.startswith("model-"):
        index = {"metadata": {}, "weight_map": dict.fromkeys(wrong, other)}
        (directory / "model.safetensors.index.json").write_text(json.dumps(index))
    model, notices = opened(directory)
    name = "model.layers.0.mlp.up_proj.weight"
    assert torch.equal(model.get_parameter(name), right[name])
    with Checkpoint(directory) as checkpoint:
        assert torch.equal(checkpoint.read(name), right[name])
    assert [path.name for path in checkpoint_files.weights_of(directory).files] == ["model.safetensors"]
    assert len(notices) == 1
    assert f"model.safetensors was read, {other}" in notices[0]


def test_an_adapter_beside_the_model_is_mentioned_and_not_applied(tmp_path: Path) -> None:
    directory = model_directory.save(tmp_path / "model")
    before = logits(opened(directory)[0])
    adapter = {
        "peft_type": "LORA",
        "base_model_name_or_path": str(directory),
        "r": 2,
        "target_modules": ["q_proj"],
    }
    (directory / "adapter_config.json").write_text(json.dumps(adapter))
    low = {
        f"base_model.model.model.layers.{layer}.self_attn.q_proj.lora_{side}.weight": torch.ones(shape)
        for layer in range(3)
        for side, shape in (("A", (2, 32)), ("B", (64, 2)))
    }
    write(directory, low, "adapter_model.safetensors")
    model, notices = opened(directory)
    assert torch.equal(logits(model), before)
    assert len(notices) == 1
    assert "holds an adapter beside the model: it is not applied" in notices[0]
    assert model.config.name_or_path == str(directory)


def test_no_view_is_left_behind(tmp_path: Path) -> None:
    directory = model_directory.save(tmp_path / "model")
    (directory / "adapter_config.json").write_text("{}")
    model, _ = opened(directory)
    del model
    import gc

    gc.collect()
    left = [path for path in (tmp_path / "home" / "offload").iterdir() if path.is_dir()]
    assert left == []
