"""`bake` on tiny models: what is written, what is refused, what a wrong tensor does to the certificate."""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import model_directory
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig

import tiny_models
from sparkablate import AblationManager, AblationSpec, DirectionSpec, SparkablateError
from sparkablate.bake import bake, baking, live, place, writer
from sparkablate.bake.baking import Baking, Source
from sparkablate.bake.certificate import judge, run_jobs
from sparkablate.bake.foresight import Wanted, foresee, form_of
from sparkablate.progress import silent

HEADS = AblationSpec("head", 1, heads=(1, 3))


@pytest.fixture(autouse=True)
def _short_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "BLOCKS", 2)
    monkeypatch.setattr(live, "LENGTH", 32)


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return model_directory.save(tmp_path_factory.mktemp("llama"))


def direction(width: int = tiny_models.D_MODEL, seed: int = 0) -> torch.Tensor:
    vector = torch.randn(width, generator=torch.Generator().manual_seed(seed))
    return vector / vector.norm()


def opened(directory: Path, dtype: torch.dtype = torch.float32) -> Any:
    return AutoModelForCausalLM.from_pretrained(directory, dtype=dtype).eval()


def source(directory: Path) -> Source:
    manager = AblationManager(opened(directory))
    return Source(str(directory), None, directory, None, manager)


def tensors(directory: Path) -> dict[str, torch.Tensor]:
    return {
        name: tensor for path in directory.glob("*.safetensors") for name, tensor in load_file(path).items()
    }


def refusal(directory: Path, *specs: Any, code: str = "bake_refused", prune: bool = False) -> str:
    with pytest.raises(SparkablateError) as caught:
        Baking(source(directory), specs, directory.parent / "refused", "float32", prune, force=False)
    assert caught.value.code == code
    return caught.value.message


# ── What is written ──────────────────────────────────────────────────────────────────────────
def test_the_directory_is_the_live_model(llama: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    report = bake(str(llama), HEADS, out, threads=1)
    assert report["certificate"]["passed"]
    assert report["certificate"]["behaviour"]["logit_difference"] == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]  # nothing beside it

    ids = tiny_models.tokens(2, 24)
    model = opened(llama)
    with torch.inference_mode(), AblationManager(model).applied(HEADS):
        expected = model(ids).logits
    with torch.inference_mode():
        assert torch.equal(opened(out)(ids).logits, expected)

    before, after = tensors(llama), tensors(out)
    changed = [name for name in before if not torch.equal(before[name], after[name])]
    assert changed == ["model.layers.1.self_attn.o_proj.weight"]
    text = "to be, or not"
    assert AutoTokenizer.from_pretrained(out)(text) == AutoTokenizer.from_pretrained(llama)(text)


def test_the_record_names_every_file(llama: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    vector = direction()
    bake(str(llama), [HEADS, DirectionSpec("project_out", vector)], out, threads=1)
    record = json.loads((out / "sparkablate_bake.json").read_text())
    files = {path.name for path in out.iterdir()} - {"sparkablate_bake.json"}
    assert record["files"].keys() == files
    for name, digest in record["files"].items():
        assert hashlib.sha256((out / name).read_bytes()).hexdigest() == digest
    assert record["directions"] == [hashlib.sha256(vector.numpy().tobytes()).hexdigest()]
    assert record["condition"] in (out / "README.md").read_text()
    assert record["base_model"] == {"name": str(llama), "revision": None}
    assert record["certificate"]["behaviour"]["floor"] is not None


@pytest.mark.parametrize("dtype", ["float32", "source"])
def test_a_bfloat16_source(dtype: str, tmp_path: Path) -> None:
    directory = model_directory.save(tmp_path / "model")
    opened(directory, torch.bfloat16).save_pretrained(directory)
    out = tmp_path / "out"
    report = bake(str(directory), AblationSpec("mlp", 1), out, dtype=dtype, threads=1)
    before, after = tensors(directory), tensors(out)
    wanted = torch.float32 if dtype == "float32" else torch.bfloat16
    for name, tensor in after.items():
        assert tensor.dtype == wanted
        if name != "model.layers.1.mlp.down_proj.weight":
            assert torch.equal(tensor, before[name].to(wanted))
    assert json.loads((out / "config.json").read_text())["dtype"] == str(wanted).removeprefix("torch.")
    # below float32 a control whose stream was moved by one unit in the last place says what rounding does
    assert (report["certificate"]["behaviour"]["floor"] is not None) == (dtype == "source")


def test_auto_keeps_the_sources_dtype_where_the_edit_is_exact_in_it(tmp_path: Path) -> None:
    directory = model_directory.save(tmp_path / "model")
    opened(directory, torch.bfloat16).save_pretrained(directory)
    exact = [AblationSpec("head", 0, heads=(1,)), AblationSpec("mlp", 1), AblationSpec("layer", 2)]
    assert bake(str(directory), exact, tmp_path / "exact", threads=1)["dtype"] == "source"
    assert {t.dtype for t in tensors(tmp_path / "exact").values()} == {torch.bfloat16}
    # the same bytes as when it is asked for
    bake(str(directory), exact, tmp_path / "source", dtype="source", threads=1)
    for name, tensor in tensors(tmp_path / "source").items():
        assert torch.equal(tensor, tensors(tmp_path / "exact")[name])

    computed = [AblationSpec("mlp", 1), DirectionSpec("project_out", direction(), layers=(0,))]
    assert bake(str(directory), computed, tmp_path / "computed", threads=1)["dtype"] == "float32"
    assert {t.dtype for t in tensors(tmp_path / "computed").values()} == {torch.float32}
    with pytest.raises(SparkablateError, match="use auto, float32 or source"):
        bake(str(directory), exact, tmp_path / "none", dtype="float64")


@pytest.mark.parametrize(
    ("specs", "declared", "written", "live"),
    [
        ([AblationSpec("attn", 0)], "bfloat16", "source", "bfloat16"),
        ([AblationSpec("layer", 0)], "float16", "source", "float16"),
        ([AblationSpec("attn", 0)], None, "float32", "float32"),
        ([AblationSpec("attn", 0)], "float64", "float32", "float32"),
        ([AblationSpec("attn", 0, mode="mean")], "bfloat16", "float32", "float32"),
        ([AblationSpec("layer", 0), AblationSpec("mlp", 1, mode="mean")], "bfloat16", "float32", "float32"),
        ([DirectionSpec("project_out", torch.eye(4)[0])], "bfloat16", "float32", "float32"),
    ],
)
def test_auto_follows_from_the_edits_and_what_config_json_declares(
    specs: list[Any], declared: str | None, written: str, live: str
) -> None:
    config = LlamaConfig()
    config.dtype = declared
    form = form_of("auto", specs, config)
    assert (form.written, form.live) == (written, live)
    assert form_of("float32", specs, config).written == "float32"


def test_a_direction_below_float32(tmp_path: Path) -> None:
    directory = model_directory.save(tmp_path / "model")
    opened(directory, torch.float16).save_pretrained(directory)
    report = bake(
        str(directory), DirectionSpec("project_out", direction()), tmp_path / "out", dtype="source", threads=1
    )
    assert report["certificate"]["passed"]


def test_a_tied_embedding_edited_on_one_side_is_untied(tmp_path: Path) -> None:
    directory = model_directory.save(tmp_path / "model", "gemma")
    assert "lm_head.weight" not in tensors(directory)
    out = tmp_path / "out"
    report = bake(str(directory), DirectionSpec("project_out", direction()), out, threads=1)
    before, after = tensors(directory), tensors(out)
    assert report["untied"]
    assert any("untied" in note for note in report["notes"])
    assert torch.equal(after["lm_head.weight"], before["model.embed_tokens.weight"])
    assert (after["model.embed_tokens.weight"].double() @ direction().double()).abs().max() < 1e-6
    assert json.loads((out / "config.json").read_text())["tie_word_embeddings"] is False
    # llama.cpp drops Gemma's head: a warning stands in place of the command
    assert report["gguf_command"] is None
    assert any("llama.cpp" in note for note in report["notes"])
    # an edit of the layers alone leaves them tied
    layers = DirectionSpec("project_out", direction(), layers=(0, 1))
    assert not bake(str(directory), layers, tmp_path / "tied", threads=1)["untied"]


def test_a_checkpoint_that_holds_numbers_without_an_axis(tmp_path: Path) -> None:
    model = tiny_models.make(tiny_models.TWINS["apertus"])
    assert any(tensor.dim() == 0 for tensor in model.state_dict().values())
    model.save_pretrained(tmp_path / "model")
    report = bake(str(tmp_path / "model"), HEADS, tmp_path / "out", threads=1)
    assert report["certificate"]["passed"]


@pytest.mark.parametrize(
    ("wrapper", "text_ties"),
    [("llava", True), ("mistral3", True), ("mistral3", False)],  # the wrapper's own setting decides
)
def test_a_tied_text_tower_inside_a_wrapper(wrapper: str, text_ties: bool, tmp_path: Path) -> None:
    tiny = tiny_models.TINY[wrapper]
    settings = {**tiny.config, "tie_word_embeddings": text_ties}
    model = tiny_models.make(tiny_models.Tiny(wrapper, settings, tiny.text_type))
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    model.save_pretrained(tmp_path / "model")
    out = tmp_path / "out"
    report = bake(str(tmp_path / "model"), DirectionSpec("project_out", direction()), out, threads=1)
    before, after = tensors(tmp_path / "model"), tensors(out)
    embedding, head = "language_model.model.embed_tokens.weight", "language_model.lm_head.weight"
    assert report["untied"]
    assert head not in before
    assert torch.equal(after[head], before[embedding])
    assert (after[embedding].double() @ direction().double()).abs().max() < 1e-6
    config = json.loads((out / "config.json").read_text())
    assert config["tie_word_embeddings"] is config["text_config"]["tie_word_embeddings"] is False


def test_shards_and_pickled_sources(llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = bake(str(llama), HEADS, tmp_path / "whole", threads=1)
    monkeypatch.setattr(writer, "MAX_SHARD_BYTES", 40_000)
    bake(str(llama), HEADS, tmp_path / "sharded", threads=1)
    index = json.loads((tmp_path / "sharded" / "model.safetensors.index.json").read_text())
    assert len(set(index["weight_map"].values())) > 2
    pickled, source = tmp_path / "pickled", tensors(llama)
    shutil.copytree(llama, pickled)
    (pickled / "model.safetensors").unlink()
    torch.save(source, pickled / "pytorch_model.bin")
    bake(str(pickled), HEADS, tmp_path / "from-pickle", threads=1)
    torch.save(source, pickled / "pytorch_model.bin", _use_new_zipfile_serialization=False)  # as before 1.6
    bake(str(pickled), HEADS, tmp_path / "from-old-pickle", threads=1)
    # a sharded source is a source as well
    bake(str(tmp_path / "sharded"), AblationSpec("mlp", 0), tmp_path / "again", threads=1)
    expected = tensors(tmp_path / "whole")
    for name in ("sharded", "from-pickle", "from-old-pickle"):
        assert all(torch.equal(tensor, expected[key]) for key, tensor in tensors(tmp_path / name).items())
    assert whole["certificate"]["edit"]["edited"] == 1


def test_a_pruned_model_generates_with_a_cache(llama: Path, tmp_path: Path) -> None:
    bake(str(llama), AblationSpec("layer", 1), tmp_path / "out", prune_layers=True, threads=1)
    model = opened(tmp_path / "out")
    assert model.config.num_hidden_layers == tiny_models.LAYERS - 1
    ids = tiny_models.tokens(1, 8)
    options = {"max_new_tokens": 20, "do_sample": False, "pad_token_id": 0}
    assert torch.equal(
        model.generate(ids, use_cache=True, **options), model.generate(ids, use_cache=False, **options)
    )


# ── What is refused ──────────────────────────────────────────────────────────────────────────
def test_refusals_name_every_reason_at_once(llama: Path) -> None:
    message = refusal(
        llama,
        AblationSpec("mlp", 0, positions="not_first"),
        DirectionSpec("add", direction(), layers=(1,)),
        DirectionSpec("project_out", direction(seed=1), layers=(2,), at="stream"),
    )
    assert "position" in message
    assert "adding" in message
    assert "at: stream" in message


@pytest.mark.parametrize("name", ["gemma2", "olmo2", "opt_post_norm"])
def test_norms_refuse_directions(name: str, tmp_path: Path) -> None:
    directory = model_directory.save(tmp_path / "model", name)
    assert "norm" in refusal(directory, DirectionSpec("project_out", direction()))


def test_a_mean_needs_a_bias_that_can_be_had(tmp_path: Path) -> None:
    held = source(model_directory.save(tmp_path / "mistral", "mistral"))
    held.manager.calibrate_means([tiny_models.tokens()])
    with pytest.raises(SparkablateError, match="no bias"):
        Baking(held, [AblationSpec("attn", 0, mode="mean")], tmp_path / "x", "float32", False, force=False)


@pytest.mark.parametrize(
    ("specs", "prune", "said"),
    [
        ([], False, "no intervention"),
        ([AblationSpec("mlp", 0)], True, "no layer is skipped"),
        (
            [AblationSpec("layer", layer) for layer in range(tiny_models.LAYERS)],
            True,
            "no layer would be left",
        ),
    ],
)
def test_senseless_bakes(specs: list[Any], prune: bool, said: str, llama: Path) -> None:
    assert said in refusal(llama, *specs, prune=prune)


def test_a_direction_of_another_width(llama: Path) -> None:
    refusal(llama, DirectionSpec("project_out", direction(16)), code="config_invalid")


def test_a_quantised_source(llama: Path, tmp_path: Path) -> None:
    directory = tmp_path / "quantised"
    shutil.copytree(llama, directory)
    held = source(llama)
    held.manager.model.config.quantization_config = {"quant_method": "bitsandbytes", "load_in_4bit": True}
    with pytest.raises(SparkablateError, match=r"quantised.*bitsandbytes"):
        Baking(replace(held, directory=directory), [HEADS], tmp_path / "x", "float32", False, force=False)
    packed = tensors(llama)
    packed["model.layers.0.mlp.down_proj.weight"] = torch.zeros(4, 4, dtype=torch.uint8)
    save_file(packed, directory / "model.safetensors")
    with pytest.raises(SparkablateError, match=r"quantised.*uint8"):
        Baking(
            replace(source(llama), directory=directory),
            [HEADS],
            tmp_path / "x",
            "float32",
            False,
            force=False,
        )


def test_a_quantised_source_is_refused_before_it_is_loaded(llama: Path, tmp_path: Path) -> None:
    """Its packages may not be here, and nobody should have to install them to be refused."""
    directory = tmp_path / "four-bit"
    shutil.copytree(llama, directory)
    config = json.loads((directory / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "bitsandbytes", "load_in_4bit": True}
    (directory / "config.json").write_text(json.dumps(config))
    with pytest.raises(SparkablateError, match=r"quantised.*bitsandbytes") as caught:
        bake(str(directory), HEADS, tmp_path / "out", threads=1)
    assert caught.value.code == "bake_refused"
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("spec", "options", "said"),
    [
        (AblationSpec("layer", 0, mode="mean"), {"prune_layers": True}, "no layer below it stays"),
        (AblationSpec("attn", 0, positions="not_first"), {}, "position"),
        (AblationSpec("mlp", 0, mode="resample"), {}, "other tokens"),
        (DirectionSpec("add", direction(), layers=(1,)), {}, "adding"),
        (DirectionSpec("project_out", direction(), at="stream"), {}, "at: stream"),
        (AblationSpec("mlp", 0), {"prune_layers": True}, "no layer is skipped"),
    ],
)
def test_what_cannot_bake_is_refused_before_a_weight_is_read(
    spec: Any, options: dict[str, Any], said: str, llama: Path, tmp_path: Path
) -> None:
    model = tmp_path / "model"
    model.mkdir()
    shutil.copy(llama / "config.json", model)  # there are no weights to read
    with pytest.raises(SparkablateError, match=said) as caught:
        bake(str(model), spec, tmp_path / "out", threads=1, **options)
    assert caught.value.code == "bake_refused"


@pytest.mark.parametrize("name", [name for name in tiny_models.TINY if name not in ("llava", "mistral3")])
def test_a_mean_is_foreseen_as_the_checkpoint_has_it(name: str, tmp_path: Path) -> None:
    """What foresight refuses the planner refuses for the same reason, and nothing that it would bake."""
    model = tiny_models.build(name)
    model.save_pretrained(tmp_path)
    manager = AblationManager(model)
    manager.calibrate_means([tiny_models.tokens()])
    held = Source(name, None, tmp_path, None, manager)
    for kind in ("attn", "mlp"):
        spec = AblationSpec(kind, 1, mode="mean")
        if kind not in manager.sites.layers[1].sites:
            continue
        said: list[str] = []
        made: list[Any] = []
        for attempt in (
            lambda spec=spec: foresee(
                str(tmp_path), None, False, Wanted([spec], tmp_path / "out", "float32", False, False)
            ),
            lambda spec=spec: Baking(held, [spec], tmp_path / "out", "float32", False, force=False),
        ):
            try:
                made.append(attempt())
                said.append("")
            except SparkablateError as error:
                said.append(f"{error.code}: {error.message}")
        assert said[0] in ("", said[1])
        if said == ["", ""]:
            size, baking = made
            biases = sum(math.prod(output.shape) for output in baking.outputs if output.source is None)
            assert size.after.parameters - size.before.parameters == biases
        assert said[1] == "" or said[1].startswith("bake_refused: ")
        if "no bias" in said[1] or "norm" in said[1]:
            assert said[0] == said[1]


def test_targets_that_exist(llama: Path, tmp_path: Path) -> None:
    with pytest.raises(SparkablateError, match="own directory"):
        bake(str(llama), HEADS, llama, force=True, threads=1)
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "thesis.txt").write_text("five years")
    for force in (False, True):
        with pytest.raises(SparkablateError) as caught:
            bake(str(llama), HEADS, precious, force=force, threads=1)
        assert caught.value.code == "usage"
    assert (precious / "thesis.txt").read_text() == "five years"
    out = tmp_path / "out"
    bake(str(llama), HEADS, out, threads=1)
    with pytest.raises(SparkablateError, match="force=True"):
        bake(str(llama), AblationSpec("mlp", 0), out, threads=1)
    assert bake(str(llama), AblationSpec("mlp", 0), out, force=True, threads=1)["condition"] == "L0.mlp.zero"
    assert json.loads((out / "sparkablate_bake.json").read_text())["condition"] == "L0.mlp.zero"


# ── The certificate ──────────────────────────────────────────────────────────────────────────
def sabotage(path: Path, name: str, change: Callable[[torch.Tensor], torch.Tensor]) -> None:
    with safe_open(path, framework="pt") as reader:
        held = {key: reader.get_tensor(key) for key in reader.keys()}  # noqa: SIM118 (not a dict)
    held[name] = change(held[name])
    save_file(held, path, metadata={"format": "pt"})


def off_by(share: float) -> Callable[[torch.Tensor], torch.Tensor]:
    """Adds noise of `share` of the tensor's norm."""

    def change(tensor: torch.Tensor) -> torch.Tensor:
        noise = torch.randn(tensor.shape, generator=torch.Generator().manual_seed(9))
        return tensor + noise * (share * tensor.norm() / noise.norm())

    return change


EDITED, UNEDITED = "model.layers.1.self_attn.o_proj.weight", "model.layers.0.mlp.up_proj.weight"
DIRECTED = DirectionSpec("project_out", direction())


def tensor_off(name: str, share: float) -> Callable[[Path], None]:
    return lambda model: sabotage(model / "model.safetensors", name, off_by(share))


def drop_tensor(model: Path) -> None:
    held = load_file(model / "model.safetensors")
    del held[UNEDITED]
    save_file(held, model / "model.safetensors", metadata={"format": "pt"})


def change_config(model: Path) -> None:
    config = json.loads((model / "config.json").read_text())
    config["rms_norm_eps"] = 1e-3
    (model / "config.json").write_text(json.dumps(config))


#: What was baked, how the directory was spoiled, and what the certificate has to say.
SABOTAGES: dict[str, tuple[Any, Callable[[Path], None], str]] = {
    "an edited tensor off by 1e-3": (HEADS, tensor_off(EDITED, 1e-3), EDITED),
    "an unedited tensor off by 1e-3": (HEADS, tensor_off(UNEDITED, 1e-3), UNEDITED),
    "a projected tensor off by 1e-3": (DIRECTED, tensor_off(EDITED, 1e-3), EDITED),
    "a projected tensor off by 2e-6": (DIRECTED, tensor_off(EDITED, 2e-6), EDITED),
    "a tensor that a direction leaves alone": (DIRECTED, tensor_off(UNEDITED, 1e-3), UNEDITED),
    "a missing tensor": (HEADS, drop_tensor, "stock transformers finds 1 weights missing"),
    "a changed setting": (HEADS, change_config, "its logits differ"),
}


@pytest.fixture(scope="module")
def certificates(llama: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """Of spoiled directories, checked by one process."""
    root = tmp_path_factory.mktemp("sabotage")
    patched = pytest.MonkeyPatch()
    patched.setattr(live, "BLOCKS", 2)
    patched.setattr(live, "LENGTH", 32)
    with ExitStack() as stack:
        stack.callback(patched.undo)
        made = []
        for number, (specs, spoil, _) in enumerate(SABOTAGES.values()):
            target = root / str(number)
            held_back = Baking(source(llama), [specs], target, "float32", False, force=False)
            held = stack.enter_context(place.placed(target))
            made.append(held_back.write(held, silent, lambda: None))
            spoil(held.model)
        reports = run_jobs([one.job for one in made], root, silent, lambda: None)
        return {
            name: judge(report, one.floor, one.job["dtype"])
            for name, one, report in zip(SABOTAGES, made, reports, strict=True)
        }


@pytest.mark.parametrize("name", SABOTAGES)
def test_a_spoiled_directory_fails_it(name: str, certificates: dict[str, dict[str, Any]]) -> None:
    problems, behaviour = certificates[name]["problems"], certificates[name]["behaviour"]
    assert not certificates[name]["passed"]
    assert any(SABOTAGES[name][2] in problem for problem in problems), problems
    if "1e-3" in name:
        assert behaviour["logit_difference"] > behaviour["tolerance"]
    if name == "a changed setting":
        assert len(problems) == 1


def test_a_failed_certificate_leaves_nothing(
    llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    edited = writer.edited

    def wrong(tensor: torch.Tensor, output: writer.Output) -> torch.Tensor:
        return edited(tensor, output) * (1 + 1e-3 * bool(output.edits))

    monkeypatch.setattr(writer, "edited", wrong)
    with pytest.raises(SparkablateError) as caught:
        bake(str(llama), HEADS, tmp_path / "made" / "for it" / "out", threads=1)
    assert caught.value.code == "certificate_failed"
    assert EDITED in caught.value.message
    assert list(tmp_path.iterdir()) == []


def test_only_directories_that_were_made_for_the_target_go_with_it(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    made = tmp_path / "there" / "made"

    def broken_off(keep: Path | None) -> None:
        with place.placed(made / "out"):
            if keep is not None:
                keep.touch()
            raise KeyError

    for keep in (None, made / "notes.txt", made / "out"):
        with pytest.raises(KeyError):
            broken_off(keep)
        assert list((tmp_path / "there").iterdir()) == ([] if keep is None else [made])
        assert keep is None or list(made.iterdir()) == [keep]
        if keep is not None:
            keep.unlink()
            made.rmdir()
    with place.placed(made / "out") as held:
        held.finish()
    assert (made / "out").is_dir()
    (tmp_path / "file").touch()
    with (
        pytest.raises(SparkablateError, match="cannot be written"),
        place.placed(tmp_path / "file" / "x" / "out"),
    ):
        pass


def test_an_edit_that_amplifies_rounding_fails_below_float32(tmp_path: Path) -> None:
    """One MLP writes a hundred times more along the direction than anything else: to take that away in
    bfloat16 leaves nothing but rounding."""
    directory = model_directory.save(tmp_path / "model")
    model = opened(directory)
    weight = model.model.layers[1].mlp.down_proj.weight
    with torch.no_grad():
        weight += 100 * direction()[:, None] * torch.randn(weight.shape[1], generator=torch.manual_seed(1))
    model.to(torch.bfloat16).save_pretrained(directory)
    with pytest.raises(SparkablateError) as caught:
        bake(str(directory), DIRECTED, tmp_path / "out", dtype="source", threads=1)
    assert caught.value.code == "certificate_failed"
    assert "amplifies rounding in bfloat16" in caught.value.message
    assert 'bake with dtype="float32"' in caught.value.message
    assert not (tmp_path / "out").exists()
    behaviour = bake(str(directory), DIRECTED, tmp_path / "out", dtype="float32", threads=1)["certificate"][
        "behaviour"
    ]
    assert behaviour["logit_difference"] <= behaviour["tolerance"] <= 1e-2
    assert behaviour["kl"] < 1e-9


@pytest.mark.parametrize(
    ("difference", "kl", "floor", "dtype", "said"),
    [
        (9e-3, 9e-4, 1e-1, "torch.bfloat16", None),
        (1.1e-2, 0.0, 1e-1, "torch.bfloat16", 'bake with dtype="float32"'),
        (5e-3, 1.1e-3, 1e-1, "torch.float16", "amplifies rounding in float16"),
        (5e-3, 1.1e-3, 1e-3, "torch.bfloat16", 'bake with dtype="float32"'),
        (0.83, 1.03, 0.09, "torch.bfloat16", "amplifies rounding in bfloat16"),
        (5.0, 1.03, 0.09, "torch.bfloat16", "amplifies rounding in bfloat16"),
        (2e-2, 0.0, 1e-2, "torch.float32", "measure it with 'sparkablate run' instead"),
        (2e-3, 0.0, 1e-4, "torch.bfloat16", "tolerance 1.00e-03"),
        (2e-5, 0.0, None, "torch.float32", "tolerance 1.00e-05"),
        (1e-6, 2e-3, None, "torch.float32", "at most 0.01 and 0.001"),
    ],
)
def test_the_ceiling(difference: float, kl: float, floor: float | None, dtype: str, said: str | None) -> None:
    """However much two equal live runs differ, beyond these the result is no equivalent."""
    behaviour = {"logit_difference": difference, "kl": kl, "finite": True}
    counts = {"positions": 64, "left_out": 0, "rerouted": 0}
    report = {"behaviour": {**behaviour, **counts}, "problems": [], "edit": {}, "imports_sparkablate": False}
    certificate = judge(report, floor, dtype)
    assert certificate["passed"] == (said is None)
    assert certificate["behaviour"]["tolerance"] <= 1e-2
    if said is not None:
        (problem,) = certificate["problems"]
        assert said in problem


# ── The place ────────────────────────────────────────────────────────────────────────────────
def test_leftovers_of_a_killed_bake_are_removed(llama: Path, tmp_path: Path) -> None:
    left = tmp_path / ".out.sparkablate-bake"
    (left / "model").mkdir(parents=True)
    (left / "model" / "model.safetensors").write_bytes(b"half of it")
    (left / "lock").touch()
    bake(str(llama), HEADS, tmp_path / "out", threads=1)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_target_that_was_moved_aside_goes_back(tmp_path: Path) -> None:
    moved = tmp_path / ".out.sparkablate-bake" / "replaced"
    moved.mkdir(parents=True)
    (moved / "old").touch()
    (moved.parent / "lock").touch()
    with place.placed(tmp_path / "out"):
        assert (tmp_path / "out" / "old").is_file()


def test_a_work_directory_of_somebody_else_is_left_alone(tmp_path: Path) -> None:
    home = tmp_path / "home"
    (home / "photos").mkdir(parents=True)
    (home / "thesis.txt").write_text("five years")
    work = tmp_path / ".out.sparkablate-bake"

    def refused(said: str) -> None:
        with pytest.raises(SparkablateError, match=said) as caught, place.placed(tmp_path / "out"):
            pytest.fail("it was taken")
        assert caught.value.code == "usage"

    work.symlink_to(home)
    refused("symbolic link")
    assert sorted(path.name for path in home.rglob("*")) == ["photos", "thesis.txt"]
    work.unlink()
    work.write_text("notes")
    refused("a file")
    work.unlink()
    work.mkdir()
    (work / "thesis.txt").write_text("five years")
    refused(r"holds thesis\.txt")
    assert [path.name for path in work.iterdir()] == ["thesis.txt"]  # no lock is left in it either
    (work / "lock").touch()
    refused(r"holds thesis\.txt")
    (work / "thesis.txt").unlink()
    (work / "replaced").symlink_to(home)
    refused("holds replaced")
    assert (work / "replaced").is_symlink()
    (work / "replaced").unlink()
    (work / "lock").unlink()
    (work / "lock").symlink_to(home / "made")
    refused("lock is not a file")
    assert not (home / "made").exists()
    (work / "lock").unlink()
    os.mkfifo(work / "lock")
    refused("lock is not a file")
    assert sorted(path.name for path in home.rglob("*")) == ["photos", "thesis.txt"]


def check_target(out: Path, source: Path, force: bool) -> str:
    """What is said against the target; empty where nothing is."""
    try:
        place.check_target(place.resolve_target(out), source.resolve(), force)
    except SparkablateError as error:
        return f"{error.code}: {error.message}"
    return ""


def baked_before(directory: Path) -> Path:
    """A directory as a bake leaves it, as far as --force looks at it."""
    directory.mkdir()
    (directory / "config.json").write_text("{}")
    (directory / place.RECORD).write_text(json.dumps({"files": {"config.json": "sha256"}}))
    return directory


def test_force_deletes_nothing_that_no_bake_made(tmp_path: Path) -> None:
    out = baked_before(tmp_path / "out")
    (tmp_path / "model").mkdir()
    assert check_target(out, tmp_path / "model", True) == ""
    assert check_target(out, tmp_path / "model", False).startswith(f"usage: {out} exists; pass force=True")
    (out / "plots").mkdir()
    (out / "plots" / "figure\n1.png").write_text("mine")
    assert r"plots/figure\n1.png'; force=True would delete them" in check_target(
        out, tmp_path / "model", True
    )
    (out / "plots" / "figure\n1.png").unlink()
    (out / "data").symlink_to(tmp_path)
    assert "data; force=True would delete them" in check_target(out, tmp_path / "model", True)
    for damaged in ("{", "[]", "null", '{"files": 3}'):
        (out / place.RECORD).write_text(damaged)
        assert "cannot be read" in check_target(out, tmp_path / "model", True)


def test_links_as_targets(tmp_path: Path) -> None:
    model = baked_before(tmp_path / "model")  # its own record does not make it a target
    baked_before(tmp_path / "baked")
    (tmp_path / "link").symlink_to(tmp_path / "baked")
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    (tmp_path / "here").symlink_to(tmp_path)
    (tmp_path / "same").symlink_to(model)
    assert "symbolic link" in check_target(tmp_path / "link", model, True)
    assert "exists" in check_target(tmp_path / "dangling", model, False)
    assert "symbolic link" in check_target(tmp_path / "dangling", model, True)
    for name in ("here/model", "here/model/.", "here", "baked/../model", "same", "model/", "/"):
        assert "source model's own directory" in check_target(tmp_path / name, model, True), name
    assert check_target(model / "inside", model, False) == ""
    assert place.resolve_target(tmp_path / "here" / "deep" / ".." / "out") == tmp_path.resolve() / "out"


def test_two_bakes_of_one_target(tmp_path: Path) -> None:
    with (
        place.placed(tmp_path / "out"),
        pytest.raises(SparkablateError, match="another bake"),
        place.placed(tmp_path / "out"),
    ):
        pass
    with place.placed(tmp_path / "out"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_room_is_checked_before_anything_is_written(
    llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(baking, "SPARE_BYTES", 1 << 60)
    with pytest.raises(SparkablateError) as caught:
        bake(str(llama), HEADS, tmp_path / "deep" / "out", threads=1)
    assert caught.value.code == "disk_full"
    assert list(tmp_path.iterdir()) == []
