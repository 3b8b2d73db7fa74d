"""Rows that are wrong in one way each: every one is caught by the test that is there for it, by name."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import model_directory
import pytest
from torch import Tensor

from sparkablate import AblationManager, AblationSpec
from sparkablate.anatomy import additions, architectures
from sparkablate.anatomy.architectures import ARCHITECTURES, locate, one_per_head
from sparkablate.anatomy.projections import linear
from sparkablate.anatomy.sites import SiteMap
from sparkablate.bake import bake
from sparkablate.engines.local import LocalEngine
from sparkablate.engines.requests import Load
from sparkablate.errors import SparkablateError
from sparkablate.proofs import self_test

#: Test → the sites that it takes from a layer at least.
TAKES = {
    "value_rows": {"head", "kv_group"},
    "all_heads_zero": {"head", "kv_group"},
    "neurons": {"neuron"},
    "replayed_additions": {"attn", "direction"},
    "embedding": {"direction"},
    "entry": {"layer", "direction"},
    "skip": {"layer"},
}


def halve_kv(config: Any, attention: Any) -> int:
    return config.num_key_value_heads // 2


def double_heads(config: Any) -> int:
    return 2 * config.num_attention_heads


def double_heads_of_kv(config: Any, attention: Any) -> int:
    return 2 * config.num_attention_heads


def double_kv(config: Any, attention: Any) -> int:
    return 2 * config.num_key_value_heads


def halve_heads(config: Any) -> int:
    return config.num_attention_heads // 2


def halve_heads_of_kv(config: Any, attention: Any) -> int:
    return config.num_attention_heads // 2


def half_of_attention(layer: Any, x: Tensor, writes: Mapping[str, Tensor]) -> Tensor:
    return (x + 0.5 * writes["attn"]) + writes["mlp"]


def unscaled_stream(layer: Any, x: Tensor, writes: Mapping[str, Tensor]) -> Tensor:
    return additions.sequential(layer, x, writes) + writes["per_layer"]


def mlp_first(layer: Any, x: Tensor, writes: Mapping[str, Tensor]) -> Tensor:
    return (x + writes["mlp"]) + writes["attn"]


def swapped(row: architectures.Architecture) -> dict[str, Any]:
    (first, attn), (second, mlp) = row.writes
    return {"writes": ((first, mlp), (second, attn))}


def row_of_type(model_type: str) -> architectures.Architecture:
    return next(row for row in ARCHITECTURES if model_type in row.model_types)


def reader(path: str, output_axis: int = -2) -> dict[str, Any]:
    return {"outputs": (("mlp", (linear(path, output_axis),)),)}


ATTN, MLP = ("attn", "self_attn"), ("mlp", "mlp")
SABOTAGED: dict[str, tuple[str, dict[str, Any], str, str]] = {
    # the wrong d_head: with grouped queries, and where only attention patterns tell heads apart
    "twice the heads": ("llama", {"n_heads": double_heads}, "value_rows", "width 8"),
    "half the heads": ("llama", {"n_heads": halve_heads}, "value_rows", "2 heads of 32"),
    "twice the heads and groups": (
        "llama",
        {"n_heads": double_heads, "n_kv_heads": double_kv},
        "value_rows",
        "width 8",
    ),
    "twice the heads, by pattern": (
        "gpt2",
        {"n_heads": double_heads, "n_kv_heads": double_heads_of_kv},
        "value_rows",
        "never changes at column 4",
    ),
    "half the heads, by pattern": (
        "gpt2",
        {"n_heads": halve_heads, "n_kv_heads": halve_heads_of_kv},
        "value_rows",
        "changes at column 8",
    ),
    "twice the heads of bloom": (
        "bloom",
        {"n_heads": double_heads, "n_kv_heads": double_heads_of_kv},
        "value_rows",
        "width 4",
    ),
    "twice the heads of a latent": (
        "deepseek_v3",
        {"n_heads": double_heads, "n_kv_heads": double_heads_of_kv},
        "value_rows",
        "width 12",
    ),
    "twice the heads of gated attention": ("qwen3_next", {"n_heads": double_heads}, "value_rows", "width 8"),
    # the wrong grouping
    "half the groups": ("llama", {"n_kv_heads": halve_kv}, "value_rows", "zeroing"),
    "a group a head": ("llama", {"n_kv_heads": one_per_head}, "value_rows", "o_proj|v_proj"),
    "a group a head of one": ("llama_mqa", {"n_kv_heads": one_per_head}, "value_rows", "o_proj|v_proj"),
    "a group a head of phi3": ("phi3", {"n_kv_heads": one_per_head}, "value_rows", "o_proj"),
    "a group a head of gemma2": ("gemma2", {"n_kv_heads": one_per_head}, "value_rows", "o_proj|v_proj"),
    "a group a head of gpt_oss": ("gpt_oss", {"n_kv_heads": one_per_head}, "value_rows", "o_proj|v_proj"),
    "a group a head of falcon": ("falcon", {"n_kv_heads": one_per_head}, "value_rows", "head"),
    "grouped values": ("gpt2", {"value_layout": "grouped"}, "value_rows", "c_proj"),
    "values last": ("gpt_neox", {"value_layout": "last"}, "value_rows", "attention.dense"),
    # a slice of the projection's output
    "the projection's output": (
        "llama",
        {"attention_output_side": "output"},
        "value_rows",
        r"o_proj \(output\)",
    ),
    "its output, queries biased": (
        "qwen2",
        {"attention_output_side": "output"},
        "value_rows",
        r"o_proj \(output\)",
    ),
    # the wrong module
    "queries as output": ("llama", {"attention_output": "self_attn.q_proj"}, "value_rows", "q_proj"),
    "the MLP's as output": ("llama", {"attention_output": "mlp.down_proj"}, "value_rows", "down_proj"),
    "keys as values": ("llama", {"values": "self_attn.k_proj"}, "value_rows", "o_proj"),
    "queries as values": ("qwen3", {"values": "self_attn.q_proj"}, "value_rows", "o_proj"),
    "a latent's query as values": ("deepseek_v3", {"values": "self_attn.q_b_proj"}, "value_rows", "o_proj"),
    # the wrong writes
    "a write before its norm": (
        "gemma2",
        {"writes": (ATTN, ("mlp", "post_feedforward_layernorm"))},
        "replayed_additions",
        "off its output",
    ),
    "no norm after the writes": ("olmo2", {"writes": (ATTN, MLP)}, "replayed_additions", "off its output"),
    "no norm after an MLP": (
        "gemma3_text",
        {"writes": (("attn", "post_attention_layernorm"), MLP)},
        "replayed_additions",
        "off its output",
    ),
    "the norm before the MLP": (
        "gemma2",
        {"writes": (("attn", "post_attention_layernorm"), ("mlp", "pre_feedforward_layernorm"))},
        "replayed_additions",
        "off its output",
    ),
    "writes swapped": ("llama", swapped(row_of_type("llama")), "replayed_additions", "off its output"),
    "writes swapped in granite": ("granite", swapped(row_of_type("granite")), "replayed_additions", "off"),
    "writes swapped where order is none": (
        "phi",
        {"writes": (("attn", "mlp"), ("mlp", "self_attn"))},
        "all_heads_zero",
        "mlp is not its bias",
    ),
    "a missing write": ("llama", {"writes": (ATTN,)}, "replayed_additions", "cannot be replayed"),
    "a missing third write": (
        "gemma4_text",
        {"writes": architectures.POST_NORMS},
        "replayed_additions",
        "off its output",
    ),
    "a write twice": (
        "llama",
        {"writes": (ATTN, MLP, ("again", "mlp.down_proj"))},
        "replayed_additions",
        r"leave out model\.layers\.0\.mlp\.down_proj",
    ),
    "the shared expert alone": (
        "qwen3_next",
        {"writes": (ATTN, ("mlp", "mlp.shared_expert"))},
        "replayed_additions",
        "off its output",
    ),
    # the wrong sums
    "another order": (
        "gpt_neox",
        {"additions": additions.sequential},
        "replayed_additions",
        "off its output",
    ),
    "another order of phi": ("phi", {"additions": additions.sequential}, "replayed_additions", "off"),
    "another order of llama": ("llama", {"additions": additions.writes_first}, "replayed_additions", "off"),
    "the MLP first": ("qwen3", {"additions": mlp_first}, "replayed_additions", "off its output"),
    "no norm on the stream": (
        "opt_post_norm",
        {"additions": additions.sequential},
        "replayed_additions",
        "off its output",
    ),
    "no normed residual": (
        "bloom_post_norm",
        {"additions": additions.sequential},
        "replayed_additions",
        "off its output",
    ),
    "no residual scale": (
        "granite",
        {"additions": additions.sequential},
        "replayed_additions",
        "off its output",
    ),
    "a residual scale": ("llama", {"additions": half_of_attention}, "replayed_additions", "off its output"),
    "a scale that is not there": ("olmo", {"additions": additions.granite}, "replayed_additions", "replayed"),
    # what is not read last in the MLP
    "the gate": ("llama", reader("mlp.gate_proj"), "neurons", "not what the MLP gives"),
    "the other half": ("qwen2", reader("mlp.up_proj"), "neurons", "not what the MLP gives"),
    "the other half, normed": ("gemma2", reader("mlp.up_proj"), "neurons", "not what the MLP gives"),
    "the first of two": ("gpt2", reader("mlp.c_fc", -1), "neurons", "not what the MLP gives"),
    "the first of phi": ("phi", reader("mlp.fc1"), "neurons", "not what the MLP gives"),
    "the first of opt": ("opt", reader("fc1"), "neurons", "not what the MLP gives"),
    "the attention's": ("starcoder2", reader("self_attn.o_proj"), "neurons", "not what the MLP gives"),
    # the wrong embedding
    "no positions": ("gpt2", {"embedding": ("wte",)}, "embedding", "is not transformer.wte, scaled or not"),
    "no positions of opt": ("opt", {"embedding": ("project_in|embed_tokens",)}, "embedding", "embed_tokens"),
    "before its norm": ("bloom", {"embedding": ("word_embeddings",)}, "embedding", "word_embeddings"),
    "the last norm": ("llama", {"embedding": ("norm",)}, "embedding", "model.norm"),
    # how a layer returns
    "a tuple": ("llama", {"returns_tuple": True}, "skip", "does not run with its layers skipped"),
    "no tuple": ("falcon", {"returns_tuple": False}, "skip", "with (its|all) layers skipped"),
    # the wrong end: no number could be right
    "another norm": ("llama", {"tail": ("layers.0.input_layernorm",)}, "logits", "LlamaRMSNorm"),
    "no norm": ("qwen3", {"tail": ()}, "logits", r"the tail that its row names \(nothing\)"),
    "another norm of gpt2": ("gpt2", {"tail": ("h.2.ln_2",)}, "logits", "LayerNorm"),
    "no projection": ("opt_post_norm", {"tail": ("final_layer_norm",)}, "logits", "nothing"),
    "no logit scale": ("granite", {"logits": None}, "logits", "logits columns"),
    "the logit scale upside down": (
        "cohere2",
        {"logits": ("divide", "logit_scale")},
        "logits",
        "logits columns",
    ),
    "a logit scale": ("llama", {"logits": ("multiply", "initializer_range")}, "logits", "logits columns"),
    "no soft cap": ("gemma2", {"logits": None}, "logits", "logits columns"),
    "a scale for a soft cap": (
        "gemma4_text",
        {"logits": ("divide", "final_logit_softcapping")},
        "logits",
        "logits columns",
    ),
    "another head": ("llama", {"head": "model.layers.0.mlp.gate_proj"}, "logits", "logits columns"),
    "a head of no logits": ("llama", {"head": "model.embed_tokens"}, "logits", "do not take"),
}


def sabotaged(model: Any, fields: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> SiteMap:
    config = model.config.get_text_config()
    row = next(
        found for found in ARCHITECTURES if config.model_type in found.model_types and found.when(config)
    )
    monkeypatch.setattr(architectures, "ARCHITECTURES", (dataclasses.replace(row, **fields),))
    return locate(model)


@pytest.mark.parametrize("name", SABOTAGED)
def test_a_sabotaged_row_is_caught_by_name(name: str, tiny: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    row, fields, caught_by, said = SABOTAGED[name]
    model = tiny(row)
    sites = sabotaged(model, fields, monkeypatch)
    tests = self_test.run(model, sites)
    results = {result["name"]: result for result in tests}
    assert not results[caught_by]["passed"]
    assert re.search(said, results[caught_by]["detail"]), results[caught_by]["detail"]
    refused = [label for result in results.values() for label in result["refused"]]
    if caught_by == "logits":
        assert set(refused) == {f"L{layer.index}.{site}" for layer in sites.layers for site in layer.sites}
        with pytest.raises(SparkablateError, match="cannot be ablated") as caught:
            self_test.require(model, tests)
        assert caught.value.code == "architecture_unsupported"
        return
    self_test.require(model, tests)
    lost = {site for site in TAKES[caught_by] if f"L1.{site}" in results[caught_by]["refused"]}
    assert lost == TAKES[caught_by]

    manager = AblationManager(model, sites.refusing(refused))
    kind = sorted(lost - {"direction"} or lost)[0]
    spec = {
        "head": AblationSpec("head", 1, heads=(0,)),
        "neuron": AblationSpec("neuron", 1, neurons=(0,)),
        "attn": AblationSpec("attn", 1),
        "layer": AblationSpec("layer", 1),
    }.get(kind)
    if spec is not None:
        with pytest.raises(SparkablateError) as caught, manager.applied(spec):
            pass
        assert caught.value.code == "site_unsupported"


@pytest.mark.parametrize("name", ["no norm", "a logit scale"])
def test_a_model_of_which_no_number_is_right_is_neither_measured_nor_baked(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, fields, _, _ = SABOTAGED[name]
    directory = model_directory.save(tmp_path / "model")
    row = dataclasses.replace(row_of_type("llama"), **fields)
    monkeypatch.setattr(architectures, "ARCHITECTURES", (row,))
    for load in (
        lambda: LocalEngine().answer(Load(model_directory.model_config(directory), 16, 2)),
        lambda: bake(str(directory), AblationSpec("mlp", 0), tmp_path / "out", device="cpu", threads=1),
    ):
        with pytest.raises(SparkablateError, match=r"row's .*head|its row names") as caught:
            load()
        assert caught.value.code == "architecture_unsupported"
    assert not (tmp_path / "out").exists()
