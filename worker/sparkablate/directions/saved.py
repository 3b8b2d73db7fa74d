"""Direction files as `sparkablate direction` writes them: read, and written from Python."""

from __future__ import annotations

import hashlib
import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from sparkablate.anatomy.wrappers import unwrapped
from sparkablate.arguments import as_index, as_number, as_whole, described, numbers, require_path
from sparkablate.directions.files import MAX_UNPACKED_BYTES, divided, unpickle_direction
from sparkablate.directions.find import Candidate
from sparkablate.edits.functions import UNIT_TOLERANCE
from sparkablate.errors import SparkablateError
from sparkablate.proofs.discovery import located
from sparkablate.specs import DirectionSpec
from sparkablate.version import __version__
from sparkablate.wording import flag

TENSOR = "direction"
FORMAT = "sparkablate direction 1"
#: Metadata that `save_direction` writes from its own arguments.
OWN = ("format", "sparkablate", "model", "layer", "position", "method", "norm")


@dataclass(frozen=True, eq=False)
class SavedDirection:
    """What a direction file holds.

    Args:
        vector: float32 [d_model], of unit length.
        norm: the length that was divided out; 1 where the file does not say.
        layer: index of the layer whose stream it was found in; None where the file does not say.
        metadata: all that the file says besides, as texts.
    """

    vector: Tensor
    norm: float
    layer: int | None
    metadata: Mapping[str, str]

    @property
    def sha256(self) -> str:
        """Of the vector's bytes (little-endian float32): what conditions name it by."""
        return hashlib.sha256(self.vector.numpy().astype("<f4").tobytes()).hexdigest()

    def spec(self, op: str, **fields: Any) -> DirectionSpec:
        """The edit with this direction; `fields` are a `DirectionSpec`'s. Without `layers`, "add" acts at the
        file's layer."""
        if op == "add" and self.layer is not None:
            fields = {"layers": (self.layer,), **fields}
        return DirectionSpec(op, self.vector, **{"norm": self.norm, **fields})


def save_direction(
    path: str | os.PathLike[str],
    vector: Any,
    *,
    model: Any = None,
    layer: int | None = None,
    position: int | None = None,
    norm: float | None = None,
    method: str | None = None,
    metadata: Mapping[str, str] | None = None,
    force: bool = False,
) -> SavedDirection:
    """Writes a direction file, which `load_direction`, configs and every `--direction` read.

    Args:
        path: a `.safetensors` file; what is there is replaced only with `force`.
        vector: a tensor, array or list [d_model], divided by its length, which becomes its norm; or a
            `Candidate` of `find_directions`, with its layer, position and norm.
        model: the model that it is of: the object, whose width and depth it must fit, or its name.
        layer: index from 0 of the layer whose stream it was found in.
        position: counted from the prompts' end, 1 is their last token.
        norm: the length that "add" is to use, where the vector is of unit length.
        method: how it was found, in a few words.
        metadata: anything else that is worth keeping, texts by name.
        force: replace an existing file.

    Returns what is in the file now. Raises SparkablateError: "config_invalid" for what is no direction or
    does not fit the model, "usage" for a path that exists or cannot be written.
    """
    target = _target(path, force)
    if isinstance(vector, Candidate):
        layer = vector.layer if layer is None else layer
        position = vector.position if position is None else position
        norm = vector.norm if norm is None else norm
        method = "difference of means" if method is None else method
        vector = vector.vector
    found = numbers(vector)
    if found is None:
        raise SparkablateError(
            "config_invalid",
            f"vector must be a tensor, an array or a list of real numbers, not {described(vector)}",
        )
    # A list's and an array's own numbers are float64.
    unit, length = divided(found if found.is_floating_point() else found.double())
    norm = length if norm is None else as_number("norm", norm)
    layer = None if layer is None else as_index("layer", layer)
    name = _model_name(model, unit, layer)
    facts = {
        "format": FORMAT,
        "sparkablate": __version__,
        "model": name,
        "layer": None if layer is None else str(layer),
        "position": None if position is None else str(-as_whole("position", position, 1, 2**31)),
        "method": _text("method", method),
        "norm": repr(float(norm)),
    }
    if norm <= 0:
        raise SparkablateError("config_invalid", f"norm must be above 0, not {norm}")
    texts = {**_more(metadata), **{key: text for key, text in facts.items() if text is not None}}
    _write(target, save({TENSOR: unit.contiguous()}, texts))
    return SavedDirection(unit, float(norm), layer, texts)


def load_direction(path: str | os.PathLike[str]) -> SavedDirection:
    """Reads a direction file: `.safetensors` with one float32 tensor named "direction", [d_model], of unit
    length; or a `.pt` with one tensor, or a dict that holds one, in which no code is ever run.

    Raises SparkablateError: "input_missing" where there is no such file, "config_invalid" for what is no
    direction.
    """
    require_path("path", path)
    file = Path(os.fspath(path)).expanduser()
    try:
        if not file.is_file():
            what = "is a directory, not a file" if file.is_dir() else "does not exist"
            raise SparkablateError("input_missing", f"{file} {what}")
        if file.stat().st_size > MAX_UNPACKED_BYTES:
            raise SparkablateError("config_invalid", f"{file} is too large for a direction")
        if file.suffix == ".pt":
            return SavedDirection(*unpickle_direction(file.read_bytes()), {})
        return _read(file)
    except SafetensorError as error:
        raise SparkablateError(
            "config_invalid",
            f"{file} cannot be read as safetensors: {error}; it is truncated, or another file",
        ) from error
    except OSError as error:
        raise SparkablateError("input_missing", f"{file} cannot be read: {error}") from error
    except SparkablateError as error:
        if str(file) in error.message:
            raise
        raise SparkablateError(error.code, f"{file}: {error.message}", error.detail) from error


def _read(file: Path) -> SavedDirection:
    with safe_open(file, framework="pt") as reader:
        names = list(reader.keys())
        if names != [TENSOR]:
            held = ", ".join(names[:5]) or "no tensor"
            raise SparkablateError(
                "config_invalid", f'holds {held}, and must hold one tensor named "{TENSOR}"'
            )
        vector, metadata = reader.get_tensor(TENSOR), dict(reader.metadata() or {})
    length = float(vector.double().norm()) if vector.dtype == torch.float32 else math.nan
    if vector.dim() != 1 or not abs(length - 1) <= UNIT_TOLERANCE:
        raise SparkablateError(
            "config_invalid",
            f"the direction is {described(vector)} of length {length:.6g}, and must be float32 [d_model] of "
            "length 1; save it with save_direction()",
        )
    layer, norm = metadata.get("layer"), metadata.get("norm")
    if layer is not None and not re.fullmatch(r"[0-9]{1,6}", layer):
        raise SparkablateError(
            "config_invalid", f"its metadata layer is {layer!r:.80}, and no layer's number"
        )
    return SavedDirection(vector, _norm(norm), None if layer is None else int(layer), metadata)


def _norm(written: str | None) -> float:
    try:
        norm = 1.0 if written is None else float(written)
    except ValueError:
        norm = math.nan
    if not (math.isfinite(norm) and norm > 0):
        raise SparkablateError(
            "config_invalid", f"its metadata norm is {written!r:.80}, and no positive number"
        )
    return norm


def _model_name(model: Any, vector: Tensor, layer: int | None) -> str | None:
    """What the file says of it; raises where the direction does not fit a model object."""
    if not isinstance(model, nn.Module):
        return _text("model", model)
    inner: Any = unwrapped(model)
    sites = located(inner)
    if len(vector) != sites.d_model:
        raise SparkablateError(
            "config_invalid", f"the vector has {len(vector)} entries; the model's width is {sites.d_model}"
        )
    if layer is not None and layer >= sites.n_layers:
        raise SparkablateError(
            "config_invalid", f"layer {layer}: the model has layers 0 to {sites.n_layers - 1}"
        )
    return str(inner.config.name_or_path) or type(inner).__name__


def _text(name: str, value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value
    raise SparkablateError("config_invalid", f"{name} must be a text, not {described(value)}")


def _more(metadata: Any) -> dict[str, str]:
    if metadata is None:
        return {}
    texts = isinstance(metadata, Mapping) and all(
        isinstance(one, str) for pair in metadata.items() for one in pair
    )
    if not texts:
        raise SparkablateError("config_invalid", f"metadata must be texts by name, not {described(metadata)}")
    if taken := sorted(set(metadata) & set(OWN)):
        raise SparkablateError(
            "config_invalid", f"metadata {taken[0]!r} is written by save_direction() itself; use another name"
        )
    return dict(metadata)


def _target(path: Any, force: Any) -> Path:
    require_path("path", path)
    target = Path(os.fspath(path)).expanduser()
    if target.suffix != ".safetensors":
        raise SparkablateError(
            "usage", f"path must end in .safetensors, as direction files do, not {target.name!r}"
        )
    if not isinstance(force, bool):
        raise SparkablateError("usage", f"force must be True or False, not {described(force)}")
    if os.path.lexists(target) and not force:
        raise SparkablateError("usage", f"{target} exists; pass {flag('force', True)} to replace it")
    return target


def _write(target: Path, data: bytes) -> None:
    """Whole or not at all."""
    if not target.parent.is_dir():
        raise SparkablateError("usage", f"{target} cannot be written: there is no directory {target.parent}")
    temporary = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        try:
            temporary.write_bytes(data)
            temporary.replace(target)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise SparkablateError("usage", f"{target} cannot be written: {error}") from error
