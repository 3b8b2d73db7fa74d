"""Every row of architectures.py finds its sites, and says truly how writes and logits are made."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import tiny_wrappers
import torch
from jsonschema import Draft202012Validator
from replayed import assert_writes_add_up
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM

import tiny_models
from sparkablate.anatomy import architectures
from sparkablate.anatomy.architectures import ARCHITECTURES, locate, row_of
from sparkablate.anatomy.sites import Tap
from sparkablate.catalog import SITE_ORDER
from sparkablate.edits.hooks import recording
from sparkablate.errors import CODES, SparkablateError

ROOT = Path(__file__).resolve().parents[3]
ROWS = list(tiny_models.TINY)
#: Those of the rows above that a text configuration of its own describes.
TABLES = {**tiny_models.TINY, **tiny_models.TWINS}


def test_every_row_has_a_tiny_model() -> None:
    configs = [
        AutoConfig.for_model(tiny.text_type or tiny.model_type, **tiny.config) for tiny in TABLES.values()
    ]
    configs += [tiny_wrappers.configuration(name).get_text_config() for name in tiny_wrappers.WORKING]
    described = {(config.model_type, id(row_of(config))) for config in configs}
    for row in ARCHITECTURES:
        for model_type in row.model_types:
            assert (model_type, id(row)) in described, model_type
    assert len({model_type for row in ARCHITECTURES for model_type in row.model_types}) >= 100


def test_a_configuration_is_described_by_one_row() -> None:
    for tiny in TABLES.values():
        config = AutoConfig.for_model(tiny.text_type or tiny.model_type, **tiny.config)
        fitting = [row for row in ARCHITECTURES if config.model_type in row.model_types and row.when(config)]
        assert len(fitting) == 1, tiny.model_type


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("row", ROWS)
def test_writes_add_up_and_logits_follow_bit_for_bit(row: str, dtype: torch.dtype, tiny: Any) -> None:
    model = tiny(row, dtype)
    sites = locate(model)
    assert_writes_add_up(model, sites)


@pytest.mark.parametrize("row", ROWS)
def test_embedding_taps_sum_to_the_first_stream(row: str, tiny: Any) -> None:
    model = tiny(row)
    sites = locate(model)
    embedded: list[torch.Tensor] = []
    streams: list[torch.Tensor] = []
    with (
        torch.inference_mode(),
        recording(sites.embedding, lambda tap, x: embedded.append(x.clone())),
        recording([Tap("", sites.layers[0].module, "input")], lambda tap, x: streams.append(x.clone())),
    ):
        model(input_ids=tiny_models.tokens(), use_cache=False)
    total = torch.stack([x.expand_as(streams[0]) for x in embedded]).sum(dim=0)
    # Gemma and Granite scale the embedding on its way into the stream
    scale = (streams[0] * total).sum() / (total * total).sum()
    torch.testing.assert_close(streams[0], scale * total)


@pytest.mark.parametrize("row", ROWS)
def test_head_geometry_is_the_attention_modules_own(row: str, tiny: Any) -> None:
    for layer in locate(tiny(row)).layers:
        if layer.attention is None or layer.heads is None:
            assert not {"head", "kv_group"} & set(layer.sites)
            assert (layer.n_heads, layer.n_kv_heads, layer.d_head) == (0, 0, 0)
            assert all("no attention heads" in layer.missing[site] for site in ("head", "kv_group"))
            continue
        # what the attention module itself works with, under the names that transformers uses
        names = ("v_head_dim", "head_dim", "head_size")
        own = next(getattr(layer.attention, name) for name in names if hasattr(layer.attention, name))
        assert layer.d_head == own
        covered = [head for group in range(layer.n_kv_heads) for head in layer.group_heads(group)]
        assert covered == list(range(layer.n_heads))


def test_hybrid_layers_offer_what_they_have(tiny: Any) -> None:
    linear, full, _ = locate(tiny("qwen3_next")).layers
    assert linear.sites == ("attn", "neuron", "mlp", "layer", "direction")
    assert full.sites == SITE_ORDER
    assert all(layer.sites == ("layer", "direction") for layer in locate(tiny("mamba2")).layers)


def test_text_towers_of_wrappers(tiny: Any) -> None:
    sites = locate(tiny("gemma3"))
    assert sites.model_type == "gemma3_text"
    assert sites.layers[0].path == "model.language_model.layers.0"


def test_map_from_the_configuration_alone(tiny: Any) -> None:
    config = tiny("qwen3").config
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    assert locate(model).to_wire() == locate(tiny("qwen3")).to_wire()


@pytest.mark.parametrize("row", ROWS)
def test_map_has_the_shape_of_the_wire(row: str, tiny: Any) -> None:
    schema = json.loads((ROOT / "worker/sparkablate/server/schema.json").read_text())
    found = _model_map_schemas(schema)
    assert found
    for fragment in found:
        Draft202012Validator({**fragment, "$defs": schema.get("$defs", {})}).validate(
            locate(tiny(row)).to_wire()
        )


def _model_map_schemas(node: Any) -> list[dict[str, Any]]:
    """Every object schema with the keys of a model map, wherever it stands."""
    found: list[dict[str, Any]] = []
    if isinstance(node, dict):
        if {"n_layers", "d_model", "layers"} <= set(node.get("properties", {})):
            found.append(node)
        for value in node.values():
            found += _model_map_schemas(value)
    elif isinstance(node, list):
        for value in node:
            found += _model_map_schemas(value)
    return found


def test_error_codes_are_those_of_the_wire() -> None:
    source = (ROOT / "src/errors.ts").read_text()
    table = source[source.index("ERROR_KINDS = {") : source.index("} as const")]
    assert set(re.findall(r"^  (\w+):", table, flags=re.MULTILINE)) == CODES
    with pytest.raises(ValueError, match="not a code"):
        SparkablateError("no_such_code", "")


class TestRefusals:
    def test_unknown_model_type(self) -> None:
        config = AutoConfig.for_model("persimmon", **tiny_models.NARROW | {"num_hidden_layers": 2})
        with pytest.raises(SparkablateError) as caught:
            locate(AutoModelForCausalLM.from_config(config))
        assert caught.value.code == "architecture_unsupported"
        for expected in ("persimmon", "dense: Linear", "Hint", "architectures.py", "… 1 more"):
            assert expected in caught.value.message

    def test_known_type_in_a_configuration_that_does_not_call_its_modules(self) -> None:
        config = AutoConfig.for_model("bloom", **tiny_models.BLOOM, pretraining_tp=2, slow_but_exact=True)
        with pytest.raises(SparkablateError, match="in this configuration"):
            locate(AutoModelForCausalLM.from_config(config))

    def test_model_without_a_head(self, tiny: Any) -> None:
        with pytest.raises(SparkablateError, match="names 'model'") as caught:
            locate(tiny("llama").model)
        assert caught.value.code == "architecture_unsupported"

    def test_module_that_is_no_language_model(self) -> None:
        with pytest.raises(SparkablateError, match="no transformers configuration"):
            locate(nn.Linear(2, 2))

    def test_row_that_names_a_missing_module(self, monkeypatch: pytest.MonkeyPatch, tiny: Any) -> None:
        row = architectures.Architecture(("llama",), attention_output="self_attn.out_proj")
        monkeypatch.setattr(architectures, "ARCHITECTURES", (row,))
        with pytest.raises(SparkablateError, match=r"names 'self_attn\.out_proj'"):
            locate(tiny("llama"))
