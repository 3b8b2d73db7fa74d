"""Directories that are no model: each is refused with its own code and its file's name, and runs nothing."""

from __future__ import annotations

import http.server
import json
import os
import pickle
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import threading
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import model_directory
import pytest
import torch
from safetensors.torch import load_file, save_file

import sparkablate
from sparkablate.engines.local import LocalEngine
from sparkablate.engines.requests import Inspect, Load
from sparkablate.errors import SparkablateError

Change = Callable[[Path], None]
#: A hang is a failure by cause: nothing here reads what blocks. The alarm only ends the test.
ALARM_S = 600


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return model_directory.save(tmp_path_factory.mktemp("whole"))


@pytest.fixture(scope="module")
def sharded(tmp_path_factory: pytest.TempPathFactory, whole: Path) -> Path:
    directory = tmp_path_factory.mktemp("sharded") / "model"
    shutil.copytree(whole, directory)
    tensors = load_file(directory / "model.safetensors")
    (directory / "model.safetensors").unlink()
    names = sorted(tensors)
    parts = [names[: len(names) // 2], names[len(names) // 2 :]]
    weight_map = {}
    for number, part in enumerate(parts):
        file = f"model-{number}.safetensors"
        save_file({name: tensors[name] for name in part}, directory / file, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(part, file)
    index = {"metadata": {}, "weight_map": weight_map}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index))
    return directory


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("SPARKABLATE_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    signal.alarm(ALARM_S)
    yield
    signal.alarm(0)


class Planted:
    """A pickle that leaves a file behind where it is run."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch ran",)


def text(name: str, content: str | bytes) -> Change:
    raw = content if isinstance(content, bytes) else content.encode()
    return lambda directory: (directory / name).write_bytes(raw) and None


def config(**changes: Any) -> Change:
    def change(directory: Path) -> None:
        path = directory / "config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))

    return change


def without(name: str, *keys: str) -> Change:
    def change(directory: Path) -> None:
        path = directory / name
        if keys:
            held = json.loads(path.read_text())
            path.write_text(json.dumps({key: value for key, value in held.items() if key not in keys}))
        else:
            path.unlink()

    return change


def index(**changes: Any) -> Change:
    def change(directory: Path) -> None:
        path = directory / "model.safetensors.index.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))

    return change


def names(file: Any) -> Change:
    """The index names another file for everything."""

    def change(directory: Path) -> None:
        path = directory / "model.safetensors.index.json"
        held = json.loads(path.read_text())
        path.write_text(json.dumps({**held, "weight_map": dict.fromkeys(held["weight_map"], file)}))

    return change


def instead(name: str, make: Callable[[Path], Any]) -> Change:
    def change(directory: Path) -> None:
        path = directory / name
        if path.is_file():
            path.unlink()
        make(path)

    return change


def cut(name: str, keep: int) -> Change:
    def change(directory: Path) -> None:
        path = directory / name
        path.write_bytes(path.read_bytes()[:keep])

    return change


def as_bin(save: Callable[[Path, dict[str, Any]], Any]) -> Change:
    def change(directory: Path) -> None:
        tensors = load_file(directory / "model.safetensors")
        (directory / "model.safetensors").unlink()
        save(directory / "pytorch_model.bin", tensors)

    return change


def header(change_it: Callable[[dict[str, Any]], Any]) -> Change:
    """Another safetensors header before the same data."""

    def change(directory: Path) -> None:
        path = directory / "model.safetensors"
        raw = path.read_bytes()
        (length,) = struct.unpack("<Q", raw[:8])
        held = json.loads(raw[8 : 8 + length])
        changed = json.dumps(change_it(held) or held).encode()
        path.write_bytes(struct.pack("<Q", len(changed)) + changed + raw[8 + length :])

    return change


def first(held: dict[str, Any], **changes: Any) -> None:
    name = next(name for name in held if name != "__metadata__")
    held[name] = {**held[name], **changes}


def pickled(protocol: int) -> Change:
    return as_bin(lambda path, tensors: path.write_bytes(pickle.dumps(Planted(), protocol)))


def zipped(protocol: int) -> Change:
    """torch's own format around the same pickle."""

    def save(path: Path, tensors: dict[str, Any]) -> None:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("archive/data.pkl", pickle.dumps(Planted(), protocol))
            archive.writestr("archive/version", "3")

    return as_bin(save)


def fewer_rows(directory: Path) -> None:
    """The head is another shape than config.json says."""
    tensors = load_file(directory / "model.safetensors")
    tensors["lm_head.weight"] = tensors["lm_head.weight"][:-1].clone()
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})


#: What is wrong → (change, code, words of the message).
WHOLE: dict[str, tuple[Change, str, str]] = {
    "no config": (without("config.json"), "model_not_found", "no config.json"),
    "empty config": (text("config.json", ""), "load_failed", "config.json: it is empty"),
    "config is a list": (text("config.json", "[]"), "load_failed", "config.json: it holds a list"),
    "config is a number": (text("config.json", "3"), "load_failed", "config.json: it holds a number"),
    "config is a string": (text("config.json", '"x"'), "load_failed", "config.json: it holds a string"),
    "config is null": (text("config.json", "null"), "load_failed", "config.json: it holds nothing"),
    "config is cut off": (
        text("config.json", '{"model_type": "lla'),
        "load_failed",
        "config.json: it is no JSON",
    ),
    "config in UTF-16": (
        text("config.json", "{}".encode("utf-16")),
        "load_failed",
        "config.json: it is not UTF-8",
    ),
    "config with a BOM": (
        text("config.json", b"\xef\xbb\xbf{}"),
        "load_failed",
        "config.json: it begins with a byte",
    ),
    "config of bytes": (text("config.json", b"\xff\xfe\x00"), "load_failed", "config.json: it is not UTF-8"),
    "config nested deeply": (
        text("config.json", '{"a":' + "[" * 100_000 + "]" * 100_000 + "}"),
        "load_failed",
        "config.json: it is nested too deeply",
    ),
    "config is a directory": (
        instead("config.json", Path.mkdir),
        "load_failed",
        "config.json: it is a directory",
    ),
    "config is a pipe": (
        instead("config.json", os.mkfifo),
        "load_failed",
        "config.json: it is not a regular file",
    ),
    "config links nowhere": (
        instead("config.json", lambda path: path.symlink_to("nothing")),
        "load_failed",
        "config.json: it is a link that leads nowhere",
    ),
    "config links to itself": (
        instead("config.json", lambda path: path.symlink_to(path.name)),
        "load_failed",
        "config.json: it is a link that leads nowhere",
    ),
    "no model_type": (
        without("config.json", "model_type"),
        "load_failed",
        "config.json: it has no model_type",
    ),
    "model_type unknown": (config(model_type="no-such"), "load_failed", "config.json.*no-such"),
    "model_type is a list": (config(model_type=["llama"]), "load_failed", "config.json: its model_type is"),
    "model_type is no language model": (config(model_type="vit"), "architecture_unsupported", "vit"),
    "no layers": (config(num_hidden_layers=0), "load_failed", "0 layers"),
    "a thousand million layers": (
        config(num_hidden_layers=10**9),
        "load_failed",
        "num_hidden_layers is 1000000000",
    ),
    "layers in words": (config(num_hidden_layers="three"), "load_failed", "config.json"),
    "layers negative": (config(num_hidden_layers=-3), "load_failed", "layers|config.json"),
    "no heads": (config(num_attention_heads=0), "load_failed", "config.json.*ZeroDivisionError"),
    "heads NaN": (config(num_attention_heads=float("nan")), "load_failed", "config.json"),
    "width of a thousand million": (config(hidden_size=10**9), "load_failed", "the weights take .* GiB"),
    "vocabulary of 10^12": (config(vocab_size=10**12), "load_failed", "the weights take .* GiB"),
    "vocabulary negative": (config(vocab_size=-1), "load_failed", "config.json"),
    "dtype of no kind": (config(dtype="os"), "load_failed", "config.json"),
    "epsilon in words": (config(rms_norm_eps="small"), "load_failed", "config.json|does not run"),
    "activation unknown": (config(hidden_act="gleu"), "load_failed", "gleu"),
    "rope of no kind": (config(rope_parameters={"rope_type": "spiral"}), "load_failed", "config.json|spiral"),
    "rope a list": (config(rope_parameters=[1]), "load_failed", "config.json"),
    "code without trust": (
        config(
            auto_map={"AutoConfig": "code.Config", "AutoModelForCausalLM": "code.Model"}, model_type="mine"
        ),
        "load_failed",
        "code of its own .auto_map., which was not run; set trust_remote_code=True",
    ),
    "quantised by nobody": (config(quantization_config={"quant_method": "nobody"}), "load_failed", "nobody"),
    "quantisation a number": (
        config(quantization_config=7),
        "load_failed",
        "config.json|quantization_config",
    ),
    "weights elsewhere": (
        config(transformers_weights="../m.safetensors"),
        "load_failed",
        "m.safetensors: it cannot be read",
    ),
    "no weights": (without("model.safetensors"), "load_failed", "holds no weights"),
    "weights are empty": (
        text("model.safetensors", b""),
        "load_failed",
        "model.safetensors: it is empty: 0 bytes",
    ),
    "weights are cut off": (cut("model.safetensors", 5000), "load_failed", r"cut off: 5000 of \d{5,} bytes"),
    "weights of 3 bytes": (cut("model.safetensors", 3), "load_failed", "cut off: 3 of at least 8 bytes"),
    "weights of noise": (
        text("model.safetensors", b"\xff" * 64),
        "load_failed",
        "model.safetensors: it is cut off, or no",
    ),
    "weights are a LFS pointer": (
        text("model.safetensors", "version https://git-lfs.github.com/spec/v1\n"),
        "load_failed",
        "git lfs pull",
    ),
    "weights are a directory": (
        instead("model.safetensors", Path.mkdir),
        "load_failed",
        "model.safetensors: it is a dir",
    ),
    "weights are a pipe": (
        instead("model.safetensors", os.mkfifo),
        "load_failed",
        "model.safetensors: it is not a regular",
    ),
    "weights link to a device": (
        instead("model.safetensors", lambda path: path.symlink_to("/dev/zero")),
        "load_failed",
        "model.safetensors: it is not a regular file",
    ),
    "header is a list": (header(lambda held: [1]), "load_failed", "model.safetensors: .*header is damaged"),
    "header of another dtype": (
        header(lambda held: first(held, dtype="F99")),
        "load_failed",
        "model.safetensors: it is not a valid safetensors file",
    ),
    "header with a negative shape": (
        header(lambda held: first(held, shape=[-1, 2])),
        "load_failed",
        "model.safetensors: it is not a valid safetensors file",
    ),
    "header with offsets in words": (
        header(lambda held: first(held, data_offsets=["a", "b"])),
        "load_failed",
        "model.safetensors: its safetensors header is damaged",
    ),
    "another shape than configured": (
        fewer_rows,
        "load_failed",
        r"lm_head.weight: \[257, 32\] .* \[258, 32\]",
    ),
    "pickle with code": (pickled(2), "load_failed", r"pytorch_model.bin: .*names code: \w+.system"),
    "pickle of protocol 4": (pickled(4), "load_failed", "pytorch_model.bin: .*may hold code"),
    "pickle in a zip": (zipped(2), "load_failed", r"pytorch_model.bin: .*names code: \w+.system"),
    "pickle of protocol 4 in a zip": (zipped(4), "load_failed", "pytorch_model.bin: .*may hold code"),
    "pickle of a list": (
        as_bin(lambda path, tensors: torch.save([1], path)),
        "load_failed",
        "bin: it holds list",
    ),
    "pickle of nested dicts": (
        as_bin(lambda path, tensors: torch.save({"model": tensors}, path)),
        "load_failed",
        "bin: its entry 'model' is dict",
    ),
    "bin is empty": (as_bin(lambda path, tensors: path.write_bytes(b"")), "load_failed", "bin: it is empty"),
    "bin of noise": (
        as_bin(lambda path, tensors: path.write_bytes(b"\x80noise" * 99)),
        "load_failed",
        "bin: it is cut",
    ),
    "tokenizer is broken": (text("tokenizer.json", "{"), "load_failed", "the tokenizer"),
    "tokenizer is empty": (text("tokenizer.json", ""), "load_failed", "the tokenizer"),
    "tokenizer is a list": (text("tokenizer.json", "[]"), "load_failed", "the tokenizer"),
    "tokenizer is a directory": (
        instead("tokenizer.json", Path.mkdir),
        "load_failed",
        "tokenizer.json: it is a dir",
    ),
    "tokenizer is a pipe": (
        instead("tokenizer.json", os.mkfifo),
        "load_failed",
        "tokenizer.json: it is not a regular",
    ),
    "tokenizer config a list": (
        text("tokenizer_config.json", "[]"),
        "load_failed",
        "tokenizer_config.json: it holds",
    ),
    "generation config broken": (
        text("generation_config.json", "{"),
        "load_failed",
        "generation_config.json: it is no",
    ),
    "generation config a pipe": (
        instead("generation_config.json", os.mkfifo),
        "load_failed",
        "generation_config.json",
    ),
    "template is a pipe": (
        instead("chat_template.jinja", os.mkfifo),
        "load_failed",
        "chat_template.jinja: it is no",
    ),
    "an adapter alone": (
        lambda directory: (
            [(directory / name).unlink() for name in ("config.json", "model.safetensors")]
            and text("adapter_config.json", "{}")(directory)
        ),
        "load_failed",
        "an adapter .* merge it first",
    ),
    "a distributed checkpoint": (
        lambda directory: (
            shutil.copy(
                directory / "model.safetensors", directory / "shard-00001-model-00001-of-00002.safetensors"
            )
            and None
        ),
        "load_failed",
        "distributed checkpoint",
    ),
}
SHARDED: dict[str, tuple[Change, str, str]] = {
    "index is a list": (
        text("model.safetensors.index.json", "[]"),
        "load_failed",
        "index.json: it holds a list",
    ),
    "index is cut off": (
        text("model.safetensors.index.json", "{"),
        "load_failed",
        "index.json: it is no JSON",
    ),
    "index without a map": (index(weight_map=None), "load_failed", "index.json: its weight_map is nothing"),
    "index with a list": (index(weight_map=[]), "load_failed", "index.json: its weight_map is a list"),
    "index with an empty map": (index(weight_map={}), "load_failed", "index.json: its weight_map is empty"),
    "index of numbers": (index(weight_map={"a": 1}), "load_failed", "'a' is in 1"),
    "index without metadata": (
        without("model.safetensors.index.json", "metadata"),
        "load_failed",
        "no metadata",
    ),
    "index names a file above": (
        names("../model-0.safetensors"),
        "load_failed",
        "names ../model-0.safetensors, which is not there",
    ),
    "index names an absolute path": (
        names("/etc/x.safetensors"),
        "load_failed",
        "names /etc/x.safetensors, which is not there",
    ),
    "index names no weights": (names("config.json"), "load_failed", "no .safetensors file"),
    "index names itself": (names("model.safetensors.index.json"), "load_failed", "no .safetensors file"),
    "index names what is not there": (
        names("gone.safetensors"),
        "load_failed",
        "names gone.safetensors, which is not",
    ),
    "index names another tensor": (
        index(weight_map={"no.such.tensor": "model-0.safetensors"}),
        "load_failed",
        "'no.such.tensor', and it does not",
    ),
    "a shard is missing": (
        without("model-1.safetensors"),
        "load_failed",
        "names model-1.safetensors, which is not",
    ),
    "a shard is empty": (text("model-1.safetensors", b""), "load_failed", "model-1.safetensors: it is empty"),
    "a shard is cut off": (
        cut("model-1.safetensors", 4000),
        "load_failed",
        r"model-1.* 4000 of \d{5,} bytes",
    ),
    "a shard is a pipe": (
        instead("model-1.safetensors", os.mkfifo),
        "load_failed",
        "model-1.safetensors: it is not a reg",
    ),
}


def load(directory: Path) -> None:
    LocalEngine().answer(Load(model_directory.model_config(directory), 8, 2))


def check(source: Path, tmp_path: Path, change: Change, code: str, words: str) -> None:
    directory = tmp_path / "model"
    shutil.copytree(source, directory)
    change(directory)
    with pytest.raises(SparkablateError, match=words) as caught:
        load(directory)
    assert caught.value.code == code, caught.value.message
    assert str(directory) in caught.value.message or code == "architecture_unsupported"
    assert "weights_only" not in caught.value.message
    assert not (tmp_path / "ran").exists(), "code in the model ran"


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("name", WHOLE)
def test_a_bad_directory_is_refused_by_the_file_s_name(name: str, whole: Path, tmp_path: Path) -> None:
    check(whole, tmp_path, *WHOLE[name])


@pytest.mark.parametrize("name", SHARDED)
def test_a_bad_index_or_shard_is_refused_by_name(name: str, sharded: Path, tmp_path: Path) -> None:
    check(sharded, tmp_path, *SHARDED[name])


def test_what_is_changed_above_is_otherwise_a_model(whole: Path, sharded: Path) -> None:
    for directory in (whole, sharded):
        load(directory)


@pytest.mark.parametrize("name", ["no heads", "dtype of no kind", "config is a pipe", "config nested deeply"])
def test_the_configuration_alone_is_refused_alike(name: str, whole: Path, tmp_path: Path) -> None:
    change, code, words = WHOLE[name]
    directory = tmp_path / "model"
    shutil.copytree(whole, directory)
    change(directory)
    with pytest.raises(SparkablateError, match=words) as caught:
        LocalEngine().answer(Inspect(model_directory.model_config(directory), meta=True))
    assert caught.value.code == code


# ── The hub ──────────────────────────────────────────────────────────────────────────────────
class Hub(http.server.BaseHTTPRequestHandler):
    """Answers everything with one status, as the Hugging Face hub says it."""

    status = 404
    code: str | None = None

    def answer(self) -> None:
        self.send_response(self.status)
        if self.code is not None:
            self.send_header("X-Error-Code", self.code)
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_GET = do_HEAD = answer

    def log_message(self, format: str, *args: Any) -> None: ...


ASK = """
import sys
from sparkablate.loading.configuration import load_config
from sparkablate.errors import SparkablateError
try:
    load_config("owner/name", revision=None, trust_remote_code=False)
except SparkablateError as error:
    print(error.code, error.message)
"""


def asked(tmp_path: Path, **environment: str) -> str:
    """What a process of its own says: the hub's address is read once, at import."""
    told = {**os.environ, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_DISABLE_TELEMETRY": "1", **environment}
    told |= {"NO_PROXY": "*", "no_proxy": "*", "PYTHONPATH": str(Path(sparkablate.__file__).parents[1])}
    done = subprocess.run([sys.executable, "-c", ASK], env=told, capture_output=True, text=True, check=True)
    return done.stdout


@pytest.mark.parametrize(
    ("status", "code", "words"),
    [
        (401, "GatedRepo", "is gated: accept its terms"),
        (403, "GatedRepo", "is gated: accept its terms"),
        (404, "RepoNotFound", "there is no such repository"),
        (401, None, "does not give it: .*401"),
        (404, "RevisionNotFound", "has no such revision"),
        (400, None, "does not give it: Bad request"),
    ],
)
def test_what_the_hub_refuses_is_told_apart(
    status: int, code: str | None, words: str, tmp_path: Path
) -> None:
    handler = type("Answer", (Hub,), {"status": status, "code": code})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as hub:
        threading.Thread(target=hub.serve_forever, daemon=True).start()
        said = asked(tmp_path, HF_ENDPOINT=f"http://127.0.0.1:{hub.server_address[1]}")
        hub.shutdown()
    assert said.startswith("model_not_found owner/name")
    assert re.search(words, said), said


def test_no_network_is_told_from_a_missing_model(tmp_path: Path) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # bound and not listening: refused at once
        said = asked(tmp_path, HF_ENDPOINT=f"http://127.0.0.1:{unused.getsockname()[1]}")
    assert said.startswith("model_not_found owner/name")
    assert "cannot be reached (no network?)" in said
    assert "HF_HUB_OFFLINE is set" in asked(tmp_path, HF_HUB_OFFLINE="1")
