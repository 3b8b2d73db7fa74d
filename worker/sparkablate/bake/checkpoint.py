"""A model directory's weights as they are on disk: names, shapes and dtypes first, tensors one at a time."""

from __future__ import annotations

import re
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from sparkablate.anatomy.architectures import Architecture
from sparkablate.anatomy.sites import SiteMap
from sparkablate.anatomy.towers import is_wrapper, prefixes_on_disk
from sparkablate.catalog import refusal
from sparkablate.errors import SparkablateError
from sparkablate.loading import bin_files
from sparkablate.loading.checkpoint_files import name_in, weights_of

#: safetensors' names of dtypes → torch's.
SAFETENSORS_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
#: What edits can be stated for; anything narrower is quantised.
FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)


@dataclass(frozen=True)
class Entry:
    """One tensor of the checkpoint."""

    file: str
    shape: tuple[int, ...]
    dtype: torch.dtype


class Checkpoint:
    """The weights of a directory, safetensors or (mapped, with torch's restricted loader) .bin files.

    Use as a context manager. `entries` is in the order of the files. Raises "load_failed" where there are
    none, or where they are in a format that holds no plain tensors.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        weights = weights_of(directory)
        self.files = weights.files
        self._weight_map = weights.weight_map
        self._stack = ExitStack()
        self._open: dict[str, Any] = {}
        self.entries: dict[str, Entry] = {}

    @property
    def names(self) -> frozenset[str]:
        """Files that a result has its own of: those that were read, their index, and the configuration."""
        index = "model.safetensors" if self.files[0].suffix == ".safetensors" else "pytorch_model.bin"
        read = (name_in(self.directory, path) for path in self.files)
        return frozenset(("config.json", f"{index}.index.json", *read))

    def __enter__(self) -> Checkpoint:
        for path in self.files:
            if path.suffix == ".safetensors":
                self._read_safetensors(path)
            else:
                self._read_pickle(path)
        return self

    def __exit__(self, *_: object) -> None:
        self._open.clear()
        self._stack.close()

    def read(self, name: str) -> Tensor:
        """The tensor, on the CPU, as it is on disk, in memory of its own."""
        held = self._open[self.entries[name].file]
        return held[name].clone() if isinstance(held, dict) else held.get_tensor(name)

    def _read_safetensors(self, path: Path) -> None:
        reader = self._stack.enter_context(safe_open(path, framework="pt"))
        file = name_in(self.directory, path)
        self._open[file] = reader
        for name in reader.keys():  # noqa: SIM118 (not a dict)
            part = reader.get_slice(name)
            dtype = SAFETENSORS_DTYPES.get(part.get_dtype())
            if dtype is None:
                raise _quantised(f"{path.name}: {name} is {part.get_dtype()}")
            self._add(name, Entry(file, tuple(part.get_shape()), dtype))

    def _read_pickle(self, path: Path) -> None:
        tensors = bin_files.read(path)
        file = name_in(self.directory, path)
        self._open[file] = tensors
        for name, tensor in tensors.items():
            self._add(name, Entry(file, tuple(tensor.shape), tensor.dtype))

    def _add(self, name: str, entry: Entry) -> None:
        """Of a tensor that two shards hold, the one that the index names, as the model has it."""
        if self._weight_map.get(name, entry.file) == entry.file:
            self.entries[name] = entry


def check_plain(config: Any, entries: dict[str, Entry]) -> None:
    """Refuses quantised sources: an edit of packed numbers is not an edit of the weights."""
    if getattr(config, "quantization_config", None) is not None:
        method = _field(config.quantization_config, "quant_method")
        raise _quantised(f"quantization_config: {method}")
    for name, entry in entries.items():
        if name.endswith(".weight") and entry.dtype not in FLOATS:
            raise _quantised(f"{name} is {entry.dtype}")


def _field(config: Any, name: str) -> Any:
    return config.get(name) if isinstance(config, dict) else getattr(config, name, None)


def _quantised(how: str) -> SparkablateError:
    code, sentence = refusal("bake", "quantised")
    return SparkablateError(code, f"{sentence} ({how})")


@dataclass(frozen=True)
class Names:
    """How this checkpoint names the tensors of the text stack and the head.

    Old checkpoints leave the model's own name out ("h.0…"), wrappers turn it round
    ("language_model.model.layers.0…").
    """

    stack: str
    layers: str
    head: str

    def layer(self, index: int) -> str:
        return f"{self.layers}{index}."

    def in_layer(self, index: int, pattern: str, entries: dict[str, Entry]) -> list[str]:
        """Tensors of the layer that the pattern names; `*` is an expert's number."""
        expression = re.compile(
            re.escape(self.layer(index) + pattern).replace(r"\*", r"\d+"),
        )
        return [name for name in entries if expression.fullmatch(name)]

    def layer_of(self, name: str) -> tuple[int, str] | None:
        """(index, rest) of a tensor that belongs to a layer of the text stack."""
        found = re.match(re.escape(self.layers) + r"(\d+)\.", name)
        return None if found is None else (int(found[1]), name[found.end() :])


def find_names(row: Architecture, sites: SiteMap, model: Any, entries: dict[str, Entry]) -> Names:
    """Finds the text stack's prefix. Raises "architecture_unsupported" where not exactly one fits.

    A wrapper's checkpoint names its tower in its own way, also where the text model alone was loaded of it.
    """
    known = [] if is_wrapper(model.config) else _prefixes(row)
    fitting = [
        prefix for prefix in known if any(name.startswith(f"{prefix}{row.layers}.0.") for name in entries)
    ]
    prefixes = fitting or _found_prefixes(row, sites, entries)
    if len(prefixes) != 1:
        raise SparkablateError(
            "architecture_unsupported",
            f"the checkpoint names its layers in no way that is known for {model.config.model_type!r}: "
            f"{len(prefixes)} prefixes fit{''.join(f', {prefix!r}' for prefix in prefixes)}",
        )
    stack = prefixes[0]
    return Names(stack, f"{stack}{row.layers}.", _head_name(row, sites, model, stack, entries))


def _head_name(row: Architecture, sites: SiteMap, model: Any, stack: str, entries: dict[str, Entry]) -> str:
    """The unembedding's: as stored; where a tied one is not, as the stack is, beside the inner model."""
    if stack in _prefixes(row) and not is_wrapper(model.config):
        return row.head_tensor
    stored = [name for name in entries if name == "lm_head.weight" or name.endswith(".lm_head.weight")]
    if len(stored) == 1:
        return stored[0]
    if stack == "language_model.model.":
        return "language_model.lm_head.weight"
    return next(f"{name}.weight" for name, module in model.named_modules() if module is sites.head)


def _prefixes(row: Architecture) -> list[str]:
    parts = row.stack.split(".")
    return [".".join(parts[start:]) + "." if parts[start:] else "" for start in range(len(parts) + 1)]


def _found_prefixes(row: Architecture, sites: SiteMap, entries: dict[str, Entry]) -> list[str]:
    """What stands before the layers of which the last has a tensor that makes a write and is as wide as the
    stream: another tower's are of another kind, width or number."""
    last = f"{row.layers}.{sites.n_layers - 1}."
    made = {f"{row.attention_output}.weight": -1 if _is_conv1d(sites) else -2} | {
        one.weight: one.output_axis for _, projections in row.outputs for one in projections
    }
    found = set()
    for pattern, axis in made.items():
        expression = re.compile(r"(.*?\.)??" + re.escape(last + pattern).replace(r"\*", r"\d+"))
        for name, entry in entries.items():
            fits = expression.fullmatch(name)
            if fits and len(entry.shape) >= 2 and entry.shape[axis] == sites.d_model:
                found.add(fits[1] or "")
    found = (found & set(prefixes_on_disk(sites.stack_path, wrapper=True))) or found
    if len(found) > 1:
        beyond = f"{row.layers}.{sites.n_layers}."
        found = {prefix for prefix in found if not any(name.startswith(prefix + beyond) for name in entries)}
    return sorted(found)


def _is_conv1d(sites: SiteMap) -> bool:
    return any(hasattr(layer.attention_output, "nx") for layer in sites.layers)
