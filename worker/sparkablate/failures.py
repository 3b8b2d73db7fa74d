"""What an exception in the middle of one condition means: it fails, and the others go on."""

from __future__ import annotations

import traceback

import torch

from .errors import SparkablateError

#: What torch's allocators say besides ``torch.OutOfMemoryError``.
_OUT_OF_MEMORY_WORDS = ("can't allocate memory", "not enough memory", "out of memory")


def condition_failure(error: Exception) -> SparkablateError:
    """The coded failure: text only, so that no traceback keeps tensors alive. Call it in an except block."""
    if isinstance(error, SparkablateError):
        return SparkablateError(error.code, error.message, error.detail or traceback.format_exc())
    code = "out_of_memory" if _is_out_of_memory(error) else "hook_failed"
    return SparkablateError(code, f"{type(error).__name__}: {error}", traceback.format_exc())


def _is_out_of_memory(error: Exception) -> bool:
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or (
        isinstance(error, RuntimeError) and any(words in str(error) for words in _OUT_OF_MEMORY_WORDS)
    )
