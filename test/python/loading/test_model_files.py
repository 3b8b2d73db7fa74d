"""What decides a model, found wherever it lies, and seen when it changes: before a load, in it, after it."""

from __future__ import annotations

import json
import mmap
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import model_directory
import numpy as np
import pytest
from model_directory import model_config
from safetensors import safe_open

from sparkablate.engines.local import LocalEngine
from sparkablate.engines.requests import Bake, Calibrate, Caller, Evaluate, Generate, Load
from sparkablate.errors import SparkablateError
from sparkablate.loading import model_files
from sparkablate.loading.fingerprints import digest_files
from sparkablate.loading.model_files import ModelFiles, list_files, settled
from sparkablate.measure.slice import Measurement
from sparkablate.progress import silent

SEQ_LEN, BATCH = 16, 2


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPARKABLATE_HOME", str(tmp_path / "home"))


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two models of one shape."""
    made = tmp_path_factory.mktemp("models")
    return model_directory.save(made / "a", seed=0), model_directory.save(made / "b", seed=1)


@pytest.fixture
def model(saved: tuple[Path, Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(saved[0], tmp_path / "model"))


def moved_weights(model: Path, name: str) -> None:
    """The weights under another name, wherever that is, and an index that gives it."""
    target = model / name
    target.parent.mkdir(parents=True, exist_ok=True)
    (model / "model.safetensors").rename(target)
    with safe_open(target, "pt") as weights:
        index = {"metadata": {}, "weight_map": dict.fromkeys(weights.keys(), name)}
    (model / "model.safetensors.index.json").write_text(json.dumps(index))


def read(model: Path) -> ModelFiles:
    return ModelFiles(model, None, settled(model), silent)


# ── Which files ──────────────────────────────────────────────────────────────────────────────
@pytest.mark.parametrize("where", ["weights/model.safetensors", "../elsewhere/w.safetensors", "absolute"])
def test_what_the_index_names_is_looked_at_wherever_it_lies(
    model: Path, saved: tuple[Path, Path], tmp_path: Path, where: str
) -> None:
    name = str(tmp_path / "far" / "w.safetensors") if where == "absolute" else where
    moved_weights(model, name)
    engine = LocalEngine()
    first = engine.answer(Load(model_config(model), SEQ_LEN, BATCH))
    assert [file["name"] for file in first["model_files"]["files"] if file["name"] == name] == [name]
    assert engine.answer(Load(model_config(model), SEQ_LEN, BATCH))["reused"] is True
    shutil.copy(saved[1] / "model.safetensors", model / name)
    second = engine.answer(Load(model_config(model), SEQ_LEN, BATCH))
    assert second["reused"] is False
    assert digests(second)[name] != digests(first)[name]
    assert second["weights_sha256"] == first["weights_sha256"]  # 0.1.0's, which did not see it


def digests(loaded: dict[str, Any]) -> dict[str, str]:
    return {file["name"]: file["sha256"] for file in loaded["model_files"]["files"]}


def test_an_index_that_gives_the_same_tensors_from_other_files_is_another_model(
    model: Path, saved: tuple[Path, Path]
) -> None:
    moved_weights(model, "one.safetensors")
    shutil.copy(saved[1] / "model.safetensors", model / "two.safetensors")
    before = read(model)
    index = model / "model.safetensors.index.json"
    index.write_text(index.read_text().replace("one.safetensors", "two.safetensors"))
    assert not before.unchanged(silent)
    names = {name for name, file in list_files(model).items() if file.weights}
    assert {"model.safetensors.index.json", "one.safetensors", "two.safetensors"} <= names


@pytest.mark.parametrize(
    "name",
    [
        "config.json",
        "generation_config.json",
        "adapter_config.json",
        "adapter_model.safetensors",
        "modeling_own.py",
        "tokenization_own.py",
        "tokenizer.json",
        "tekken.json",
        "tokenizer.model",
        "tokenizer.model.v3",
        "spiece.model",
        "qwen.tiktoken",
        "vocab.txt",
        "vocab.json",
        "merges.txt",
        "chat_template.jinja",
        "chat_template.json",
        "additional_chat_templates/tools.jinja",
    ],
)
def test_a_file_that_decides_something_is_seen_to_change_to_come_and_to_go(model: Path, name: str) -> None:
    (model / name).parent.mkdir(exist_ok=True)
    (model / name).unlink(missing_ok=True)
    without = read(model)
    (model / name).write_text("{}")
    assert not without.unchanged(silent)
    with_it = read(model)
    assert with_it.unchanged(silent)
    (model / name).write_text("[]")
    assert not with_it.unchanged(silent)
    (model / name).unlink()
    assert not with_it.unchanged(silent)


def test_what_decides_nothing_may_change(model: Path) -> None:
    before = read(model)
    for name in ("README.md", "LICENSE", ".gitattributes", "trainer_state.json"):
        (model / name).write_text("new")
    assert before.unchanged(silent)


def test_files_that_the_tokenizer_names_are_looked_at(model: Path, tmp_path: Path) -> None:
    class Own:
        vocab_files_names = {"table": "pieces.dat"}  # noqa: RUF012

    far = tmp_path / "far.dat"
    for path in (model / "pieces.dat", far):
        path.write_text("old")
    config = json.loads((model / "tokenizer_config.json").read_text())
    (model / "tokenizer_config.json").write_text(json.dumps({**config, "table_file": str(far)}))
    for path in (model / "pieces.dat", far):
        before = ModelFiles(model, Own(), settled(model), silent)
        path.write_text("new")
        assert not before.unchanged(silent)


def test_the_patterns_know_the_files_of_every_tokenizer_in_transformers(tmp_path: Path) -> None:
    """As their sources name them: importing them all would need packages that are not here."""
    import transformers

    names = {"tekken.json", "chat_template.jinja", "chat_template.json"}
    for source in (Path(transformers.__file__).parent / "models").glob("*/tokenization_*.py"):
        table = re.search(r"VOCAB_FILES_NAMES = {(.*?)}", source.read_text("utf-8"), re.DOTALL)
        names |= set(re.findall(r":\s*\"([^\"]+)\"", table[1])) if table else set()
    assert len(names) > 20
    for name in names:
        (tmp_path / name).write_text("{}")
    assert sorted(names - list_files(tmp_path).keys()) == []


# ── Stamps and the cache ─────────────────────────────────────────────────────────────────────
def test_a_file_unpacked_over_another_is_read_again(tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    file = tmp_path / "m" / "model.safetensors"
    for build in (1, 2):
        made = tmp_path / f"v{build}" / "m"
        made.mkdir(parents=True)
        (made / "model.safetensors").write_bytes(bytes([build]) * 1000)
        # Equal sizes and times, as reproducible builds have them.
        tar = ["tar", "--mtime=@1000000000", "-C", str(made.parent), "-cf", f"{tmp_path}/v{build}.tar", "m"]
        subprocess.run(tar, check=True)
    seen: dict[int, set[str]] = {1: set(), 2: set()}
    for _ in range(10):
        for build in (1, 2):
            subprocess.run(["tar", "-C", str(tmp_path), "-xf", f"{tmp_path}/v{build}.tar"], check=True)
            seen[build].add(digest_files([file], silent))
    assert len(seen[1]) == len(seen[2]) == 1
    assert seen[1] != seen[2]


def test_of_a_file_only_its_newest_digest_is_kept(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    for content in (b"a", b"b", b"c"):
        file.write_bytes(content)
        model_files._settled(file)
        digest_files([file], silent)
    cache = json.loads((tmp_path / "home" / "fingerprints.json").read_text())
    assert len(cache) == 1


def test_a_file_that_is_written_to_while_it_is_read_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    file.write_bytes(b"a" * 1000)
    model_files._settled(file)

    def meddle(stage: str, done: float, total: float | None, unit: str) -> None:
        file.write_bytes(b"b" * 1000)

    with pytest.raises(SparkablateError, match="written to while it was read") as caught:
        digest_files([file], meddle)
    assert caught.value.code == "load_failed"


def test_weights_that_change_between_the_load_and_its_digest_are_refused(
    model: Path, saved: tuple[Path, Path]
) -> None:
    def meddle(stage: str, done: float, total: float | None, unit: str) -> None:
        if stage == "fingerprint" and not digests_begun:
            digests_begun.append(stage)
            shutil.copy(saved[1] / "model.safetensors", model / "model.safetensors")

    digests_begun: list[str] = []
    with pytest.raises(SparkablateError, match="written to while") as caught:
        LocalEngine().answer(Load(model_config(model), SEQ_LEN, BATCH), Caller(meddle))
    assert caught.value.code == "load_failed"


# ── Under a run ──────────────────────────────────────────────────────────────────────────────
def in_place(model: Path, other: Path) -> None:
    content = (other / "model.safetensors").read_bytes()
    with (model / "model.safetensors").open("r+b") as file:
        file.write(content)


def mapped_with_the_old_mtime(model: Path, other: Path) -> None:
    path, content = model / "model.safetensors", (other / "model.safetensors").read_bytes()
    status = path.stat()
    with path.open("r+b") as file, mmap.mmap(file.fileno(), 0) as mapping:
        mapping[:] = content
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def renamed_over(model: Path, other: Path) -> None:
    shutil.copy(other / "model.safetensors", model / "new")
    (model / "new").replace(model / "model.safetensors")


def removed(model: Path, other: Path) -> None:
    (model / "model.safetensors").unlink()


def there_and_back(model: Path, other: Path) -> None:
    old = model.parent / "old"
    shutil.copytree(model, old)
    in_place(model, other)
    in_place(model, old)


SWAPS = [in_place, mapped_with_the_old_mtime, renamed_over, removed, there_and_back]
CONDITIONS = [
    {"id": "baseline", "interventions": []},
    *(
        {"id": f"skip {n}", "interventions": [{"kind": "layer", "layer": n, "mode": "skip"}]}
        for n in range(3)
    ),
]
IDS = np.random.default_rng(0).integers(2, 258, (BATCH, SEQ_LEN)).astype(np.int32)


def sums(engine: LocalEngine, after_first: Callable[[], None] = lambda: None) -> dict[str, list[float]]:
    """What is reported, with something that happens behind the first condition."""
    reported: dict[str, list[float]] = {}

    def on_measurement(measurement: Measurement) -> None:
        reported[measurement.condition] = measurement.sums[0].tolist()
        if len(reported) == 1:
            after_first()

    try:
        engine.answer(Evaluate(IDS, CONDITIONS, ["nll"]), Caller(report=on_measurement))
    except SparkablateError as error:
        reported[error.code] = [len(error.message)]
    return reported


@pytest.mark.parametrize("swap", SWAPS)
def test_a_swap_under_a_slice_ends_it_and_nothing_of_the_other_model_is_reported(
    model: Path, saved: tuple[Path, Path], swap: Callable[[Path, Path], None]
) -> None:
    engine = LocalEngine()
    engine.answer(Load(model_config(model), SEQ_LEN, BATCH))
    whole = sums(engine)
    assert whole.keys() == {condition["id"] for condition in CONDITIONS}
    cut = sums(engine, lambda: swap(model, saved[1]))
    assert "baseline_changed" in cut
    assert len(cut) == 2
    assert all(whole[name] == values for name, values in cut.items() if name != "baseline_changed")
    assert engine.loaded is None


@pytest.mark.parametrize("swap", SWAPS[:3])
def test_means_texts_and_directions_of_a_model_that_changed_are_not_given_out(
    model: Path, saved: tuple[Path, Path], swap: Callable[[Path, Path], None]
) -> None:
    site = {"kind": "mlp", "layer": 0, "positions": "all"}
    calls: list[Callable[[LocalEngine], Any]] = [
        lambda engine: engine.answer(Calibrate(list(IDS), BATCH, [site])),
        lambda engine: engine.answer(Generate(["a b"], CONDITIONS, 2)),
    ]
    kept = shutil.copytree(model, model.parent / "kept")
    for call in calls:
        engine = LocalEngine()
        engine.answer(Load(model_config(model), SEQ_LEN, BATCH))
        call(engine)
        swap(model, saved[1])
        with pytest.raises(SparkablateError) as caught:
            call(engine)
        assert caught.value.code == "baseline_changed"
        assert "model.safetensors" in caught.value.message
        renamed_over(model, kept)


def test_a_new_link_or_mode_is_no_change(model: Path) -> None:
    engine = LocalEngine()
    engine.answer(Load(model_config(model), SEQ_LEN, BATCH))
    whole = sums(engine)
    weights = model / "model.safetensors"

    def backup() -> None:
        os.link(weights, model.parent / "backup")
        weights.chmod(0o400)

    assert sums(engine, backup) == whole
    (held,) = engine._need().files._weights
    held.stamp = held.stamp._replace(inode=1)  # as file systems in user space may number a file anew
    assert sums(engine) == whole
    weights.chmod(0o600)
    assert "baseline_changed" in sums(engine, lambda: os.utime(weights))


def test_a_bake_reads_the_weights_that_were_loaded_or_fails(
    model: Path, saved: tuple[Path, Path], tmp_path: Path
) -> None:
    engine = LocalEngine()
    engine.answer(Load(model_config(model), SEQ_LEN, BATCH, may_offload=True))
    in_place(model, saved[1])
    condition = {
        "id": "L0.mlp.zero",
        "interventions": [{"kind": "mlp", "layer": 0, "mode": "zero", "positions": "all"}],
    }
    with pytest.raises(SparkablateError) as caught:
        engine.answer(Bake(condition, str(tmp_path / "out"), "float32", prune_layers=False, force=False))
    assert caught.value.code == "baseline_changed"
    assert not (tmp_path / "out").exists()


def test_bits_that_change_without_a_trace_are_found_by_the_look_at_the_baseline(model: Path) -> None:
    engine = LocalEngine()
    engine.answer(Load(model_config(model, dtype="bfloat16"), SEQ_LEN, BATCH))
    held = engine._need()
    held.looked -= 3600  # as if it were long ago
    sums(engine)
    looked = held.looked
    sums(engine)
    assert held.looked == looked  # not again so soon
    next(held.opened.model.parameters()).data[2:] *= 1.5  # a memory fault
    held.looked -= 3600
    assert "baseline_changed" in sums(engine)
    assert engine.loaded is None


# ── A warm worker ────────────────────────────────────────────────────────────────────────────
def test_a_warm_worker_reads_anew_what_a_link_now_leads_to(saved: tuple[Path, Path], tmp_path: Path) -> None:
    link = tmp_path / "current"
    link.symlink_to(saved[0])
    engine = LocalEngine()
    first = engine.answer(Load(model_config(link), SEQ_LEN, BATCH))
    link.unlink()
    link.symlink_to(saved[1])
    second = engine.answer(Load(model_config(link), SEQ_LEN, BATCH))
    assert second["reused"] is False
    assert second["weights_sha256"] != first["weights_sha256"]


def test_the_same_files_in_new_places_are_reused_and_still_watched(
    model: Path, saved: tuple[Path, Path]
) -> None:
    engine = LocalEngine()
    engine.answer(Load(model_config(model), SEQ_LEN, BATCH))
    whole = sums(engine)
    renamed_over(model, saved[0])
    assert engine.answer(Load(model_config(model), SEQ_LEN, BATCH))["reused"] is True
    assert sums(engine) == whole
    assert "baseline_changed" in sums(engine, lambda: in_place(model, saved[1]))
