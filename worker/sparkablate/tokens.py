"""Token ids as people have them: a tokenizer's output with its mask, tensors, arrays, lists."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from sparkablate.arguments import described, listed, numbers, tensor
from sparkablate.errors import SparkablateError


class TokenBatch(NamedTuple):
    """ids: int [batch, pos]; mask: as it was given with them, [batch, pos], 0 where a token is padding."""

    ids: Tensor
    mask: Tensor | None


def token_batch(name: str, value: Any, vocab_size: int) -> TokenBatch:
    """One batch; one text is a batch of one.

    Raises SparkablateError: "usage" for what holds no token ids, "config_invalid" for ids that the embedding
    does not have, which a GPU would only notice in the middle of a kernel.
    """
    mask = None
    if _is_encoding(value):
        if value.get("attention_mask") is not None:
            mask = token_mask(f"the attention_mask of {name}", value["attention_mask"])
        value = value["input_ids"]
    ids = _matrix(name, value)
    if ids.numel() and not 0 <= int(ids.min()) <= int(ids.max()) < vocab_size:
        raise SparkablateError(
            "config_invalid",
            f"{name} has ids from {int(ids.min())} to {int(ids.max())}; the model's embedding has "
            f"{vocab_size} rows",
        )
    if mask is not None and mask.shape != ids.shape:
        raise SparkablateError(
            "usage",
            f"the attention_mask of {name} has the shape {list(mask.shape)}, its ids {list(ids.shape)}",
        )
    return TokenBatch(ids, mask)


def token_mask(name: str, value: Any) -> Tensor:
    """Whole numbers [batch, pos]. Raises "usage" for what is no mask."""
    found = numbers(value)
    if found is None or found.is_complex() or found.dim() not in (1, 2):
        raise SparkablateError(
            "usage", f"{name} must be 1 for each token and 0 for padding [batch, pos], not {described(value)}"
        )
    return (found if _is_whole(found) else (found != 0).long()).reshape(-1, found.shape[-1])


def unpadded(name: str, value: Any, vocab_size: int) -> Iterator[Tensor]:
    """One batch or several without padding, each int [batch, pos]: what a mask leaves out is cut off.

    Raises what `token_batch` does, and "usage" for a mask with gaps.
    """
    for number, given in enumerate(_batches(name, value), 1):
        here = f"batch {number} of {name}"
        ids, mask = token_batch(here, given, vocab_size)
        if mask is None or bool((mask != 0).all()):
            yield ids
        else:
            yield from (row[None] for row in _cut(here, ids, mask))


def token_rows(name: str, value: Any) -> list[list[int]]:
    """The ids of each of several texts, without padding. Raises "usage" for what holds none."""
    if not _is_encoding(value):
        return [token_row(f"{name} {number}", row) for number, row in enumerate(listed(f"{name}s", value), 1)]
    ids, masks = value["input_ids"], value.get("attention_mask")
    if masks is None:
        return token_rows(name, ids)
    rows = []
    for number, (row, mask) in enumerate(zip(ids, masks, strict=True), 1):
        here = f"{name} {number}"
        kept = _cut(
            here, torch.tensor([token_row(here, row)]), token_mask(f"the attention_mask of {here}", mask)
        )
        rows += [one.tolist() for one in kept]
    return rows


def token_row(name: str, value: Any) -> list[int]:
    """The ids of one text. Raises "usage" for what is none."""
    if _is_row(value) and len(value):
        return [int(one) for one in value]
    raise _no_ids(name, value)


def _batches(name: str, value: Any) -> Iterable[Any]:
    """A batch that was given without a list around it, or the ids of one text, is one."""
    if _is_encoding(value):
        ids = value["input_ids"]
        if (
            not isinstance(ids, Sequence)
            or _is_row(ids)
            or len({len(row) for row in ids if _is_row(row)}) < 2
        ):
            return [value]
        masks = value.get("attention_mask") or [None] * len(ids)
        return [{"input_ids": row, "attention_mask": mask} for row, mask in zip(ids, masks, strict=True)]
    if (_is_row(value) and len(value)) or (isinstance(value, Tensor | np.ndarray) and value.ndim <= 2):
        return [value]
    if isinstance(value, str | bytes | Mapping) or not isinstance(value, Iterable):
        raise _no_ids(name, value)
    return value


def _is_encoding(value: Any) -> bool:
    """A tokenizer's output, or a row of a dataset of such."""
    return isinstance(value, Mapping) and "input_ids" in value


def _is_row(value: Any) -> bool:
    if isinstance(value, Tensor):
        return value.dim() == 1 and _is_whole(value)
    if isinstance(value, np.ndarray):
        return value.ndim == 1 and value.dtype.kind in "iu"
    return (
        isinstance(value, Sequence)
        and not isinstance(value, str | bytes)
        and all(isinstance(one, int | np.integer) and not isinstance(one, bool) for one in value)
    )


def _is_whole(value: Tensor) -> bool:
    return not (value.is_floating_point() or value.is_complex() or value.dtype == torch.bool)


def _matrix(name: str, value: Any) -> Tensor:
    """Whole numbers [rows, columns]; one row is a matrix of one."""
    found = tensor(name, value if isinstance(value, Tensor | np.ndarray) else _rows_of(name, value))
    if found.dim() == 1:
        found = found[None]
    if found.dim() != 2 or not _is_whole(found):
        raise _no_ids(name, value)
    return found if found.dtype == torch.int32 else found.long()


def _rows_of(name: str, value: Any) -> np.ndarray:
    """Whole numbers [rows, columns] of lists."""
    rows = [value] if _is_row(value) else value
    if not isinstance(rows, Sequence) or isinstance(rows, str | bytes) or not all(map(_is_row, rows)):
        raise _no_ids(name, value)
    lengths = sorted({len(row) for row in rows})
    if len(lengths) > 1:
        raise SparkablateError(
            "usage",
            f"{name} holds rows of {lengths[0]} to {lengths[-1]} ids: pad them with "
            'tokenizer(texts, padding=True, return_tensors="pt")',
        )
    if not lengths:
        raise _no_ids(name, value)
    return np.stack([np.array([int(one) for one in row], dtype=np.int64) for row in rows])


def _cut(name: str, ids: Tensor, mask: Tensor) -> Iterator[Tensor]:
    """Each row's tokens [pos] that its mask holds; rows that are padding alone are left out."""
    for row, kept in zip(ids, (mask != 0).to(ids.device), strict=True):
        places = kept.nonzero().flatten()
        if not len(places):
            continue
        if int(places[-1] - places[0]) + 1 != len(places):
            raise SparkablateError(
                "usage", f"the attention_mask of {name} leaves out tokens between others; mask only padding"
            )
        yield row[places[0] : places[-1] + 1]


def _no_ids(name: str, value: Any) -> SparkablateError:
    texts = [value] if isinstance(value, str) else value if isinstance(value, list | tuple) else []
    is_text = any(isinstance(one, str) for one in texts)
    remedy = '; encode it first, with tokenizer(text, return_tensors="pt")' if is_text else ""
    return SparkablateError("usage", f"{name} must be token ids [batch, pos], not {described(value)}{remedy}")
