"""The model that is swept: what it is called, what it is known by, and what is proved of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from sparkablate.anatomy.wrappers import unwrapped
from sparkablate.arguments import described
from sparkablate.edits.blocks import is_edited
from sparkablate.engines.loaded import Files, Loaded, proved
from sparkablate.errors import SparkablateError
from sparkablate.loading.in_memory import Origin, origin_of, strangers_hooks, tokenizer_sha256
from sparkablate.loading.model_files import ModelFiles
from sparkablate.loading.open import OpenedModel
from sparkablate.loading.tensors import digest_tensors, require_whole
from sparkablate.progress import Progress

#: What a config's `model.name` says of an object: `sparkablate run` refuses it by this.
IN_MEMORY = "in-memory:"


@dataclass(frozen=True)
class Subject:
    """``origin`` None: an object of which only its tensors are known."""

    model: nn.Module
    tokenizer: Any
    origin: Origin | None
    tensors: str
    notices: tuple[str, ...]

    @property
    def request(self) -> dict[str, Any]:
        """The config's section `model`."""
        if self.origin is not None:
            return self.origin.request
        config = getattr(self.model, "config", None)
        name = getattr(config, "name_or_path", "") or type(self.model).__name__
        return {
            "name": f"{IN_MEMORY}{name}",
            "revision": None,
            "dtype": str(next(self.model.parameters()).dtype).removeprefix("torch."),
            "device": "auto",
            "device_map": None,
            "attn_implementation": None,
            "threads": None,
            "trust_remote_code": False,
        }

    def proved(self, shape: tuple[int, int], progress: Progress) -> Loaded:
        """Raises what a load does, and ``load_failed`` where the files changed since."""
        files: Files
        if self.origin is None:
            files = _InMemory(self.tensors, tokenizer_sha256(self.tokenizer), _versions(self.model))
            source, directory, revision = self.request["name"], Path(), None
        else:
            source, directory, revision = self.origin.source, self.origin.directory, self.origin.revision
            files = ModelFiles(directory, self.tokenizer, self.origin.before, progress)
        opened = OpenedModel(self.model, self.tokenizer, source, directory, revision, self.notices)
        return proved(self.request, opened, files, shape, progress)


def subject_of(model: Any, tokenizer: Any) -> Subject:
    """Raises ``usage`` for what is no model, is in training mode, or has open edits."""
    if isinstance(model, str):
        raise SparkablateError(
            "usage", f"model: {model!r} is a name; load it first: model, tokenizer = load_model({model!r})"
        )
    if isinstance(model, tuple):
        raise SparkablateError(
            "usage", "model: a pair was given; load_model() returns two: model, tokenizer = load_model(...)"
        )
    if not isinstance(model, nn.Module):
        raise SparkablateError("usage", f"model: a transformers model is wanted, not {described(model)}")
    if not callable(tokenizer) or isinstance(tokenizer, nn.Module):
        raise SparkablateError(
            "usage", f"tokenizer: the model's tokenizer is wanted, not {described(tokenizer)}"
        )
    inner = unwrapped(model)
    if inner.training:
        raise SparkablateError(
            "usage", "model: it is in training mode, where dropout is random; call model.eval()"
        )
    if is_edited(inner):
        raise SparkablateError("usage", "sweep() measures the unedited model: call it outside applied()")
    require_whole(inner, "sweep()")
    tensors = digest_tensors(inner)
    hooks = strangers_hooks(inner)
    notices = (
        (f"{len(hooks)} modules have hooks or another forward pass ({hooks[0]}): they act in every pass",)
        if hooks
        else ()
    )
    return Subject(inner, tokenizer, origin_of(inner, tokenizer, tensors), tensors, notices)


@dataclass
class _InMemory:
    """What `ModelFiles` is of files."""

    weights_sha256: str
    tokenizer_sha256: str
    versions: Callable[[], list[int]]

    def __post_init__(self) -> None:
        self._before = self.versions()

    def check(self) -> None:
        if self.versions() != self._before:
            raise SparkablateError(
                "baseline_changed", "a parameter was written to while the model was measured; sweep it again"
            )

    def unchanged(self, progress: Progress) -> bool:
        return self.versions() == self._before

    def to_wire(self) -> dict[str, Any]:
        return {"directory": "", "entries_sha256": "", "files": []}


def _versions(model: nn.Module) -> Callable[[], list[int]]:
    return lambda: [
        tensor._version for tensor in (*model.parameters(), *model.buffers()) if not tensor.is_inference()
    ]
