"""Biases that a key of the stock configuration switches on, so that a mean bakes."""

from __future__ import annotations

import json
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import model_directory
import pytest
import stock_biases
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

import tiny_models
from sparkablate import AblationManager, AblationSpec, DirectionSpec, SparkablateError
from sparkablate.anatomy.stock import BIASES, BiasKeys
from sparkablate.bake import bake, live
from sparkablate.bake.baking import Baking, Source, Written
from sparkablate.bake.certificate import judge, run_jobs
from sparkablate.bake.place import placed
from sparkablate.bake.readers import warnings_for
from sparkablate.progress import silent
from sparkablate.specs import Spec


@pytest.fixture(autouse=True)
def _short_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "BLOCKS", 2)
    monkeypatch.setattr(live, "LENGTH", 24)


def test_the_table_has_every_key_that_a_tiny_model_shows() -> None:
    assert {name: BiasKeys(**one.keys) for name, one in stock_biases.found().items()} == BIASES


def without_biases(tiny: tiny_models.Tiny) -> Any:
    """The tiny model whose configuration switches every bias off that it can."""
    keys = {key for key in vars(BIASES[tiny.model_type]).values() if key}
    config = {**tiny.config, **dict.fromkeys(keys, False)}
    return tiny_models.make(tiny_models.Tiny(tiny.model_type, config))


def means_of(manager: AblationManager) -> list[Spec]:
    """All that can be given a bias: dense MLPs, attentions without and two heads of those with."""
    keys = BIASES[manager.sites.model_type]
    wanted: list[Spec] = []
    for layer in manager.sites.layers:
        if keys.of("mlp", headless=False) and "mlp" in layer.sites and not layer.has_experts:
            wanted.append(AblationSpec("mlp", layer.index, mode="mean"))
        if keys.of("attn", layer.heads is None) and "attn" in layer.sites:
            heads = {"heads": (0, layer.n_heads - 1)} if layer.heads is not None and layer.index else {}
            wanted.append(AblationSpec("head" if heads else "attn", layer.index, mode="mean", **heads))
    return wanted


@pytest.fixture(scope="module")
def switched(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Model type → what was written and its certificate, all checked by one process."""
    root = tmp_path_factory.mktemp("biases")
    patched = pytest.MonkeyPatch()
    patched.setattr(live, "BLOCKS", 1)
    patched.setattr(live, "LENGTH", 24)
    tiny_of = {
        tiny.model_type: tiny
        for tiny in stock_biases.plain_models().values()
        if (row := stock_biases.row(tiny)) and not row.norm_after_write
    }
    made: dict[str, tuple[Written, list[Spec]]] = {}
    with ExitStack() as stack:
        for name in BIASES:
            model = without_biases(tiny_of[name])
            model.save_pretrained(root / name)
            manager = AblationManager(model)
            manager.calibrate_means([tiny_models.tokens(4, 16)])
            specs = means_of(manager)
            source = Source(name, None, root / name, None, manager)
            baking = Baking(source, specs, root / f"{name}-baked", "float32", False, force=False)
            made[name] = baking.write(stack.enter_context(placed(baking.target)), silent, lambda: None), specs
        reports = run_jobs([written.job for written, _ in made.values()], root, silent, lambda: None)
        yield {
            name: (written, specs, judge(report, written.floor, "torch.float32"))
            for (name, (written, specs)), report in zip(made.items(), reports, strict=True)
        }
    patched.undo()


@pytest.mark.parametrize("name", BIASES)
def test_means_bake_by_a_key_of_the_configuration(name: str, switched: Any) -> None:
    written, specs, certificate = switched[name]
    assert certificate["passed"], certificate
    keys = {key for key in vars(BIASES[name]).values() if key}
    assert set(written.record["biases"]) == keys
    assert written.record["gguf_command"] is None
    config = json.loads((Path(written.job["directory"]) / "config.json").read_text())
    assert all(config[key] is True for key in keys)
    tensors = load_file(f"{written.job['directory']}/model.safetensors")
    added = {one["name"]: one["edits"] for one in written.job["tensors"] if one["source"] is None}
    assert added
    for tensor, edits in added.items():
        assert bool(tensors[tensor].any()) == bool(edits), tensor
    assert sum(map(bool, added.values())) == len(specs)


# ── SmolLM2's kind: llama without biases ─────────────────────────────────────────────────────
MEANS = (
    AblationSpec("head", 0, heads=(1, 3), mode="mean"),
    AblationSpec("mlp", 1, mode="mean"),
    AblationSpec("neuron", 2, neurons=(5,), mode="mean"),
)


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return model_directory.save(tmp_path_factory.mktemp("llama"))


def test_the_directory_is_the_live_model_to_anybody(llama: Path, tmp_path: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(llama).eval()
    manager = AblationManager(model)
    means = manager.calibrate_means([tiny_models.tokens(4, 16)])
    vector = torch.nn.functional.normalize(torch.randn(tiny_models.D_MODEL), dim=0)
    # what a direction lacks in the write it lacks in the bias that is switched on
    specs = [*MEANS, DirectionSpec("project_out", vector, layers=(0, 1))]
    report = bake(str(llama), specs, tmp_path / "out", means=means, threads=1)
    assert report["biases"] == ["attention_bias", "mlp_bias"]
    assert report["gguf_command"] is None
    assert any("attention_bias: true and mlp_bias: true" in note for note in report["notes"])
    assert any(all(name in note for name in ("vLLM", "TGI", "llama.cpp")) for note in report["notes"])
    assert "No new parameters" not in (tmp_path / "out" / "README.md").read_text()

    baked = AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()
    ids = tiny_models.tokens(2, 24)
    with torch.inference_mode(), manager.applied(specs):
        expected = model(ids).logits
        continued = model.generate(ids[:, :8], max_new_tokens=8, do_sample=False)
    with torch.inference_mode():
        assert float((baked(ids).logits - expected).abs().max()) < 1e-5 * float(expected.abs().max())
        assert torch.equal(baked.generate(ids[:, :8], max_new_tokens=8, do_sample=False), continued)
    query = baked.model.layers[0].self_attn.q_proj.bias
    assert query is not None
    assert not query.any()
    bias = baked.model.layers[0].self_attn.o_proj.bias.double()
    assert bias.any()
    assert abs(float(bias @ vector.double())) < 1e-6


def planned(directory: Path, specs: list[Any], prune: bool = False) -> Baking:
    manager = AblationManager(AutoModelForCausalLM.from_pretrained(directory).eval())
    manager.calibrate_means([tiny_models.tokens(4, 16)])
    held = Source(str(directory), None, directory, None, manager)
    return Baking(held, specs, directory.parent / "planned", "float32", prune, force=False)


def test_a_zero_switches_nothing_on(llama: Path) -> None:
    baking = planned(llama, [AblationSpec("mlp", 1)])
    assert baking.edits.bias_keys == ()
    assert all(output.source is not None for output in baking.outputs)


def test_a_mean_beside_a_pruned_layer(llama: Path) -> None:
    baking = planned(llama, [AblationSpec("layer", 1), MEANS[2]], prune=True)
    assert baking.config["num_hidden_layers"] == 2
    assert (baking.config["mlp_bias"], baking.config["attention_bias"]) == (True, False)
    added = [output for output in baking.outputs if output.source is None]
    assert {output.name.split(".mlp.")[0] for output in added} == {"model.layers.0", "model.layers.1"}
    (edited,) = (output for output in added if output.edits)
    assert edited.name == "model.layers.1.mlp.down_proj.bias"


def test_a_mistral_has_no_key(tmp_path: Path) -> None:
    directory = model_directory.save(tmp_path / "model", "mistral")
    with pytest.raises(SparkablateError, match="no key of its stock configuration adds one") as caught:
        bake(str(directory), AblationSpec("mlp", 1, mode="mean"), tmp_path / "out", threads=1)
    assert caught.value.code == "bake_refused"


def test_readers_are_named_as_checked_or_not() -> None:
    (said,) = warnings_for("llama", untied=False, pruned=False, biases=True)
    assert "vLLM, TGI, llama.cpp not checked" in said
    assert warnings_for("llama", untied=False, pruned=False, biases=False) == []
