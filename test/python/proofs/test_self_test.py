"""The self-test passes on every row, and names what is wrong with a row that was sabotaged."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

import pytest
import torch

import tiny_models
from sparkablate import AblationManager, AblationSpec
from sparkablate.anatomy import additions, architectures
from sparkablate.anatomy.architectures import ARCHITECTURES, locate
from sparkablate.anatomy.projections import DENSE, linear, stacked
from sparkablate.errors import SparkablateError
from sparkablate.proofs import self_test

NAMES = ["value_rows", "replayed_additions", "all_heads_zero", "neurons"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("row", list(tiny_models.TINY))
def test_true_rows_pass_and_the_model_is_left_alone(row: str, dtype: torch.dtype, tiny: Any) -> None:
    model, ids = tiny(row, dtype), tiny_models.tokens()
    with torch.inference_mode():
        before = model(input_ids=ids, use_cache=False).logits
        results = self_test.run(model, locate(model))
        assert torch.equal(model(input_ids=ids, use_cache=False).logits, before)
    assert [result["name"] for result in results] == NAMES
    assert [(result["passed"], result["refused"]) for result in results] == [(True, [])] * 4
    assert all(set(result) == {"name", "passed", "detail", "refused"} for result in results)


@pytest.mark.parametrize("row", ["gpt2", "llama", "bloom", "falcon_multi_query"])
def test_weights_as_transformers_initialises_them_pass(row: str, tiny: Any) -> None:
    """Attention is near uniform there, which must not look like heads that cannot be told apart."""
    config = tiny(row).config
    torch.manual_seed(0)
    model = type(tiny(row))(config).to(torch.bfloat16).eval()
    assert all(result["passed"] for result in self_test.run(model, locate(model)))


def test_layers_without_heads_are_named(tiny: Any) -> None:
    value_rows = self_test.run(tiny("qwen3_next"), locate(tiny("qwen3_next")))[0]
    assert "layer 0 has no attention heads (linear_attn)" in value_rows["detail"]


def halve_kv(config: Any, attention: Any) -> int:
    return config.num_key_value_heads // 2


def double_kv(config: Any, attention: Any) -> int:
    return config.num_attention_heads


def double_heads(config: Any) -> int:
    return 2 * config.num_attention_heads


def halve_heads(config: Any) -> int:
    return config.num_attention_heads // 2


@pytest.mark.parametrize(
    ("row", "fields", "caught_by", "said"),
    [
        # the wrong d_head: with grouped queries, and where only attention patterns tell heads apart
        ("llama", {"n_heads": double_heads}, "value_rows", "width 8"),
        ("llama", {"n_heads": halve_heads}, "value_rows", "2 heads of 32"),
        (
            "llama",
            {"n_heads": double_heads, "n_kv_heads": lambda config, _: 2 * config.num_key_value_heads},
            "value_rows",
            "width 8",
        ),
        (
            "gpt2",
            {"n_heads": double_heads, "n_kv_heads": lambda config, _: 2 * config.num_attention_heads},
            "value_rows",
            "never changes at column 4",
        ),
        (
            "gpt2",
            {"n_heads": halve_heads, "n_kv_heads": lambda config, _: config.num_attention_heads // 2},
            "value_rows",
            "changes at column 8",
        ),
        # the wrong grouping
        ("llama", {"n_kv_heads": halve_kv}, "value_rows", "zeroing"),
        ("llama", {"n_kv_heads": double_kv}, "value_rows", "o_proj|v_proj"),
        ("falcon", {"n_kv_heads": double_kv}, "value_rows", "head"),
        ("gpt2", {"value_layout": "grouped"}, "value_rows", "c_proj"),
        # a slice of the projection's output
        ("llama", {"attention_output_side": "output"}, "value_rows", r"o_proj \(output\)"),
        ("qwen2", {"attention_output_side": "output"}, "value_rows", r"o_proj \(output\)"),
        # the wrong module
        ("llama", {"attention_output": "self_attn.q_proj"}, "value_rows", "q_proj"),
        ("llama", {"attention_output": "mlp.down_proj"}, "value_rows", "down_proj"),
        ("llama", {"values": "self_attn.k_proj"}, "value_rows", "o_proj"),
        (
            "gemma2",
            {"writes": (("attn", "self_attn"), ("mlp", "post_feedforward_layernorm"))},
            "replayed_additions",
            "off its output",
        ),
        ("gpt_neox", {"additions": additions.sequential}, "replayed_additions", "off its output"),
        # what is not read last in the MLP
        ("llama", {"outputs": (("mlp", (linear("mlp.gate_proj"),)),)}, "neurons", "not what the MLP gives"),
        ("gpt2", {"outputs": (("mlp", (linear("mlp.c_fc", -1),)),)}, "neurons", "not what the MLP gives"),
        # a missing write
        ("llama", {"writes": (("attn", "self_attn"),)}, "replayed_additions", "cannot be replayed"),
        ("gemma4_text", {"writes": architectures.POST_NORMS}, "replayed_additions", "off its output"),
        ("granite", {"additions": additions.sequential}, "replayed_additions", "off its output"),
    ],
)
def test_a_sabotaged_row_is_caught_by_name(
    row: str, fields: dict[str, Any], caught_by: str, said: str, tiny: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny(row)
    config = model.config.get_text_config()
    true_row = next(
        found for found in ARCHITECTURES if config.model_type in found.model_types and found.when(config)
    )
    monkeypatch.setattr(architectures, "ARCHITECTURES", (dataclasses.replace(true_row, **fields),))
    sites = locate(model)
    results = {result["name"]: result for result in self_test.run(model, sites)}
    assert not results[caught_by]["passed"]
    assert re.search(said, results[caught_by]["detail"]), results[caught_by]["detail"]
    concerned = {"value_rows": ("head", "kv_group"), "neurons": ("neuron",)}.get(
        caught_by, ("attn", "direction")
    )
    for layer in sites.layers:
        for site in concerned:
            assert f"L{layer.index}.{site}" in results[caught_by]["refused"]

    refused = [label for result in results.values() for label in result["refused"]]
    manager = AblationManager(model, sites.refusing(refused))
    spec = {
        "value_rows": AblationSpec("head", 0, heads=(0,)),
        "neurons": AblationSpec("neuron", 0, neurons=(0,)),
    }.get(caught_by, AblationSpec("attn", 0))
    with pytest.raises(SparkablateError) as caught, manager.applied(spec):
        pass
    assert caught.value.code == "site_unsupported"
    with manager.applied(AblationSpec("layer", 0)), torch.inference_mode():  # what is sound stays on offer
        model(input_ids=tiny_models.tokens(), use_cache=False)


def test_a_mixture_must_be_linear_in_its_shared_experts_neurons(
    tiny: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny("qwen2_moe")
    (row,) = (row for row in ARCHITECTURES if "qwen2_moe" in row.model_types)
    wrong = (*DENSE, stacked("mlp.experts.down_proj"), linear("mlp.shared_expert.gate_proj"))
    monkeypatch.setattr(
        architectures, "ARCHITECTURES", (dataclasses.replace(row, outputs=(("mlp", wrong),)),)
    )
    neurons = self_test.run(model, locate(model))[-1]
    assert neurons["refused"] == ["L0.neuron", "L2.neuron"]  # layer 1 is dense
    assert "is not linear in them" in neurons["detail"]


def test_a_projection_that_is_never_called_refuses_neurons_alone(
    tiny: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a fused kernel does it: the MLP takes the weight and leaves the module out."""
    model = tiny("llama")
    mlp = model.model.layers[1].mlp

    def fused(x: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.linear(mlp.act_fn(mlp.gate_proj(x)) * mlp.up_proj(x), mlp.down_proj.weight)

    monkeypatch.setattr(mlp, "forward", fused)
    results = self_test.run(model, locate(model))
    assert [result["refused"] for result in results] == [[], [], [], ["L1.neuron"]]
    assert "the pass never reached model.layers.1.mlp.down_proj output" in results[-1]["detail"]


def test_one_wrong_layer_refuses_that_layer_alone(tiny: Any) -> None:
    model = tiny("gpt2")
    sites = locate(model)
    wrong = dataclasses.replace(sites.layers[1], n_heads=8, n_kv_heads=8, d_head=4)
    layers = (sites.layers[0], wrong, sites.layers[2])
    results = self_test.run(model, dataclasses.replace(sites, layers=layers))
    assert results[0]["refused"] == ["L1.head", "L1.kv_group"]
    assert results[0]["detail"].startswith("layer 1: ")


def test_heads_that_are_not_silenced_are_caught(tiny: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """An edit that does nothing: the third test is about the intervention, not about the row."""
    from sparkablate.edits import functions as interventions

    nothing = interventions.Mode(lambda values, mean: values.clone())
    monkeypatch.setitem(interventions.MODES, "zero", nothing)  # type: ignore[arg-type]
    model = tiny("llama_bias")
    value_rows, replayed, all_heads, _ = self_test.run(model, locate(model))
    assert value_rows["passed"]
    assert replayed["passed"]
    assert not all_heads["passed"]
    assert "is not its bias" in all_heads["detail"]
