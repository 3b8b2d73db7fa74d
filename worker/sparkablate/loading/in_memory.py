"""A model and a tokenizer as Python objects: which they are, and whether they are what `load_model` gave."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

from torch import nn

from sparkablate.loading.tensors import digest_tensors


def tokenizer_sha256(tokenizer: Any) -> str:
    """Of what a tokenizer does: its state, special tokens and template."""
    if tokenizer is None:
        return hashlib.sha256(b"none").hexdigest()
    backend = getattr(tokenizer, "backend_tokenizer", None)
    # What the last call padded or cut to is kept there too.
    kept = [] if backend is None else list(json.loads(backend.to_str()).items())
    state = {
        "class": type(tokenizer).__name__,
        "state": [one for one in kept if one[0] not in ("padding", "truncation")]
        or sorted(tokenizer.get_vocab().items()),
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
        digest_tensors(opened.model),
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
