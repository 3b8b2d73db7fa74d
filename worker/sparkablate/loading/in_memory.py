"""A model and a tokenizer as Python objects: which they are, and whether they are what `load_model` gave."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from sparkablate.errors import SparkablateError

#: Bytes that a tensor is hashed in at a time: of one on another device so much is copied.
CHUNK_BYTES = 64 << 20


def tensors_sha256(model: nn.Module) -> str:
    """Of every parameter and buffer with its name, shape and dtype; about 1 GB/s a thread."""
    named = [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]
    once = {id(tensor): tensor for _, tensor in named}
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        digests = dict(zip(once, pool.map(_digest, once.values()), strict=True))
    lines = sorted(f"{name} {list(t.shape)} {t.dtype} {digests[id(t)]}" for name, t in named)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _digest(tensor: Tensor) -> str:
    digest = hashlib.sha256()
    for chunk in _chunks(tensor.detach()):
        bytes_of: Any = chunk.cpu().contiguous().view(torch.uint8).numpy()
        digest.update(bytes_of)
    return digest.hexdigest()


def _chunks(tensor: Tensor) -> Iterator[Tensor]:
    if tensor.is_meta:
        raise SparkablateError(
            "load_failed", "a parameter is on the meta device, where it has no values: load the weights first"
        )
    if tensor.numel() == 0:
        return
    flat = tensor.reshape(-1) if tensor.dim() > 0 else tensor.reshape(1)
    yield from flat.split(max(1, CHUNK_BYTES // max(1, flat.element_size())))


def tokenizer_sha256(tokenizer: Any) -> str:
    """Of what a tokenizer does: its state, special tokens and template."""
    if tokenizer is None:
        return hashlib.sha256(b"none").hexdigest()
    backend = getattr(tokenizer, "backend_tokenizer", None)
    state = {
        "class": type(tokenizer).__name__,
        "state": backend.to_str() if backend is not None else sorted(tokenizer.get_vocab().items()),
        "special": {key: str(value) for key, value in tokenizer.special_tokens_map.items()},
        "adds": [getattr(tokenizer, name, None) for name in ("add_bos_token", "add_eos_token")],
        "template": getattr(tokenizer, "chat_template", None),
    }
    return hashlib.sha256(json.dumps(state, sort_keys=True, default=str).encode()).hexdigest()


@dataclass(frozen=True)
class Origin:
    """What `load_model` was asked for, the files that it read, and what it gave."""

    request: dict[str, Any]
    source: str
    directory: Path
    revision: str | None
    #: As the files lay before they were read: what `ModelFiles` takes.
    before: dict[Path, Any]
    tensors: str
    tokenizer: str


_ORIGINS: WeakKeyDictionary[nn.Module, Origin] = WeakKeyDictionary()


def remember(request: dict[str, Any], opened: Any, before: dict[Path, Any]) -> None:
    """``opened``: an `OpenedModel`."""
    _ORIGINS[opened.model] = Origin(
        request,
        opened.source,
        opened.directory,
        opened.revision,
        before,
        tensors_sha256(opened.model),
        tokenizer_sha256(opened.tokenizer),
    )


def origin_of(model: nn.Module, tokenizer: Any, tensors: str) -> Origin | None:
    """Where the two come from, if they are what `load_model` gave and unchanged since, ``tensors`` (the
    model's digest now) included; None elsewhere."""
    origin = _ORIGINS.get(model)
    if origin is None or origin.tensors != tensors or origin.tokenizer != tokenizer_sha256(tokenizer):
        return None
    return None if strangers_hooks(model) else origin


def strangers_hooks(model: nn.Module) -> list[str]:
    """Modules whose forward pass something else changes: their names."""
    return [
        name or "the model"
        for name, module in model.named_modules()
        if module._forward_hooks or module._forward_pre_hooks or "forward" in vars(module)
    ]
