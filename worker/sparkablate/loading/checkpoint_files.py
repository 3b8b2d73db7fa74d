"""A model directory's files, looked at before transformers reads any: true causes, one choice of weights.

Runs and bakes read the weights that ``weights_of`` chooses; its order is transformers' own.
"""

from __future__ import annotations

import json
import os
import stat
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from sparkablate.errors import SparkablateError

#: What may hold the weights, the first that is there is read: (file, whether it is an index of others).
WEIGHTS = (
    ("model.safetensors", False),
    ("model.safetensors.index.json", True),
    ("pytorch_model.bin", False),
    ("pytorch_model.bin.index.json", True),
)
#: What other programs call weights; beside those that are read they are named, alone they are refused.
OTHER_WEIGHTS = ("*.safetensors", "pytorch_model*.bin", "consolidated*.pth", "*.gguf", "*.h5", "*.msgpack")
#: Read as JSON objects wherever they are: transformers passes over some that are broken, in silence.
OBJECTS = (
    "config.json",
    "generation_config.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    *(name for name, is_index in WEIGHTS if is_index),
)
#: No configuration or index is larger; the index of a 1.6 T mixture has 15 MB.
OBJECT_BYTES = 256 << 20
#: Of what may be read: a link that leads nowhere would make a file absent in silence.
READ_SUFFIXES = (".json", ".safetensors", ".bin", ".model", ".jinja", ".txt", ".py")
ADAPTER = "adapter_config.json"
ADAPTER_WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")


@dataclass(frozen=True)
class Weights:
    """The files that hold the weights, in the order in which transformers reads them. ``weight_map``: the
    index's tensor → file, empty without one. ``unread``: names of other weights beside them."""

    directory: Path
    files: tuple[Path, ...]
    weight_map: dict[str, str]
    unread: tuple[str, ...]

    @property
    def safetensors(self) -> bool:
        return self.files[0].suffix == ".safetensors"


@dataclass(frozen=True)
class Held:
    """A tensor as a file holds it. ``dtype`` as the file's format names it; ``bytes`` on disk."""

    shape: tuple[int, ...]
    dtype: str
    bytes: int


def check_files(directory: Path) -> None:
    """Raises ``load_failed``, naming the file, for what would block or mislead a reader: no regular files,
    links that lead nowhere, JSON that is broken."""
    for folder in (directory, directory / "additional_chat_templates"):
        if folder.is_dir():
            for path in sorted(folder.iterdir()):
                _check_kind(path)
    for name in OBJECTS:
        if (path := directory / name).is_file():
            read_object(path)


def require_config(directory: Path) -> Path:
    """The directory's config.json. Raises ``model_not_found`` without one, ``load_failed`` for an adapter."""
    path = directory / "config.json"
    if os.path.lexists(path):
        _check_kind(path)
        return path
    if (adapter := _adapter_alone(directory)) is not None:
        raise adapter
    raise SparkablateError("model_not_found", f"{directory} is not a model directory: it has no config.json")


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file. Raises ``load_failed`` with the file's name and what is wrong."""
    try:
        if path.stat().st_size > OBJECT_BYTES:
            raise failed(path, f"it has {path.stat().st_size} bytes: that is too many for a configuration")
        content = path.read_bytes()
    except OSError as error:
        raise failed(path, f"it cannot be read: {error.strerror or error}") from error
    if content.startswith(b"\xef\xbb\xbf"):
        raise failed(path, "it begins with a byte order mark; save it as UTF-8 without one")
    try:
        found = json.loads(content.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise failed(path, f"it is not UTF-8 (byte {error.start}); save it as UTF-8") from error
    except RecursionError as error:
        raise failed(path, "it is nested too deeply") from error
    except ValueError as error:
        raise failed(path, f"it is no JSON: {error}" if content.strip() else "it is empty") from error
    if not isinstance(found, dict):
        raise failed(path, f"it holds {_kind(found)}, not an object")
    return found


def weights_of(directory: Path) -> Weights:
    """Raises ``load_failed`` where there are none, or an index that names what is not there."""
    present = {name for name, _ in WEIGHTS if (directory / name).is_file()}
    named = config_names_weights(directory)
    chosen = named or next((name for name, _ in WEIGHTS if name in present), None)
    others = {path.name for pattern in OTHER_WEIGHTS for path in directory.glob(pattern)}
    if distributed := sorted(name for name in others if name.startswith("shard-")):
        raise SparkablateError(
            "load_failed",
            f"{directory} holds a distributed checkpoint ({distributed[0]} …): save the model with "
            "save_pretrained from one process first",
        )
    if chosen is None:
        raise _no_weights(directory, sorted(others))
    weight_map: dict[str, str] = {}
    if chosen.endswith(".index.json"):
        weight_map = _weight_map(directory / chosen)
        files = tuple(directory / name for name in sorted(set(weight_map.values())))
    else:
        files = (directory / chosen,)
    read = {chosen, *weight_map.values()}
    unread = sorted((others | present) - read - set(ADAPTER_WEIGHTS))
    return Weights(directory, files, weight_map, tuple(unread))


def config_names_weights(directory: Path) -> str | None:
    """The file or index that config.json names instead of the usual ones (transformers' own key)."""
    name = read_object(directory / "config.json").get("transformers_weights")
    if name is None:
        return None
    path = directory / "config.json"
    if not isinstance(name, str) or not name.endswith((".safetensors", ".safetensors.index.json")):
        raise failed(path, f"transformers_weights {name!r} is not a safetensors file or index")
    _named(path, "transformers_weights", name)
    return name


def headers(weights: Weights) -> dict[str, dict[str, Held]]:
    """Tensor → file name → what the safetensors file holds of it.

    Raises ``load_failed`` with the file's name for one that is cut off or damaged.
    """
    found: dict[str, dict[str, Held]] = {}
    for path in weights.files:
        name = name_in(weights.directory, path)
        for tensor, held in header(path).items():
            found.setdefault(tensor, {})[name] = held
    for tensor, name in weights.weight_map.items():
        if tensor not in found:
            raise failed(
                weights.directory / name, f"the index says that it holds {tensor!r}, and it does not"
            )
    return found


def header(path: Path) -> dict[str, Held]:
    """Tensor → what a safetensors file holds of it. Raises ``load_failed``."""
    try:
        with path.open("rb") as stream:
            size = os.fstat(stream.fileno()).st_size
            length = _header_length(path, stream.read(8), size)
            described = json.loads(stream.read(length).decode("utf-8"))
        described.pop("__metadata__", None)
        found = {
            tensor: Held(tuple(one["shape"]), one["dtype"], one["data_offsets"][1] - one["data_offsets"][0])
            for tensor, one in described.items()
        }
        end = 8 + length + max((one["data_offsets"][1] for one in described.values()), default=0)
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError) as error:
        raise failed(path, f"its safetensors header is damaged: {error}") from error
    except OSError as error:
        raise failed(path, f"it cannot be read: {error.strerror or error}") from error
    if size < end:
        raise failed(path, f"it is cut off: {size} of {end} bytes")
    try:
        with safe_open(path, framework="pt"):
            return found
    except SafetensorError as error:
        raise failed(path, f"it is not a valid safetensors file: {error}") from error


def _header_length(path: Path, first: bytes, size: int) -> int:
    if size == 0:
        raise failed(path, "it is empty: 0 bytes")
    if first.startswith(b"version "):
        raise failed(path, "it is a Git LFS pointer, not the weights; run 'git lfs pull' in the directory")
    if len(first) < 8:
        raise failed(path, f"it is cut off: {size} of at least 8 bytes")
    length = int(struct.unpack("<Q", first)[0])
    if length > size - 8:
        raise failed(path, f"it is cut off, or no safetensors file: {size} of at least {length + 8} bytes")
    return length


def failed(path: Path, what: str) -> SparkablateError:
    return SparkablateError("load_failed", f"{path}: {what}")


def _check_kind(path: Path) -> None:
    try:
        mode = path.stat().st_mode
    except OSError as error:
        if path.suffix not in READ_SUFFIXES:
            return
        what = "a link that leads nowhere" if path.is_symlink() else "unreadable"
        raise failed(path, f"it is {what} ({error.strerror})") from error
    if stat.S_ISDIR(mode):
        if path.suffix in (".json", ".safetensors", ".bin", ".model", ".jinja"):
            raise failed(path, "it is a directory, and a file is expected")
    elif not stat.S_ISREG(mode):
        raise failed(path, "it is not a regular file (but a pipe, socket or device)")


def _weight_map(path: Path) -> dict[str, str]:
    index = read_object(path)
    weight_map = index.get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise failed(path, f"its weight_map is {_kind(weight_map)}: expected an object, tensor → file")
    if not isinstance(index.get("metadata"), dict):
        raise failed(path, 'it has no metadata object, which transformers needs; add "metadata": {}')
    suffix = ".safetensors" if path.name.endswith(".safetensors.index.json") else ".bin"
    for tensor, name in weight_map.items():
        if not isinstance(name, str) or not name.endswith(suffix):
            raise failed(
                path, f"its weight_map says that {tensor!r} is in {name!r}, which is no {suffix} file"
            )
    for name in sorted(set(weight_map.values())):
        shard = _named(path, "its weight_map", name)
        _check_kind(shard) if shard.exists() or shard.is_symlink() else None
        if not shard.is_file():
            raise failed(path, f"it names {name}, which is not there")
    return {tensor: Path(name).as_posix() for tensor, name in weight_map.items()}


def name_in(directory: Path, path: Path) -> str:
    """What an index in the directory calls the file: an absolute path where it lies elsewhere."""
    return (path.relative_to(directory) if path.is_relative_to(directory) else path).as_posix()


def _named(path: Path, what: str, name: str) -> Path:
    """The file that a model's file names, which may lie anywhere, as transformers reads it."""
    if "\0" in name:
        raise failed(path, f"{what} names {name!r}, which no file can have as its name")
    return path.parent / name


def _no_weights(directory: Path, others: list[str]) -> SparkablateError:
    if (adapter := _adapter_alone(directory)) is not None:
        return adapter
    told = f"; what is there, {', '.join(others[:4])}, is not read" if others else ""
    wanted = ", ".join(name for name, _ in WEIGHTS)
    return SparkablateError("load_failed", f"{directory} holds no weights: none of {wanted}{told}")


def _adapter_alone(directory: Path) -> SparkablateError | None:
    if not has_adapter(directory):
        return None
    return SparkablateError(
        "load_failed",
        f"{directory} holds an adapter (PEFT) without its base model: merge it first (load it with PEFT, "
        "then merge_and_unload() and save_pretrained), and give the merged directory",
    )


def has_adapter(directory: Path) -> bool:
    return any((directory / name).is_file() for name in (ADAPTER, *ADAPTER_WEIGHTS))


def _kind(value: Any) -> str:
    kinds = {dict: "an object", list: "a list", str: "a string", bool: "a truth value", type(None): "nothing"}
    if isinstance(value, dict) and not value:
        return "empty"
    return kinds.get(type(value), "a number")
