"""The tensors of a model that is in memory: what they are called together, and whether they are all of it."""

from __future__ import annotations

import hashlib
import json
import os
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor, nn

from sparkablate.errors import SparkablateError


def require_whole(model: nn.Module, what: str) -> None:
    """Raises SparkablateError("usage") where the tensors alone are not the model: with adapters that are not
    merged, or weights that are not in memory. `what`: e.g. "bake()"."""
    adapted = [name for name, module in model.named_modules() if _package(module) == "peft"]
    if adapted or getattr(model, "_hf_peft_config_loaded", False):
        where = f" (at {adapted[0]})" if adapted and adapted[0] else ""
        raise SparkablateError(
            "usage",
            f"{what} needs the model's own weights, and this one has adapters{where}: call its "
            "merge_and_unload() first, and give what that returns",
        )
    away = [name for name, tensor in model.state_dict().items() if tensor.is_meta]
    if away:
        raise SparkablateError(
            "usage",
            f"{what} needs every weight in memory, and {away[0]} is not there; load the model without "
            "offloading, or give the name of its directory",
        )


def digest_tensors(model: Any) -> str:
    """sha256 over the names, dtypes, shapes and bytes of a model's state dict, in any order; about 1 GB/s a
    core."""
    named = model.state_dict()
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        entries = sorted(pool.map(_entry, named, named.values()))
    return hashlib.sha256(json.dumps(entries).encode()).hexdigest()


def _entry(name: str, tensor: Tensor) -> tuple[str, str, list[int], str]:
    data = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
    return name, str(tensor.dtype), list(tensor.shape), hashlib.sha256(data.numpy().data).hexdigest()


def _package(module: nn.Module) -> str:
    return type(module).__module__.partition(".")[0]
