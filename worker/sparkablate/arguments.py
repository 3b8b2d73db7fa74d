"""What people give to Python's public functions, held against what is wanted, before torch trips over it."""

from __future__ import annotations

import math
import operator
import os
from collections.abc import Collection, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from .errors import SparkablateError


def described(value: Any) -> str:
    """A value in a message: itself where it is short and plain."""
    if value is None or isinstance(value, bool | int | float | str | bytes | list | tuple):
        return f"{value!r:.80}"
    if isinstance(value, Tensor):
        kind = str(value.dtype).removeprefix("torch.")
        return f"a {kind} tensor of shape {list(value.shape)} on {value.device}"
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


def token_row(name: str, value: Any) -> list[int]:
    """The ids of one text. Raises "usage" for what is none."""
    if isinstance(value, Iterable) and not isinstance(value, str | bytes | Mapping):
        found = [_whole(one) for one in _elements(value) or [None]]
        numbers = [number for number in found if number is not None]
        if len(numbers) == len(found):
            return numbers
    raise SparkablateError(
        "usage", f"{name} must be token ids, not {described(value)}; encode texts with the model's tokenizer"
    )


def token_ids(name: str, value: Any, vocab_size: int) -> Tensor:
    """Raises "usage" for what is no tensor of ids [batch, pos], "config_invalid" for ids that the embedding
    does not have, which a GPU would only notice in the middle of a kernel."""
    if not isinstance(value, Tensor):
        inside = "; give its 'input_ids'" if isinstance(value, Mapping) and "input_ids" in value else ""
        raise SparkablateError(
            "usage", f"{name} must be a tensor of token ids [batch, pos], not {described(value)}{inside}"
        )
    if value.dim() != 2 or value.dtype not in (torch.int64, torch.int32):
        raise SparkablateError(
            "usage", f"{name} must be token ids, int64 or int32 [batch, pos], not {described(value)}"
        )
    if value.numel() and not 0 <= int(value.min()) <= int(value.max()) < vocab_size:
        raise SparkablateError(
            "config_invalid",
            f"{name} has ids from {int(value.min())} to {int(value.max())}; the model's embedding has "
            f"{vocab_size} rows",
        )
    return value


def tensor(name: str, value: Any) -> Tensor:
    if isinstance(value, Tensor):
        return value
    raise SparkablateError("usage", f"{name} must be a torch tensor, not {described(value)}")


def require_path(name: str, value: Any) -> None:
    """Raises "usage" for what names no file."""
    if not isinstance(value, str | os.PathLike) or not os.fspath(value) or "\0" in os.fspath(value):
        raise SparkablateError("usage", f"{name} must be a path, not {described(value)}")


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
