"""What people give to Python's public functions, held against what is wanted, before torch trips over it."""

from __future__ import annotations

import math
import operator
import os
from collections.abc import Collection, Iterable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .errors import SparkablateError

_PLAIN = bool | int | float | str | bytes | None


def described(value: Any) -> str:
    """A value in a message: itself where it is short and plain."""
    if isinstance(value, list | tuple) and not all(isinstance(one, _PLAIN | list | tuple) for one in value):
        return f"a {type(value).__name__} of {len(value)}, the first of type {type(value[0]).__name__}"
    if isinstance(value, _PLAIN | list | tuple):
        return f"{value!r:.80}"
    if isinstance(value, type):
        return f"the class {value.__name__}"
    if isinstance(value, Tensor):
        kind = str(value.dtype).removeprefix("torch.")
        return (
            f"{'an' if kind[0] == 'i' else 'a'} {kind} tensor of shape {list(value.shape)} on {value.device}"
        )
    if isinstance(value, np.ndarray):
        kind = str(value.dtype)
        return f"{'an' if kind[0] == 'i' else 'a'} {kind} array of shape {list(value.shape)}"
    if isinstance(value, torch.dtype | torch.device):
        return str(value)
    if isinstance(value, Mapping):
        return f"a {type(value).__name__} with the keys {', '.join(map(repr, list(value)[:5]))}"[:120]
    return f"a value of type {type(value).__name__}"


def as_index(name: str, value: Any) -> int:
    """An index from 0. A number that is no whole one would name another layer or head once it is cut off."""
    number = _whole(value)
    if number is None:
        raise _invalid(f"{name} is an index from 0, not {described(value)}")
    if number < 0:
        raise _invalid(f"{name} {number} is negative; {name}s count from 0")
    return number


def as_indices(name: str, value: Any) -> tuple[int, ...]:
    """Different indices from 0, in order. A text is none, though its characters may be digits."""
    given = None
    if isinstance(value, Iterable) and not isinstance(value, str | bytes | Mapping):
        given = _elements(value)
    found = [] if given is None else [_whole(one) for one in given]
    numbers = [number for number in found if number is not None]
    if given is None or len(numbers) < len(found):
        raise _invalid(f"{name} are indices from 0, e.g. {name}=(0,), not {described(value)}")
    if len(set(numbers)) != len(numbers) or any(number < 0 for number in numbers):
        raise _invalid(f"{name} {numbers} must be different and not negative")
    return tuple(sorted(numbers))


def as_number(name: str, value: Any) -> float:
    """A finite number; of a tensor or an array with one element that element."""
    if not isinstance(value, bool | str | bytes):
        try:
            found = value if type(value) in (int, float) else float(value)
            if math.isfinite(found):
                return found
        except (TypeError, ValueError, OverflowError, RuntimeError):
            pass  # said below
    raise _invalid(f"{name} must be a finite number, not {described(value)}")


def as_choice(name: str, value: Any, allowed: Collection[str]) -> str:
    if not isinstance(value, str) or value not in allowed:
        raise _invalid(f"{name} {described(value)} is none of {', '.join(allowed)}")
    return value


def or_default(value: Any, default: str) -> Any:
    """What stands for a value that was left out: None and the empty text."""
    return default if value is None or (isinstance(value, str) and not value) else value


def tensor(name: str, value: Any) -> Tensor:
    """A tensor, or an array as one."""
    if isinstance(value, np.ndarray) and value.dtype.kind in "biuf":
        # torch has no unsigned integers to compute with, and no arrays of another machine's byte order.
        return torch.from_numpy(value.astype(np.int64 if value.dtype.kind in "iu" else value.dtype.type))
    if isinstance(value, Tensor):
        return value
    raise SparkablateError("usage", f"{name} must be a torch tensor or a numpy array, not {described(value)}")


def numbers(value: Any) -> Tensor | None:
    """A tensor, or an array or list of numbers or truth values as one; None for anything else."""
    if isinstance(value, Tensor):
        return value
    if not isinstance(value, np.ndarray | list | tuple):
        return None
    try:
        found = np.asarray(value)
    except ValueError:  # rows of several lengths
        return None
    return tensor("numbers", found) if found.dtype.kind in "biuf" else None


def as_text(value: Any) -> Any:
    """The name of a path, a torch dtype or a torch device; anything else as it is."""
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    return str(value).removeprefix("torch.") if isinstance(value, torch.dtype | torch.device) else value


def require_path(name: str, value: Any) -> None:
    """Raises "usage" for what names no file."""
    if not isinstance(value, str | os.PathLike) or not os.fspath(value) or "\0" in os.fspath(value):
        raise SparkablateError("usage", f"{name} must name a file or directory, not {described(value)}")


def listed(name: str, value: Any) -> Iterable[Any]:
    """What is to be gone through, one by one. Raises "usage" for what is one thing itself."""
    if isinstance(value, str | bytes | Mapping) or not isinstance(value, Iterable):
        raise SparkablateError("usage", f"{name} must be a list, not {described(value)}")
    return value


def as_whole(name: str, value: Any, least: int, most: int) -> int:
    found = _whole(value)
    if found is None or not least <= found <= most:
        raise _invalid(f"{name} must be a whole number from {least} to {most}, not {described(value)}")
    return found


def _elements(value: Iterable[Any]) -> list[Any] | None:
    try:
        return list(value)
    except TypeError:  # a tensor or an array without a dimension
        return None


def _whole(value: Any) -> int | None:
    if isinstance(value, bool):
        return None
    try:
        return operator.index(value)
    except TypeError:
        return None


def _invalid(message: str) -> SparkablateError:
    return SparkablateError("config_invalid", message)
