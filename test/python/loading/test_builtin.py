"""The built-in model: what ``sparkablate setup`` made of the GGUF file, and the conversion on a tiny one."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from sparkablate.errors import SparkablateError
from sparkablate.loading import builtin
from sparkablate.loading.configuration import BUILTIN_MODELS
from sparkablate.loading.home import home

HEADS, KV_HEADS, D_MODEL, LAYERS, VOCABULARY = 4, 2, 32, 2, 258


def permuted(weight: torch.Tensor, heads: int) -> torch.Tensor:
    """Rows of a query or key projection in GGUF's order: rotary halves interleaved."""
    rows = weight.shape[0] // heads
    return weight.reshape(heads, 2, rows // 2, weight.shape[1]).swapaxes(1, 2).reshape(weight.shape)


def write_gguf(model: LlamaForCausalLM, file: Path) -> None:
    """An unquantized GGUF file with a byte-level tokenizer, as llama.cpp's converter lays it out."""
    from gguf import GGUFWriter, TokenType
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    config = model.config
    writer = GGUFWriter(file, "llama")
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_rope_freq_base(10_000.0)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(VOCABULARY)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list([*bytes_to_unicode().values(), "th", "<end>"])
    writer.add_token_types([TokenType.NORMAL] * 257 + [TokenType.CONTROL])
    writer.add_token_merges(["t h"])
    writer.add_bos_token_id(257)
    writer.add_eos_token_id(257)
    writer.add_chat_template("{{ messages[0].content }}<end>")

    names = {
        "self_attn.q_proj": "attn_q",
        "self_attn.k_proj": "attn_k",
        "self_attn.v_proj": "attn_v",
        "self_attn.o_proj": "attn_output",
        "mlp.gate_proj": "ffn_gate",
        "mlp.up_proj": "ffn_up",
        "mlp.down_proj": "ffn_down",
        "input_layernorm": "attn_norm",
        "post_attention_layernorm": "ffn_norm",
    }
    weights = model.state_dict()
    writer.add_tensor("token_embd.weight", weights["model.embed_tokens.weight"].numpy())
    writer.add_tensor("output_norm.weight", weights["model.norm.weight"].numpy())
    for layer in range(config.num_hidden_layers):
        for name, short in names.items():
            weight = weights[f"model.layers.{layer}.{name}.weight"]
            if short == "attn_q":
                weight = permuted(weight, HEADS)
            elif short == "attn_k":
                weight = permuted(weight, KV_HEADS)
            writer.add_tensor(f"blk.{layer}.{short}.weight", weight.contiguous().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.fixture
def original() -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=D_MODEL,
        intermediate_size=64,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        num_key_value_heads=KV_HEADS,
        max_position_embeddings=64,
        tie_word_embeddings=True,
        initializer_range=0.3,
    )
    return LlamaForCausalLM(config).eval()


def test_conversion_keeps_the_logits_of_the_model_the_file_was_made_from(
    original: LlamaForCausalLM, tmp_path: Path
) -> None:
    write_gguf(original, tmp_path / "tiny.gguf")
    builtin.convert(tmp_path / "tiny.gguf", tmp_path / "converted")

    converted: Any = AutoModelForCausalLM.from_pretrained(tmp_path / "converted")
    assert converted.dtype == torch.float32
    assert not hasattr(converted.config, "quantization_config")
    ids = torch.randint(VOCABULARY, (2, 20))
    with torch.inference_mode():
        assert torch.equal(converted.eval()(ids).logits, original(ids).logits)
    converted.save_pretrained(tmp_path / "again")

    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "converted")
    assert tokenizer.decode(tokenizer("Emma Woodhouse, 21")["input_ids"]) == "Emma Woodhouse, 21"
    rendered = tokenizer.apply_chat_template([{"role": "user", "content": "hello"}], tokenize=False)
    assert rendered == "hello<end>"


def test_another_wheel_than_the_pinned_one_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "a.whl"
    file.write_bytes(b"pinned")
    builtin.verify(file, hashlib.sha256(b"pinned").hexdigest())
    file.write_bytes(b"pinneD")
    with pytest.raises(SparkablateError, match="not the pinned") as caught:
        builtin.verify(file, hashlib.sha256(b"pinned").hexdigest())
    assert caught.value.code == "load_failed"


@pytest.mark.parametrize("name", builtin.SOURCES)
def test_the_model_that_set_up_made_is_ordinary_and_complete(name: str) -> None:
    directory = home() / "models" / BUILTIN_MODELS[name]
    if not directory.is_dir():
        pytest.skip(f"{directory} is missing: run 'sparkablate setup'")
    assert builtin.make(name) == directory
    provenance = json.loads((directory / builtin.PROVENANCE).read_text(encoding="utf-8"))
    assert provenance == asdict(builtin.SOURCES[name])
    config = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    assert "quantization_config" not in config
    assert config["dtype"] == "float32"
    tokenizer = AutoTokenizer.from_pretrained(directory)
    assert tokenizer.chat_template
    text = "It is a truth universally acknowledged"
    assert tokenizer.decode(tokenizer(text, add_special_tokens=False)["input_ids"]) == text
