"""``load_model``: a name becomes a model in evaluation mode, on a device that was proved to work."""

from __future__ import annotations

import os
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from sparkablate.arguments import as_text
from sparkablate.errors import SparkablateError
from sparkablate.loading import folders, in_memory, memory, model_files, numerics, offload
from sparkablate.loading.configuration import (
    build_empty,
    check_trust,
    declared_dtype,
    load_config,
    not_read,
    resolve_source,
)
from sparkablate.loading.weights import Files, check_filled, packing_of, read_model
from sparkablate.printable import printable
from sparkablate.wording import setting

#: Of the total memory, for weights in float32 on a CPU.
FLOAT32_SHARE = 0.4


@dataclass(frozen=True)
class OpenedModel:
    """``directory``: the files that were read; ``revision``: the resolved commit, None for a local one."""

    model: Any
    tokenizer: Any
    source: str
    directory: Path
    revision: str | None
    notices: tuple[str, ...]
    #: What ``dtype: auto`` became, and why; None where a dtype was asked for.
    dtype_reason: str | None = None
    #: Whether layers lie elsewhere and are fetched at every pass.
    offloaded: bool = False


def load_model(
    name: str | os.PathLike[str],
    *,
    revision: str | None = None,
    dtype: str | torch.dtype = "auto",
    device: str | torch.device = "auto",
    device_map: str | None = None,
    attn_implementation: str | None = None,
    threads: int | None = None,
    trust_remote_code: bool = False,
) -> tuple[Any, Any]:
    """Loads a causal language model and its tokenizer (None where it has none).

    Args:
        name: Hugging Face id, local directory, or `builtin:smollm2-135m`.
        revision: commit, branch or tag of a Hugging Face model.
        dtype: "bfloat16", "float16", "float32" (IEEE: TF32 is off), torch's of these names, or "auto": on a
            CPU float32 where the weights then take at most 0.4 of the total memory, else the checkpoint's
            own; bfloat16 where it names none.
        device: "auto" (cuda before mps before cpu), "cuda", "mps" or "cpu", or torch's of these names; a
            small matmul proves it.
        device_map: "auto": layers that the device has no room for go to other GPUs of its kind, to main
            memory, then to disk, with the same bits; None: such a model is refused.
        attn_implementation: as in transformers; None: the model's default.
        threads: CPU threads of torch; None: its default.
        trust_remote_code: runs code from the hub; needs a `revision` that is a commit.

    What a person should know is given as a `UserWarning`. Raises SparkablateError: "model_not_found",
    "environment_missing" (a builtin model that was not set up), "device_unavailable", "load_failed",
    "architecture_unsupported", "config_invalid".
    """
    source = as_text(name)
    before = model_files.settled(model_files.here(resolve_source(source), revision))
    opened = open_model(
        source,
        revision=revision,
        dtype=as_text(dtype),
        device=as_text(device),
        device_map=device_map,
        attn_implementation=attn_implementation,
        threads=threads,
        trust_remote_code=trust_remote_code,
    )
    for notice in opened.notices:
        warnings.warn(printable(notice), stacklevel=2)
    if not opened.offloaded:
        request = {
            "name": source,
            "revision": revision,
            "dtype": str(opened.model.dtype).removeprefix("torch."),
            "device": as_text(device),
            "device_map": device_map,
            "attn_implementation": attn_implementation,
            "threads": threads,
            "trust_remote_code": trust_remote_code,
        }
        in_memory.remember(request, opened, before)
    return opened.model, opened.tokenizer


def open_model(
    name: str,
    *,
    revision: str | None,
    dtype: str,
    device: str,
    threads: int | None,
    device_map: str | None = None,
    attn_implementation: str | None = None,
    trust_remote_code: bool = False,
    may_offload: bool = False,
) -> OpenedModel:
    """``load_model`` with what the worker reports besides.

    ``may_offload``: of weights that do not fit the device the rest stays on disk instead of being refused,
    which gives the same bits and is slow.
    """
    if not isinstance(dtype, str) or dtype not in ("auto", *numerics.DTYPES):
        raise SparkablateError(
            "config_invalid",
            f"{setting('model.dtype')} {dtype!r}: use one of auto, {', '.join(numerics.DTYPES)}",
        )
    source = resolve_source(name)
    check_trust(source, revision, trust_remote_code)  # before the seconds that proving a device takes
    if device_map not in (None, "auto"):
        raise SparkablateError(
            "config_invalid", f"{setting('model.device_map')} {device_map!r}: use auto, or leave it out"
        )
    where = numerics.resolve_device(device)
    numerics.configure(threads)
    common: dict[str, Any] = {"revision": revision, "trust_remote_code": trust_remote_code}
    reason = None
    if dtype == "auto":
        config = load_config(source, **common)
        dtype, why = chosen_dtype(config, where, trust_remote_code)
        reason = f"{setting('model.dtype')} auto is {dtype}: {why}"
        dtype, notices = _proved(where, dtype)
    else:
        dtype, notices = _proved(where, dtype)
        config = load_config(source, **common)
    options: dict[str, Any] = {"dtype": numerics.DTYPES[dtype], "config": config, **common}
    if attn_implementation is not None:
        options["attn_implementation"] = attn_implementation
    needed = _weight_bytes(config, source, numerics.DTYPES[dtype], where, trust_remote_code)
    if needed is None:
        notices.append(f"{source} is quantised: whether it fits in memory was not checked before loading")
    may_offload = may_offload or device_map == "auto"
    offloaded = needed is not None and _beyond(f"{source} in {dtype}", needed, where, may_offload)
    files = Files(Path(source)) if Path(source).is_dir() else None
    memory.limit_allocations(where)
    if offloaded:
        options |= offload.placement(offload.room(where) if device_map is None else offload.rooms(where))
        room = f"{where} has room for {memory.budget(where)}"
        notices.append(f"{source} in {dtype} takes {memory.gib(needed or 0)}, and {room}")
    elif where.type != "cpu":
        # Weights go to the device one by one: no second copy in memory, which a unified-memory machine
        # shares.
        options["device_map"] = {"": where}
    model, directory, found = _read(source, files, options, where)
    if offloaded:
        notices[-1] += f": {offload.places(model)}"
    commit = None if files is not None else getattr(config, "_commit_hash", None) or revision
    tokenizer = _load_tokenizer(source, common)
    return OpenedModel(model, tokenizer, source, directory, commit, (*notices, *found), reason, offloaded)


def chosen_dtype(config: Any, where: torch.device, trust_remote_code: bool) -> tuple[str, str]:
    """What ``dtype: auto`` is for a checkpoint on a device, and why."""
    declared = declared_dtype(config)
    if declared is None:
        own, named = "bfloat16", "the checkpoint names none"
    elif declared not in numerics.DTYPES:
        own, named = "bfloat16", f"the checkpoint's {declared} is none to compute in"
    else:
        own, named = declared, "the checkpoint's own"
    if where.type == "mps" and own == "bfloat16":
        return "float16", f"{named}, with float16 in the place of bfloat16 on MPS"
    if where.type != "cpu":
        return own, named
    count = sum(p.numel() for p in build_empty(config, trust_remote_code=trust_remote_code).parameters())
    needed, total = 4 * count, memory.total_memory()
    figures = f"{memory.gib(needed)} of {memory.gib(total)}"
    if needed <= FLOAT32_SHARE * total:
        return "float32", f"on the CPU its weights take {figures}"
    return own, f"{named}; in float32 its weights would take {figures}"


def _proved(where: torch.device, dtype: str) -> tuple[str, list[str]]:
    """The dtype that the device computes in, proved, and what a person should know of the two."""
    dtype, replaced = numerics.dtype_on(where.type, dtype)
    slow = numerics.slow_first_pass(numerics.describe_device(where))
    numerics.prove(where, numerics.DTYPES[dtype])
    return dtype, [notice for notice in (replaced, slow) if notice is not None]


def _beyond(what: str, needed: int, where: torch.device, may_offload: bool) -> bool:
    """Whether weights of so many bytes do not fit the device and may stay elsewhere. Raises ``load_failed``
    where they may not."""
    if may_offload and where.type != "mps" and not memory.has_room(needed, where):
        return True
    memory.require_room(what, needed, where)
    return False


def _read(
    source: str, files: Files | None, options: dict[str, Any], where: torch.device
) -> tuple[Any, Path, list[str]]:
    """The model in evaluation mode, the directory of its files, and what a person should know of them."""
    folder = options.get("offload_folder")
    packing = packing_of(options["config"])  # as the files say: reading them may change it
    try:
        model, info = read_model(source, files, options["config"], options, where)
        directory = Path(source) if files is not None else _cached(source, options["revision"])
        files = files or _fetched(directory, model)
        if folder is not None:
            offload.keep_while(model, folder)
        notices = [*files.notices(), *check_filled(source, model, info, files, packing)]
    except BaseException:
        if folder is not None:
            folders.remove(folder)
        raise
    model.eval()
    model.requires_grad_(False)
    return model, directory, notices


def _weight_bytes(
    config: Any, source: str, dtype: torch.dtype, where: torch.device, trust_remote_code: bool
) -> int | None:
    """What the weights will take; None for a quantised model whose files are not here yet."""
    if getattr(config, "quantization_config", None) is None:
        return memory.weight_bytes(build_empty(config, trust_remote_code=trust_remote_code), dtype)
    if not Path(source).is_dir():
        return None
    return Files(Path(source)).quantised_bytes(config, dtype, where, trust_remote_code)


def _fetched(directory: Path, model: Any) -> Files:
    """The files that came from the hub. Raises ``load_failed`` for those that transformers reads otherwise
    than their index says: from a directory they are read rightly."""
    files = Files(directory)
    adapted = getattr(model, "_hf_peft_config_loaded", False)
    if files.contested or adapted:
        what = "PEFT applied the adapter beside it" if adapted else f"two shards hold {min(files.contested)}"
        raise SparkablateError("load_failed", f"{what}: load the model from its directory, {directory}")
    return files


def _load_tokenizer(source: str, common: dict[str, Any]) -> Any:
    """The tokenizer, or None where the model's files hold none."""
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(source, **common)
    except Exception as error:  # whatever a tokenizer makes of files that it does not expect
        local = Path(source).is_dir()
        if local and not any(Path(source).glob("*token*")):
            return None
        raise not_read(source, "the tokenizer", error, local=local) from error


def _cached(source: str, revision: str | None) -> Path:
    """The directory that the hub's files were read from."""
    from transformers.utils.hub import cached_file

    return Path(str(cached_file(source, "config.json", revision=revision))).parent
