"""`bake` of a model object: its weights as they stand, against the object itself."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import model_directory
import pytest
import torch
from applied_cases import untouched
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

import tiny_models
from sparkablate import AblationManager, AblationSpec, DirectionSpec, SparkablateError
from sparkablate.bake import bake, live
from sparkablate.loading.tensors import digest_tensors

HEADS = AblationSpec("head", 1, heads=(1, 3))
IDS = tiny_models.tokens()


@pytest.fixture(autouse=True)
def _short_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "BLOCKS", 1)
    monkeypatch.setattr(live, "LENGTH", 32)


def changed(dtype: torch.dtype = torch.float32) -> Any:
    """A model of one's own that is in no file any more."""
    model = tiny_models.build("llama").to(dtype)
    with torch.no_grad():
        model.model.layers[0].mlp.down_proj.weight.mul_(1.25)
    return model


def logits(model: Any) -> Tensor:
    with torch.inference_mode():
        return model(input_ids=IDS, use_cache=False).logits


def test_the_object_as_it_stands_is_baked_and_left_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SPARKABLATE_HOME", str(tmp_path / "home"))
    model = changed()
    model.model.layers[2].train()
    model.eval()
    model.model.layers[2].mlp.training = True
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    base = logits(model)
    with AblationManager(model).applied(HEADS):
        want = logits(model)
    out = tmp_path / "deep" / "out"
    report = bake(model, HEADS, out, dtype="source", threads=1)
    assert report["certificate"]["passed"]
    assert report["base_model"] == {"name": "in memory", "revision": None, "sha256": digest_tensors(model)}
    baked = AutoModelForCausalLM.from_pretrained(out).eval()
    torch.testing.assert_close(logits(baked), want, rtol=1e-5, atol=1e-6)
    edited = "model.layers.1.self_attn.o_proj.weight"
    for name, tensor in load_file(out / "model.safetensors").items():
        assert torch.equal(tensor, before[name]) == (name != edited), name
    assert torch.equal(logits(model), base)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert [name for name, module in model.named_modules() if module.training] == ["model.layers.2.mlp"]
    assert untouched(model)
    card = (out / "README.md").read_text(encoding="utf-8")
    assert f"in memory (sha256 of its tensors: `{digest_tensors(model)}`)" in card
    assert "base_model:" not in card
    record = json.loads((out / "sparkablate_bake.json").read_text(encoding="utf-8"))
    assert record["copied"] == ["generation_config.json"]
    assert [path.name for path in (tmp_path / "home" / "offload").iterdir()] == ["lock"]


def test_the_sources_other_files_travel_or_the_tokenizer_that_is_given(tmp_path: Path) -> None:
    directory = model_directory.save(tmp_path / "model")
    (directory / "LICENSE").write_text("free", encoding="utf-8")
    model, tokenizer = (
        AutoModelForCausalLM.from_pretrained(directory),
        AutoTokenizer.from_pretrained(directory),
    )
    with torch.no_grad():
        model.lm_head.weight.mul_(2)
    skipped = AblationSpec("layer", 1)
    report = bake(model, skipped, tmp_path / "one", dtype="source", source=directory, prune_layers=True)
    assert {"LICENSE", "tokenizer.json"} <= set(report["copied"])
    assert (tmp_path / "one" / "LICENSE").read_text(encoding="utf-8") == "free"
    found = load_file(tmp_path / "one" / "model.safetensors")["lm_head.weight"]
    assert torch.equal(found, model.lm_head.weight)  # the object's, not the directory's
    report = bake(model, skipped, tmp_path / "two", dtype="source", tokenizer=tokenizer, prune_layers=True)
    assert "LICENSE" not in report["copied"]
    assert (
        AutoTokenizer.from_pretrained(tmp_path / "two")("a b")["input_ids"] == tokenizer("a b")["input_ids"]
    )
    with pytest.raises(SparkablateError, match="source model's own directory"):
        bake(model, skipped, directory, source=directory, force=True)


@pytest.mark.parametrize("dtype", ["auto", "source", "float32", torch.float32])
def test_dtypes_of_a_bfloat16_object(dtype: Any, tmp_path: Path) -> None:
    """ "auto" keeps what stands where the edit is exact; in float32 the live side is the object's cast."""
    changed().save_pretrained(tmp_path / "model")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "model", dtype=torch.bfloat16)
    report = bake(model, HEADS, tmp_path / "out", dtype=dtype)
    assert report["certificate"]["passed"]
    kept = dtype in ("auto", "source")
    tensors = load_file(tmp_path / "out" / "model.safetensors")
    assert {tensor.dtype for tensor in tensors.values()} == {torch.bfloat16 if kept else torch.float32}
    assert model.dtype == torch.bfloat16


def test_a_cast_that_stock_transformers_does_not_make_is_told(tmp_path: Path) -> None:
    """`model.to(dtype)` rounds the rotary frequencies, `from_pretrained(dtype=…)` does not."""
    with pytest.raises(SparkablateError, match=r"rotary_emb\.\w+, which is in no checkpoint, is in bfloat16"):
        bake(changed(torch.bfloat16), HEADS, tmp_path / "out", dtype="source")
    assert not (tmp_path / "out").exists()


def test_directions_and_means_of_an_object(tmp_path: Path) -> None:
    model = tiny_models.build("llama_bias")
    unit = torch.nn.functional.normalize(torch.randn(tiny_models.D_MODEL), dim=0)
    report = bake(model, DirectionSpec("project_out", unit.numpy()), tmp_path / "a", dtype="auto")
    assert report["certificate"]["passed"]
    means = AblationManager(model).calibrate_means(IDS)
    spec = AblationSpec("attn", 1, mode="mean")
    assert bake(model, spec, tmp_path / "b", dtype="auto", means=means)["certificate"]["passed"]
    with pytest.raises(SparkablateError) as caught:
        bake(model, spec, tmp_path / "c", dtype="auto")
    assert caught.value.code == "means_missing"


def test_a_compiled_object(tmp_path: Path) -> None:
    model = changed()
    report = bake(torch.compile(model, backend="eager"), HEADS, tmp_path / "out", dtype="source")
    assert report["certificate"]["passed"]
    assert report["base_model"]["sha256"] == digest_tensors(model)


class TestRefused:
    def refused(self, model: Any, out: Path, **options: Any) -> str:
        specs = options.pop("specs", HEADS)
        with pytest.raises(SparkablateError) as caught:
            bake(model, specs, out, **options)
        assert not out.exists()
        return f"{caught.value.code}: {caught.value.message}"

    def test_what_is_not_the_models_own_weights(self, tmp_path: Path) -> None:
        out, model = tmp_path / "out", changed()
        with AblationManager(model).applied(AblationSpec("mlp", 0)):
            logits(model)
            assert "usage: bake() writes the unedited model's weights" in self.refused(model, out)
        away = changed()
        away.model.layers[1].mlp.to("meta")
        assert "needs every weight in memory, and model.layers.1.mlp" in self.refused(away, out)
        assert "architecture_unsupported" in self.refused(torch.nn.Linear(2, 2), out)

    def test_adapters(self, tmp_path: Path) -> None:
        peft = pytest.importorskip("peft", reason="peft is not installed")
        adapted = peft.get_peft_model(changed(), peft.LoraConfig(r=2, target_modules=["o_proj"]))
        for model in (adapted, adapted.get_base_model()):
            assert "merge_and_unload() first" in self.refused(model, tmp_path / "out")
        merged = adapted.merge_and_unload()
        assert bake(merged, HEADS, tmp_path / "merged", dtype="source")["certificate"]["passed"]

    def test_arguments(self, tmp_path: Path) -> None:
        out, model = tmp_path / "out", changed()
        (tmp_path / "there").mkdir()
        assert "there exists; pass force=True" in self.message(model, tmp_path / "there")
        assert "dtype 'bfloat16': use auto, float32 or source" in self.refused(
            model, out, dtype=torch.bfloat16
        )
        assert "source must be a model's directory" in self.refused(model, out, source=tmp_path / "nowhere")
        assert "give tokenizer or source, not both" in self.refused(model, out, source=".", tokenizer=model)
        assert "tokenizer must be a tokenizer" in self.refused(model, out, tokenizer="gpt2", dtype="auto")
        assert "source goes with a model object" in self.refused(str(tmp_path), out, source=".")
        assert "bake_refused" in self.refused(model, out, specs=AblationSpec("mlp", 1, mode="patch"))
        assert "config_invalid" in self.refused(model, out, specs=AblationSpec("mlp", 99))

    def message(self, model: Any, out: Path) -> str:
        with pytest.raises(SparkablateError) as caught:
            bake(model, HEADS, out)
        return caught.value.message


def test_a_digest_is_of_names_types_shapes_and_numbers() -> None:
    model = changed()
    assert digest_tensors(model) == digest_tensors(copy.deepcopy(model))
    for spoil in (
        lambda it: it.model.norm.weight.data.mul_(-1),
        lambda it: it.to(torch.bfloat16),
        lambda it: setattr(it.lm_head, "bias", torch.nn.Parameter(torch.zeros(2))),
    ):
        other = copy.deepcopy(model)
        spoil(other)
        assert digest_tensors(other) != digest_tensors(model)
