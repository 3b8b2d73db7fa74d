"""Directions from `.pt` files, which are pickles: read with torch's restricted loader, after a look at the
sizes that the file claims."""

from __future__ import annotations

import io
import math
import pickle
import zipfile
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sparkablate.edits.functions import UNIT_TOLERANCE
from sparkablate.errors import SparkablateError

#: Most bytes of all parts of a `.pt` together, unpacked: a direction has kilobytes.
MAX_UNPACKED_BYTES = 64 << 20
MAX_ENTRIES = 1 << 20
#: CVE-2026-24747: before it, `weights_only=True` could be made to run code.
SAFE_TORCH = (2, 10)


class Direction(NamedTuple):
    """vector: float32 [d_model] of unit length; norm: the length that was divided out, or was recorded."""

    vector: Tensor
    norm: float
    layer: int | None


def unpickle_direction(data: bytes) -> Direction:
    """From a `.pt` file: one tensor, or a dict that holds one (and `layer`, `norm`, other plain values).

    A tensor that is no unit vector is divided by its length, which becomes the norm: adding c times it is
    then adding c times the file's own tensor. Raises SparkablateError("config_invalid").
    """
    held = _load(data)
    facts = held if isinstance(held, dict) else {"direction": held}
    tensors = {name: value for name, value in facts.items() if isinstance(value, Tensor)}
    if len(tensors) != 1:
        raise _invalid(f"holds {len(tensors)} tensors; allowed: one tensor, or a dict with one")
    layer = facts.get("layer")
    if layer is not None and (type(layer) is not int or not 0 <= layer <= 100_000):
        raise _invalid(f"layer is {layer!r:.80}; allowed: a layer number")
    vector, length = divided(next(iter(tensors.values())))
    return Direction(vector, _norm(facts.get("norm"), length), layer)


def _load(data: bytes) -> Any:
    version = tuple(int(part) for part in torch.__version__.split(".")[:2])
    if version < SAFE_TORCH:
        raise _invalid(
            f"a .pt is a pickle, and torch {torch.__version__} may run code in it (CVE-2026-24747); "
            "allowed: torch 2.10 or newer, or a .safetensors file"
        )
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            unpacked = sum(entry.file_size for entry in archive.infolist())
    except zipfile.BadZipFile as error:
        raise _invalid(
            "is no .pt file as torch ≥ 1.6 writes it: it is truncated, or from an older torch"
        ) from error
    if unpacked > MAX_UNPACKED_BYTES:
        raise _invalid(f"unpacks to {unpacked} bytes; allowed: up to {MAX_UNPACKED_BYTES}")
    try:
        return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise SparkablateError(
            "config_invalid",
            "holds more than tensors and plain values, and loading it could run code; allowed: one tensor, "
            "or a dict with one",
            detail=str(error),
        ) from error
    except (RuntimeError, ValueError, KeyError, EOFError, TypeError, AttributeError) as error:
        raise SparkablateError("config_invalid", f"cannot be read: {error}", detail=repr(error)) from error


def divided(tensor: Tensor) -> tuple[Tensor, float]:
    """The vector divided by its length, float32 [d_model], and that length. Raises "config_invalid"."""
    if tensor.layout != torch.strided or not tensor.is_floating_point() or tensor.numel() > MAX_ENTRIES:
        raise _invalid(f"the tensor is {tensor.dtype} {list(tensor.shape)}; allowed: real numbers [d_model]")
    if tensor.numel() < 1 or max(tensor.shape, default=1) != tensor.numel():
        raise _invalid(f"the tensor has the shape {list(tensor.shape)}; allowed: [d_model]")
    vector = tensor.detach().reshape(-1).double()
    length = vector.norm().item()
    if not math.isfinite(length) or length == 0:
        raise _invalid(f"the direction's length is {length}: give finite values that are not all 0")
    is_unit = abs(length - 1) <= UNIT_TOLERANCE  # then its bits are kept: they name it
    return (vector if is_unit else vector / length).float(), length


def _norm(recorded: Any, length: float) -> float:
    is_unit = abs(length - 1) <= UNIT_TOLERANCE
    if recorded is None:
        return 1.0 if is_unit else length
    if type(recorded) not in (int, float) or not (math.isfinite(recorded) and recorded > 0):
        raise _invalid(f"norm is {recorded!r:.80}; allowed: a positive number")
    if not is_unit and abs(recorded - length) > UNIT_TOLERANCE * length:
        raise _invalid(f"records the norm {recorded}, but the direction's length is {length:.6g}")
    return float(recorded)


def _invalid(message: str) -> SparkablateError:
    return SparkablateError("config_invalid", message)
