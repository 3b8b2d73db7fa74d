"""Key/value groups and neurons that are removed: against the same columns zeroed in a stock copy."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import model_directory
import pytest
import stock_biases
import torch
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText

import tiny_models
from sparkablate import AblationManager, AblationSpec, SparkablateError
from sparkablate.anatomy import stock
from sparkablate.anatomy.sites import SiteMap
from sparkablate.bake import bake, cuts, live
from sparkablate.bake.baking import Baking, Source
from sparkablate.bake.cuts import Wish
from sparkablate.bake.foresight import Wanted, foresee
from sparkablate.bake.place import placed
from sparkablate.progress import silent

GROUPS, NEURONS = Wish(kv_groups=True), Wish(neurons=True)


@pytest.fixture(autouse=True)
def _short_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "BLOCKS", 1)
    monkeypatch.setattr(live, "LENGTH", 16)


def models(model_type: str) -> list[str]:
    """The tiny models of a type that has groups to lose."""
    return [
        name
        for name, tiny in stock_biases.plain_models().items()
        if tiny.model_type == model_type and name != "llama_mqa"
    ]


def groups(sites: SiteMap) -> list[AblationSpec]:
    """Another one in each layer."""
    return [
        AblationSpec("kv_group", layer.index, groups=(layer.index % layer.n_kv_heads,))
        for layer in sites.layers
    ]


def neurons(sites: SiteMap) -> list[AblationSpec]:
    return [
        AblationSpec("neuron", layer.index, neurons=(layer.index, 5, layer.n_neurons - 1 - layer.index))
        for layer in sites.layers
    ]


def zeroed_copy(model: Any, specs: list[AblationSpec], sites: SiteMap) -> None:
    """The columns of the projections' weights, in place: what anybody would do by hand."""
    for spec in specs:
        layer = sites.layers[spec.layer]
        if spec.kind == "kv_group":
            projection: Any = layer.attention_output
            width = layer.d_head * layer.n_heads // layer.n_kv_heads
            columns = [group * width + offset for group in spec.groups for offset in range(width)]
        else:
            (projection,) = (
                module
                for name, module in layer.module.named_modules()
                if tiny_models.NEURON_READER.match(name)
            )
            columns = list(spec.neurons)
        with torch.no_grad():
            axis = 0 if hasattr(projection, "nx") else 1  # GPT-2's Conv1D is the other way round
            projection.weight.index_fill_(axis, torch.tensor(columns), 0.0)


@contextmanager
def written(name: str, kind: str, root: Path) -> Iterator[tuple[Any, Any, Baking]]:
    """The source with columns zeroed, the smaller directory as stock transformers loads it, the bake."""
    model = tiny_models.make(stock_biases.plain_models()[name])
    model.save_pretrained(root / name)
    manager = AblationManager(model)
    specs = (groups if kind == "groups" else neurons)(manager.sites)
    wish = GROUPS if kind == "groups" else NEURONS
    source = Source(name, None, root / name, None, manager)
    baking = Baking(source, specs, root / "out", "float32", False, force=False, wish=wish)
    with placed(baking.target) as place:
        baking.write(place, silent, lambda: None)
        cut, info = AutoModelForCausalLM.from_pretrained(
            place.model, dtype=torch.float32, output_loading_info=True
        )
        assert not info["missing_keys"]
        assert not info["mismatched_keys"]
        assert not info["unexpected_keys"]
        zeroed_copy(model, specs, manager.sites)
        yield model, cut.eval(), baking


def compare(model: Any, cut: Any) -> float:
    ids = tiny_models.tokens(2, 20)
    with torch.inference_mode():
        expected, got = model(ids).logits, cut(ids).logits
        if not model.config.model_type.startswith("falcon_h1"):
            options = {"max_new_tokens": 4, "do_sample": False, "pad_token_id": 0}
            assert torch.equal(model.generate(ids[:, :6], **options), cut.generate(ids[:, :6], **options))
    return float((got - expected).abs().max() / expected.abs().max())


# ── Every type ───────────────────────────────────────────────────────────────────────────────
@pytest.mark.parametrize("model_type", stock.GROUPS)
def test_groups_of_every_type(model_type: str, tmp_path: Path) -> None:
    name = models(model_type)[0]
    with written(name, "groups", tmp_path) as (model, cut, baking):
        assert compare(model, cut) < 1e-5
        config, text = json.loads((baking.target.parent / name / "config.json").read_text()), baking.config
        size = config["num_attention_heads"] // config["num_key_value_heads"]
        left = config["num_key_value_heads"] - 1
        assert (text["num_key_value_heads"], text["num_attention_heads"]) == (left, left * size)
        assert text["head_dim"] == baking._held.manager.sites.layers[0].d_head
        count = sum(parameter.numel() for parameter in cut.parameters())
        assert baking.parameters == {
            "before": sum(parameter.numel() for parameter in model.parameters()),
            "after": count,
        }
        assert count < baking.parameters["before"]
    declared = {one.name for one in dataclasses.fields(type(AutoConfig.for_model(model_type)))}
    assert (stock.GROUPS[model_type] == stock.EXACT) == ("head_dim" in declared)


@pytest.mark.parametrize("model_type", stock.NEURON_KEYS)
def test_neurons_of_every_type(model_type: str, tmp_path: Path) -> None:
    for name in [name for name in models(model_type) if not name.endswith("_moe")][:2]:
        with written(name, "neurons", tmp_path / name) as (model, cut, baking):
            assert compare(model, cut) < 1e-5
            assert baking.parameters["after"] == sum(parameter.numel() for parameter in cut.parameters())
            assert baking.parameters["after"] < baking.parameters["before"]
            width = baking._held.manager.sites.layers[0].n_neurons
            assert baking.config[stock.NEURON_KEYS[model_type]] == width - 3


@pytest.mark.parametrize("model_type", ["olmo2", "olmo3", "flex_olmo", "minimax_m2"])
def test_norms_over_all_heads_would_be_wrong_without_a_message(
    model_type: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cuts, "group_removal", lambda _: (stock.EXACT, ""))
    with written(models(model_type)[0], "groups", tmp_path) as (model, cut, _):
        ids = tiny_models.tokens(2, 20)
        with torch.inference_mode():
            expected, got = model(ids).logits, cut(ids).logits
        assert float((got - expected).abs().max() / expected.abs().max()) > 1e-3


def test_every_refusal_is_of_a_type_without_a_proof() -> None:
    assert not stock.GROUPS.keys() & stock.NO_GROUPS.keys()
    assert not stock.NEURON_KEYS.keys() & stock.NO_NEURONS.keys()


@pytest.mark.parametrize("model_type", [*stock.NO_GROUPS])
def test_groups_that_no_checkpoint_can_lack(model_type: str) -> None:
    for name in models(model_type):
        sites = AblationManager(tiny_models.make(stock_biases.plain_models()[name])).sites
        if not all("kv_group" in layer.sites for layer in sites.layers):
            continue
        with pytest.raises(SparkablateError) as caught:
            cuts.removals(groups(sites), GROUPS, sites, ())
        assert caught.value.code == "bake_refused"
        assert stock.NO_GROUPS[model_type] in caught.value.message
        assert "Leave prune_kv_groups out" in caught.value.message


# ── Llama ────────────────────────────────────────────────────────────────────────────────────
@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return model_directory.save(tmp_path_factory.mktemp("llama"))


def test_a_smaller_checkpoint_is_certified(llama: Path, tmp_path: Path) -> None:
    """Heads, neurons and a layer at once, heads zeroed besides, and means whose bias is switched on."""
    model = AutoModelForCausalLM.from_pretrained(llama).eval()
    manager = AblationManager(model)
    means = manager.calibrate_means([tiny_models.tokens(4, 16)])
    specs = [
        AblationSpec("layer", 1),
        AblationSpec("head", 0, heads=(0, 1, 3)),  # the first group, and one head of the second
        AblationSpec("kv_group", 2, groups=(1,)),
        AblationSpec("neuron", 0, neurons=(3, 60)),
        AblationSpec("neuron", 2, neurons=(0, 1)),
        AblationSpec("neuron", 0, neurons=(9,), mode="mean"),
        AblationSpec("neuron", 2, neurons=(7,), mode="mean"),
    ]
    options = {"prune_layers": True, "prune_kv_groups": True, "prune_neurons": True, "means": means}
    wanted = Wanted(specs, tmp_path / "out", "auto", True, False, Wish(True, True))
    foreseen = foresee(str(llama), None, False, wanted)
    report = bake(str(llama), specs, tmp_path / "out", threads=1, timed=True, **options)
    assert report["certificate"]["passed"]
    # sums with fewer terms round otherwise: two equal live runs say by how much
    assert 0 < report["certificate"]["behaviour"]["floor"] < 1e-5
    assert report["removed"] == {
        "key/value groups": {"0": [0], "2": [1]},
        "neurons": {"0": [3, 9, 60], "2": [0, 1, 7]},
    }
    baked = AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()
    config = baked.config
    assert (config.num_hidden_layers, config.num_key_value_heads, config.num_attention_heads) == (2, 1, 2)
    assert (config.head_dim, config.intermediate_size) == (tiny_models.D_HEAD, 61)
    count = sum(parameter.numel() for parameter in baked.parameters())
    assert report["parameters"]["after"] == count == foreseen.after.parameters
    assert report["parameters"]["before"] == foreseen.before.parameters
    weights = load_file(tmp_path / "out" / "model.safetensors").values()
    assert foreseen.after.bytes == sum(tensor.nbytes for tensor in weights)
    timing = report["timing"]
    assert min(timing["before"], timing["after"]) > 0
    assert (timing["batch_size"], timing["seq_len"], timing["device"]) == (1, 16, "cpu")
    assert (timing["rounds"], timing["dtype"], timing["threads"]) == (5, "float32", 1)
    card = (tmp_path / "out" / "README.md").read_text()
    assert f"{report['parameters']['before']:,} before, {count:,} after" in card
    assert "1 of 2 key/value groups of every layer" in card
    assert "3 of 64 neurons of every layer" in card
    assert report["gguf_command"] is None  # nobody ran it on such a checkpoint
    assert not baked.model.layers[0].self_attn.o_proj.weight[:, tiny_models.D_HEAD :].any()


@pytest.mark.parametrize(
    ("name", "kind"),
    [("llama", "kv_group"), ("granite", "kv_group"), ("smollm3", "neuron"), ("gpt2", "neuron")],
)
def test_what_stays_as_its_mean_is_removed_and_its_constant_is_a_bias(
    name: str, kind: str, tmp_path: Path
) -> None:
    model = tiny_models.build(name)
    model.save_pretrained(tmp_path / name)
    manager = AblationManager(model)
    manager.calibrate_means([tiny_models.tokens(4, 16)])
    zeros = (groups if kind == "kv_group" else neurons)(manager.sites)
    specs = [dataclasses.replace(spec, mode="mean") for spec in zeros]
    wish = GROUPS if kind == "kv_group" else NEURONS
    source = Source(name, None, tmp_path / name, None, manager)
    baking = Baking(source, specs, tmp_path / "out", "float32", False, force=False, wish=wish)
    with placed(baking.target) as place:
        baking.write(place, silent, lambda: None)
        cut = AutoModelForCausalLM.from_pretrained(place.model, dtype=torch.float32).eval()
    ids = tiny_models.tokens(2, 20)
    with torch.inference_mode(), manager.applied(specs):
        expected = model(ids).logits
    with torch.inference_mode():
        got, unedited = cut(ids).logits, model(ids).logits
    assert float((got - expected).abs().max() / expected.abs().max()) < 1e-5
    assert baking.parameters["after"] == sum(parameter.numel() for parameter in cut.parameters())
    assert float((expected - unedited).abs().max() / expected.abs().max()) > 1e-3


def test_the_sources_dtype_is_kept(llama: Path, tmp_path: Path) -> None:
    specs = neurons(AblationManager(AutoModelForCausalLM.from_pretrained(llama)).sites)
    wanted = Wanted(specs, tmp_path / "o", "auto", False, False, NEURONS)
    assert foresee(str(llama), None, False, wanted).form.written == "source"


@pytest.mark.parametrize(
    ("specs", "wish", "said"),
    [
        ([AblationSpec("kv_group", 0, groups=(0,))], GROUPS, "layer 1 loses 0 and layer 0 loses 1"),
        ([AblationSpec("head", 0, heads=(0, 2))], GROUPS, "no key/value group is zeroed as a whole"),
        ([AblationSpec("kv_group", at, groups=(0, 1)) for at in range(3)], GROUPS, "would be left"),
        ([AblationSpec("mlp", 1)], NEURONS, "no neuron is zeroed"),
        (
            [AblationSpec("neuron", at, neurons=tuple(range(1 + at))) for at in range(3)],
            NEURONS,
            "layer 0 loses 1 and layer 2 loses 3.*zero as many in every layer",
        ),
    ],
)
def test_what_no_configuration_can_say(
    specs: Any, wish: Wish, said: str, llama: Path, tmp_path: Path
) -> None:
    with pytest.raises(SparkablateError, match=said) as caught:
        foresee(str(llama), None, False, Wanted(specs, tmp_path / "out", "auto", False, False, wish))
    assert caught.value.code == "bake_refused"


def test_a_size_that_the_stock_class_refuses(tmp_path: Path) -> None:
    """32 is no multiple of 3 heads, and llama's configuration asks for one."""
    tiny = tiny_models.Tiny("llama", {**tiny_models.COMMON, "num_key_value_heads": 4})
    tiny_models.make(tiny).save_pretrained(tmp_path / "model")
    specs = [AblationSpec("kv_group", layer, groups=(layer,)) for layer in range(3)]
    wanted = Wanted(specs, tmp_path / "out", "auto", False, False, GROUPS)
    with pytest.raises(SparkablateError, match=r"refuses num_key_value_heads 3.*not a multiple") as caught:
        foresee(str(tmp_path / "model"), None, False, wanted)
    assert caught.value.code == "bake_refused"
    assert "Leave prune_kv_groups out" in caught.value.message


@pytest.mark.parametrize("name", ["llava", "mistral3"])
def test_the_text_tower_of_a_wrapper(name: str, tmp_path: Path) -> None:
    model = tiny_models.build(name)
    model.save_pretrained(tmp_path / name)
    manager = AblationManager(model)
    specs = [*groups(manager.sites), *neurons(manager.sites)]
    source = Source(name, None, tmp_path / name, None, manager)
    wish = Wish(kv_groups=True, neurons=True)
    baking = Baking(source, specs, tmp_path / "out", "float32", False, force=False, wish=wish)
    with placed(baking.target) as place:
        baking.write(place, silent, lambda: None)
        cut = AutoModelForImageTextToText.from_pretrained(place.model, dtype=torch.float32).eval()
    zeroed_copy(model, specs, manager.sites)
    ids = tiny_models.tokens(2, 20)
    with torch.inference_mode():
        expected, got = model(input_ids=ids).logits, cut(input_ids=ids).logits
    assert float((got - expected).abs().max() / expected.abs().max()) < 1e-5
    assert baking.parameters["after"] == sum(parameter.numel() for parameter in cut.parameters())


def test_experts_have_no_one_width(tmp_path: Path) -> None:
    directory = model_directory.save(tmp_path / "model", "mixtral")
    wanted = Wanted([AblationSpec("mlp", 0)], tmp_path / "out", "auto", False, False, NEURONS)
    with pytest.raises(SparkablateError, match="no one key of its stock configuration is the width"):
        foresee(str(directory), None, False, wanted)
