"""A directory of links that transformers reads as the model's own index says.

Of a tensor that two shards hold transformers takes the last one's, whatever the index says; and where PEFT is
installed it applies an adapter that lies beside the model. Neither is in the view.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from sparkablate.errors import SparkablateError
from sparkablate.loading import bin_files, folders, offload
from sparkablate.loading.checkpoint_files import ADAPTER, ADAPTER_WEIGHTS, Held, Weights, has_adapter

#: Holds what the index takes from another shard than transformers would; its name sorts behind all others.
LAST_SHARD = "~as-the-index-says"
#: What transformers calls the weights of each format.
STEMS = {"safetensors": "model", "bin": "pytorch_model"}


def contested(weights: Weights, found: Mapping[str, Mapping[str, Held]]) -> dict[str, str]:
    """Tensor → the file that the index names, where transformers would read another file's.

    Raises ``load_failed`` for a tensor that two files hold and that the index does not name.
    """
    wanted: dict[str, str] = {}
    for tensor, holders in found.items():
        if len(holders) == 1:
            continue
        named = weights.weight_map.get(tensor)
        if named is None or named not in holders:
            raise SparkablateError(
                "load_failed",
                f"{weights.directory}: {' and '.join(sorted(holders))} both hold {tensor}, and the index "
                "does not say which of them to use",
            )
        if named != max(holders):
            wanted[tensor] = named
    return wanted


def needed(weights: Weights, wanted: Mapping[str, str]) -> bool:
    return bool(wanted) or has_adapter(weights.directory)


def make(weights: Weights, wanted: Mapping[str, str]) -> str:
    """The view of the directory, to be taken away with ``folders.remove`` when nothing reads it any more.

    Raises ``load_failed`` where it cannot be made.
    """
    directory = weights.directory
    try:
        view = Path(folders.make(offload.root()))
        for path in directory.iterdir():
            if path.name not in (ADAPTER, *ADAPTER_WEIGHTS):
                (view / path.name).symlink_to(path.resolve())
        if wanted or any(name.startswith((os.sep, "..")) for name in weights.weight_map.values()):
            _write_index(view, weights, wanted)
    except OSError as error:
        raise SparkablateError(
            "load_failed",
            f"{directory} is read through a directory of links in {offload.root()}, which cannot be created "
            f"({error}); set SPARKABLATE_HOME to another place",
        ) from error
    return str(view)


def _write_index(view: Path, weights: Weights, wanted: Mapping[str, str]) -> None:
    """With one more, last shard of what is wanted; files that lie elsewhere have absolute paths."""
    end = "safetensors" if weights.safetensors else "bin"
    last, index = f"{LAST_SHARD}.{end}", view / f"{STEMS[end]}.{end}.index.json"
    if wanted:
        tensors = {tensor: _read(weights.directory / name, tensor) for tensor, name in wanted.items()}
        if weights.safetensors:
            save_file(tensors, view / last, metadata={"format": "pt"})
        else:
            torch.save(tensors, view / last)
    places = {
        tensor: str((weights.directory / name).resolve()) if name.startswith("..") else name
        for tensor, name in weights.weight_map.items()
    }
    weight_map = {**places, **dict.fromkeys(wanted, last)}
    index.unlink()
    index.write_text(json.dumps({"metadata": {}, "weight_map": weight_map}), encoding="utf-8")


def _read(path: Path, tensor: str) -> Tensor:
    if path.suffix == ".bin":
        return bin_files.read(path)[tensor].clone()
    with safe_open(path, framework="pt") as reader:
        return reader.get_tensor(tensor)
