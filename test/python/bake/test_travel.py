"""What of a source directory a bake takes along: files by kind, links by where they lead."""

from __future__ import annotations

import json
import os
from pathlib import Path

import model_directory
import pytest
from transformers import AutoTokenizer

from sparkablate import AblationSpec, SparkablateError
from sparkablate.bake import bake, live, travel

READ = frozenset(("config.json", "model.safetensors", "model.safetensors.index.json"))


def made(directory: Path, *names: str) -> Path:
    for name in names:
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    return directory


def found(source: Path, *omitted: Path) -> travel.Travelling:
    return travel.find(source, READ, omitted)


TRAVELS = (
    "tokenizer.json",
    "tokenizer.model",
    "tekken.json",
    "spiece.model",
    "sentencepiece.bpe.model",
    "qwen.tiktoken",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "bpe.codes",
    "source.spm",
    "chat_template.jinja",
    "chat_template.json",
    "additional_chat_templates/tool_use.jinja",
    "SYSTEM_PROMPT.txt",
    "LICENSE",
    "LICENCE.md",
    "NOTICE",
    "USE_POLICY.md",
    "preprocessor_config.json",
    "processor_config.json",
    "video_preprocessor_config.json",
    "generation_config.json",
    "original/params.json",
    "original/tokenizer.model",
    "images/figure 1 (é).png",
    "two\nlines.txt",
    ".gitattributes",
)
STAYS = {
    "pytorch_model.bin": travel.WEIGHTS,
    "pytorch_model.bin.index.json": travel.WEIGHTS,
    "consolidated.safetensors": travel.WEIGHTS,
    "original/consolidated.00.pth": travel.WEIGHTS,
    "model-Q4_K_M.GGUF": travel.WEIGHTS,
    "onnx/model.onnx": travel.WEIGHTS,
    "tf_model.h5": travel.WEIGHTS,
    "flax_model.msgpack": travel.WEIGHTS,
    "optimizer.pt": travel.TRAINING,
    "training_args.bin": travel.TRAINING,
    "rng_state_0.pth": travel.TRAINING,
    "adapter_model.safetensors": travel.WEIGHTS,
    "adapter_config.json": travel.ADAPTER,
    "modeling_own.py": travel.CODE,
    "tokenization_own.py": travel.CODE,
    "example.ipynb": travel.CODE,
    "tokens.pkl": travel.PICKLE,
    ".env": travel.HIDDEN,
    ".git/": travel.HIDDEN,
    ".cache/": travel.HIDDEN,
    "__pycache__/": travel.CODE,
    "checkpoint-500/": travel.ANOTHER_MODEL,
}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    inside = (".git/config", ".cache/huggingface/x.lock", "__pycache__/x.txt")
    nested = ("checkpoint-500/config.json", "checkpoint-500/model.safetensors", "checkpoint-500/vocab.json")
    plain = [name for name in STAYS if not name.endswith("/")]
    return made(tmp_path / "model", *READ, *TRAVELS, *plain, *inside, *nested)


def test_every_kind_travels_or_is_named(source: Path, tmp_path: Path) -> None:
    what = found(source)
    assert set(what.files) == set(TRAVELS)
    assert what.left == STAYS
    out = tmp_path / "out"
    out.mkdir()
    assert set(travel.copy(what, out, lambda: None)) == set(TRAVELS)
    for name in TRAVELS:
        assert (out / name).read_text() == name
    assert {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()} == set(TRAVELS)


def test_a_note_names_what_stays_and_why() -> None:
    assert travel.note({}) == []
    left = {"a.py": travel.CODE, "b\n.py": travel.CODE, "m.gguf": travel.WEIGHTS}
    assert travel.note(left) == [
        f"left behind in the source: a.py, 'b\\n.py' (code); m.gguf ({travel.WEIGHTS})"
    ]
    many = {f"{number}.py": travel.CODE for number in range(travel.SHOWN + 3)}
    assert " and 3 more (code)" in travel.note(many)[0]


def test_names_that_the_result_takes_itself(tmp_path: Path) -> None:
    plain = found(made(tmp_path / "a", "README.md", "sparkablate_bake.json"))
    assert set(plain.files) == {"README.source.md", "sparkablate_bake.source.json"}
    again = found(made(tmp_path / "b", "README.md", "README.source.md", "docs/README.md"))
    assert {name: path.name for name, path in again.files.items()} == {
        "README.source.md": "README.source.md",
        "README.source.source.md": "README.md",
        "docs/README.md": "README.md",
    }
    assert set(found(made(tmp_path / "c", "readme.MD")).files) == {"readme.source.MD"}


def test_links(tmp_path: Path) -> None:
    secret = made(tmp_path, "secret/id_rsa", "secret/tokenizer.json", "secret/tool.jinja") / "secret"
    source = made(tmp_path / "model", "LICENSE.real")
    for name, end in {
        "LICENSE": source / "LICENSE.real",
        "notes.txt": secret / "id_rsa",
        "tokenizer.json": secret / "tokenizer.json",
        "extra": secret,
        "loop": source,
        "additional_chat_templates": secret,
        "vocab.json": tmp_path / "nowhere",
        "ring.txt": source / "ring.txt",
    }.items():
        (source / name).symlink_to(end)
    what = found(source)
    templates = "additional_chat_templates"
    assert set(what.files) == {"LICENSE", "LICENSE.real", "tokenizer.json", f"{templates}/tool.jinja"}
    assert what.left == {
        "notes.txt": travel.LINK_OUT,
        "extra/": travel.LINK_TO_FOLDER,
        "loop/": travel.LINK_TO_FOLDER,
        f"{templates}/id_rsa": travel.LINK_OUT,
        f"{templates}/tokenizer.json": travel.LINK_OUT,
        "vocab.json": travel.DANGLING,
        "ring.txt": travel.DANGLING,
    }
    out = tmp_path / "out"
    out.mkdir()
    travel.copy(what, out, lambda: None)
    assert not any(path.is_symlink() for path in out.rglob("*"))
    # A hub snapshot is links into the blobs beside it, whatever the files are.
    cache = made(tmp_path / "models--a--b", "blobs/0123")
    snapshot = cache / "snapshots" / "c0ffee"
    snapshot.mkdir(parents=True)
    (snapshot / "USE_POLICY.md").symlink_to("../../blobs/0123")
    assert set(found(snapshot).files) == {"USE_POLICY.md"}


def test_what_is_no_file_is_never_opened(tmp_path: Path) -> None:
    source = made(tmp_path / "model", "LICENSE")
    os.mkfifo(source / "tokenizer.json")  # whoever opened it would wait for ever
    with (source / "data.json").open("wb") as stream:
        stream.truncate(travel.MAX_FILE_BYTES + 1)
    bad = os.fsdecode(b"caf\xe9.txt")
    (source / bad).touch()
    what = found(source)
    assert set(what.files) == {"LICENSE"}
    assert what.left == {
        "tokenizer.json": travel.SPECIAL,
        "data.json": travel.LARGE,
        r"caf\xe9.txt": travel.UNNAMED,
    }
    json.dumps(dict(what.left)).encode()


def test_a_target_inside_the_source_is_not_part_of_it(tmp_path: Path) -> None:
    source = made(tmp_path / "model", "LICENSE", "out/LICENSE", ".out.sparkablate-bake/lock")
    what = found(source, source / "out", source / ".out.sparkablate-bake")
    assert set(what.files) == {"LICENSE"}
    assert what.left == {}


@pytest.fixture
def _short_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "BLOCKS", 2)
    monkeypatch.setattr(live, "LENGTH", 32)


@pytest.mark.usefixtures("_short_text")
def test_a_bake_says_so_in_words_and_record(tmp_path: Path) -> None:
    source = model_directory.save(tmp_path / "mo\ndel é")
    made(source, "README.md", "SYSTEM_PROMPT.txt", "modeling_own.py", "additional_chat_templates/rag.jinja")
    out = source / "baked" / "out"  # inside the source
    report = bake(str(source), AblationSpec("mlp", 0), out, threads=1)
    assert (out / "SYSTEM_PROMPT.txt").read_text() == "SYSTEM_PROMPT.txt"
    assert (out / "README.source.md").read_text() == "README.md"
    assert "left behind in the source: modeling_own.py (code)" in (out / "README.md").read_text()
    assert "left behind in the source: modeling_own.py (code)" in report["notes"]
    assert json.loads((out / "sparkablate_bake.json").read_text())["left_behind"] == {
        "modeling_own.py": "code"
    }
    assert "additional_chat_templates/rag.jinja" in report["files"]
    tokenizer = AutoTokenizer.from_pretrained(out)
    assert tokenizer("to be")["input_ids"] == AutoTokenizer.from_pretrained(source)("to be")["input_ids"]
    assert tokenizer.chat_template == {"rag": "additional_chat_templates/rag.jinja"}
    # Its own record makes the next bake replace it; the earlier one is not taken for a part of the source.
    again = bake(str(source), AblationSpec("mlp", 0), out, force=True, threads=1)
    assert again["files"].keys() == report["files"].keys()


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    source = made(tmp_path / "model", "LICENSE")
    what = found(source)
    (source / "LICENSE").unlink()
    out = tmp_path / "out"
    out.mkdir()
    with pytest.raises(SparkablateError, match=r"LICENSE cannot be read") as caught:
        travel.copy(what, out, lambda: None)
    assert caught.value.code == "input_missing"
