"""The self-test passes on every row, and names what is wrong with a row that was sabotaged."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest
import torch

import tiny_models
from sparkablate.anatomy import architectures
from sparkablate.anatomy.architectures import ARCHITECTURES, locate
from sparkablate.anatomy.projections import DENSE, linear, stacked
from sparkablate.catalog import MODED_SITES
from sparkablate.proofs import self_test
from sparkablate.proofs.passes import unlike

NAMES = [
    "depth",
    "logits",
    "once",
    "value_rows",
    "embedding",
    "replayed_additions",
    "entry",
    "skip",
    "all_heads_zero",
    "neurons",
    "effect",
]


def results_of(model: Any, sites: Any = None) -> dict[str, dict[str, Any]]:
    """Results by name."""
    return {result["name"]: result for result in self_test.run(model, sites or locate(model))}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("row", list(tiny_models.TINY))
def test_true_rows_pass_and_the_model_is_left_alone(row: str, dtype: torch.dtype, tiny: Any) -> None:
    model, ids = tiny(row, dtype), tiny_models.tokens()
    with torch.inference_mode():
        before = model(input_ids=ids, use_cache=False).logits
        results = self_test.run(model, locate(model))
        assert torch.equal(model(input_ids=ids, use_cache=False).logits, before)
    assert [result["name"] for result in results] == NAMES
    assert [(result["passed"], result["refused"]) for result in results] == [(True, [])] * len(NAMES)
    assert all(set(result) == {"name", "passed", "detail", "refused"} for result in results)


def test_the_documented_tests_are_those_that_run() -> None:
    text = (Path(__file__).parents[3] / "docs" / "extending.md").read_text(encoding="utf-8")
    table = text[text.index("| test | what holds |") :]
    table = table[: table.index("\n\n")]
    assert re.findall(r"^\| `(\w+)` \|", table, flags=re.MULTILINE) == NAMES


@pytest.mark.parametrize("row", ["gpt2", "llama", "bloom", "falcon_multi_query"])
def test_weights_as_transformers_initialises_them_pass(row: str, tiny: Any) -> None:
    """Attention is near uniform there, which must not look like heads that cannot be told apart."""
    config = tiny(row).config
    torch.manual_seed(0)
    model = type(tiny(row))(config).to(torch.bfloat16).eval()
    assert all(result["passed"] for result in self_test.run(model, locate(model)))


def test_no_token_stands_for_an_image(tiny: Any) -> None:
    """A wrapper would look for its pixels there."""
    model = tiny("llava")
    sites = locate(model)
    special = model.config.image_token_id
    model.config.image_token_id = 5
    try:
        ids = torch.cat(unlike(model, sites, 2000))
    finally:
        model.config.image_token_id = special
    assert sorted(set(ids.flatten().tolist())) == [one for one in range(sites.vocab_size) if one != 5]
    assert not (ids[0] == ids[1]).any()


def test_layers_without_heads_are_named(tiny: Any) -> None:
    value_rows = results_of(tiny("qwen3_next"))["value_rows"]
    assert "layer 0 has no attention heads (linear_attn)" in value_rows["detail"]


def test_a_mixture_must_be_linear_in_its_shared_experts_neurons(
    tiny: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny("qwen2_moe")
    (row,) = (row for row in ARCHITECTURES if "qwen2_moe" in row.model_types)
    wrong = (*DENSE, stacked("mlp.experts.down_proj"), linear("mlp.shared_expert.gate_proj"))
    monkeypatch.setattr(
        architectures, "ARCHITECTURES", (dataclasses.replace(row, outputs=(("mlp", wrong),)),)
    )
    neurons = results_of(model)["neurons"]
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
    results = results_of(model)
    assert {name for name in NAMES if not results[name]["passed"]} == {"once", "neurons"}
    assert all(result["refused"] in ([], ["L1.neuron"]) for result in results.values())
    assert "the pass never reached model.layers.1.mlp.down_proj output" in results["neurons"]["detail"]
    assert "model.layers.1.mlp.down_proj never acts in a pass" in results["once"]["detail"]


def test_one_wrong_layer_refuses_that_layer_alone(tiny: Any) -> None:
    model = tiny("gpt2")
    sites = locate(model)
    wrong = dataclasses.replace(sites.layers[1], n_heads=8, n_kv_heads=8, d_head=4)
    layers = (sites.layers[0], wrong, sites.layers[2])
    value_rows = results_of(model, dataclasses.replace(sites, layers=layers))["value_rows"]
    assert value_rows["refused"] == ["L1.head", "L1.kv_group"]
    assert value_rows["detail"].startswith("layer 1: ")


def test_heads_that_are_not_silenced_are_caught(tiny: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """An edit that does nothing: these are about the intervention, not about the row."""
    from sparkablate.edits import functions as interventions

    nothing = interventions.Mode(lambda values, mean: values.clone())
    monkeypatch.setitem(interventions.MODES, "zero", nothing)  # type: ignore[arg-type]
    model = tiny("llama_bias")
    results = results_of(model)
    assert results["value_rows"]["passed"]
    assert results["replayed_additions"]["passed"]
    assert "is not its bias" in results["all_heads_zero"]["detail"]
    assert "changes nothing that model.layers.1 gives" in results["effect"]["detail"]
    assert all(
        f"L{layer}.{kind}" in results["effect"]["refused"] for layer in range(3) for kind in MODED_SITES
    )
