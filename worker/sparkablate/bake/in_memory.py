"""Bakes a model object: its weights as they stand are written down first, and the bake reads those."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from sparkablate.anatomy.architectures import row_for
from sparkablate.anatomy.wrappers import unwrapped
from sparkablate.arguments import as_text, described
from sparkablate.bake import rules
from sparkablate.bake.baking import Baking, Source, Telling
from sparkablate.bake.cuts import NOTHING, Wish, removals
from sparkablate.bake.foresight import computes
from sparkablate.bake.place import check_target, require_space, resolve_target
from sparkablate.edits.blocks import is_open
from sparkablate.edits.means import MeanKey
from sparkablate.errors import SparkablateError, first_line
from sparkablate.loading import folders, numerics, offload
from sparkablate.loading.configuration import resolve_source
from sparkablate.loading.open import open_model
from sparkablate.loading.tensors import digest_tensors, require_whole
from sparkablate.manager import AblationManager
from sparkablate.progress import Progress
from sparkablate.proofs import self_test
from sparkablate.proofs.discovery import located
from sparkablate.specs import Spec, canonical, validate
from sparkablate.wording import flag

#: The base model's name in what is written of such a bake.
NAME = "in memory"


@dataclass(frozen=True)
class Wanted:
    """See `sparkablate.bake.bake`."""

    specs: Sequence[Spec]
    out: Path
    dtype: Any
    prune: bool
    force: bool
    means: Mapping[MeanKey, Tensor] | None
    source: Any
    tokenizer: Any
    threads: int | None
    wish: Wish = NOTHING
    timed: bool = False


def bake_object(given: nn.Module, wanted: Wanted, progress: Progress) -> dict[str, Any]:
    """Raises what `sparkablate.bake.bake` does."""
    model: Any = unwrapped(given)
    require_whole(model, "bake()")
    files = _other_files(wanted)
    target = resolve_target(wanted.out)
    check_target(target, files, wanted.force)
    numerics.configure(wanted.threads)
    with _evaluating(model):
        sites = located(model)
        if is_open(sites):
            raise SparkablateError(
                "usage", "bake() writes the unedited model's weights: call it outside applied()"
            )
        _check(model, wanted, canonical(wanted.specs))
        refused = self_test.require(model, self_test.run(model, sites))
        with _written_down(model, wanted.tokenizer) as directory:
            written = _written(wanted.dtype, wanted.specs)
            live = AblationManager(model, sites.refusing(refused))
            if written == "float32" and model.dtype != torch.float32:
                live = _in_float32(model, directory, refused, wanted.threads)
            if wanted.means is not None:
                live.set_means(wanted.means)
            source = Source(
                NAME, None, directory, wanted.tokenizer, live, sha256=digest_tensors(model), files=files
            )
            telling = Telling(wanted.timed)
            baking = Baking(
                source, wanted.specs, wanted.out, written, wanted.prune, wanted.force, wanted.wish, telling
            )
            del live, source
            try:
                return baking.run(progress, _never)
            except SparkablateError as error:
                raise _explained(error, model) from error


def _explained(error: SparkablateError, model: nn.Module) -> SparkablateError:
    """What stock transformers computes from the configuration, a cast of the object has rounded."""
    kept = model.state_dict().keys()
    cast = [
        name
        for name, buffer in model.named_buffers()
        if name not in kept and buffer.dtype in (torch.bfloat16, torch.float16)
    ]
    if error.code != "certificate_failed" or not cast:
        return error
    return SparkablateError(
        error.code,
        f"{error.message}. The object's {cast[0]}, which is in no checkpoint, is in "
        f"{str(model.get_buffer(cast[0]).dtype).removeprefix('torch.')}, as model.to(dtype) makes it and "
        "stock transformers does not: load the model with its dtype instead of casting it",
        error.detail,
    )


def _never() -> None:
    """Nobody stops it."""


def _check(model: nn.Module, wanted: Wanted, specs: Sequence[Spec]) -> None:
    """What needs no file is refused before one is written."""
    sites = located(model)
    validate(specs, sites)
    row = row_for(model)
    assert row is not None
    rules.check(specs, row, wanted.prune)
    removals(specs, wanted.wish, sites, rules.deleted(specs, wanted.prune))


def _other_files(wanted: Wanted) -> Path | None:
    """The directory that `source` names."""
    if wanted.source is None:
        return None
    if wanted.tokenizer is not None:
        raise SparkablateError(
            "usage",
            "give tokenizer or source, not both: the tokenizer's files would be taken from either of them",
        )
    name = as_text(wanted.source)
    if isinstance(name, str) and name.startswith("builtin:"):
        name = resolve_source(name)
    if not isinstance(name, str) or not (Path(name).expanduser() / "config.json").is_file():
        raise SparkablateError(
            "usage", f"source must be a model's directory, with its config.json, not {described(name)}"
        )
    return Path(name).expanduser().resolve()


def _written(dtype: Any, specs: Sequence[Spec]) -> Literal["source", "float32"]:
    """ "auto": as it stands where the edit is exact in every dtype, float32 where numbers are computed."""
    if dtype == "auto":
        return "float32" if any(map(computes, specs)) else "source"
    if dtype not in ("source", "float32"):
        raise SparkablateError("usage", f"{flag('dtype')} {described(dtype)}: use auto, float32 or source")
    return "float32" if dtype == "float32" else "source"


def _in_float32(model: Any, directory: Path, refused: Sequence[str], threads: int | None) -> AblationManager:
    """The source cast to the dtype of the result, in which the live side has to run."""
    device = numerics.device_of(model).type
    opened = open_model(
        str(directory), revision=None, dtype="float32", device=device, threads=threads, may_offload=True
    )
    return AblationManager(opened.model, located(opened.model).refusing(refused))


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Without dropout; afterwards each module trains or does not, as before."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


@contextmanager
def _written_down(model: Any, tokenizer: Any) -> Iterator[Path]:
    """A directory with the model as its own `save_pretrained` writes it, and the tokenizer if there is one,
    until the block ends. Raises "load_failed" where it cannot be written, "disk_full"."""
    root = offload.root()
    root.mkdir(parents=True, exist_ok=True)
    require_space(root, sum(tensor.nbytes for tensor in model.state_dict().values()))
    folder = folders.make(root)
    directory = Path(folder) / "model"
    try:
        _save(model, directory)
        if tokenizer is not None:
            if not callable(getattr(tokenizer, "save_pretrained", None)):
                raise SparkablateError("usage", f"tokenizer must be a tokenizer, not {described(tokenizer)}")
            _save(tokenizer, directory)
        yield directory
    finally:
        folders.remove(folder)


def _save(what: Any, directory: Path) -> None:
    save: Callable[[Path], Any] | None = getattr(what, "save_pretrained", None)
    if save is None:
        raise SparkablateError(
            "load_failed",
            f"{type(what).__name__} has no save_pretrained(), so its weights have no file names",
        )
    try:
        save(directory)
    except (ValueError, TypeError, RuntimeError, NotImplementedError, OSError, SafetensorError) as error:
        raise SparkablateError(
            "load_failed", f"{type(what).__name__}.save_pretrained(): {first_line(error)}", detail=repr(error)
        ) from error
