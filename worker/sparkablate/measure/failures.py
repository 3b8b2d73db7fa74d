"""What an exception in the middle of one condition means: it fails, and the others go on."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from sparkablate.errors import SparkablateError

#: What torch's allocators say besides ``torch.OutOfMemoryError``.
_OUT_OF_MEMORY_WORDS = ("can't allocate memory", "not enough memory", "out of memory")


def condition_failure(error: Exception) -> SparkablateError:
    """The coded failure: text only, so that no traceback keeps tensors alive. Call it in an except block."""
    if isinstance(error, SparkablateError):
        return SparkablateError(error.code, error.message, error.detail or traceback.format_exc())
    code = "out_of_memory" if is_out_of_memory(error) else "hook_failed"
    return SparkablateError(code, f"{type(error).__name__}: {error}", traceback.format_exc())


@contextmanager
def first_passes(name: str) -> Iterator[None]:
    """The passes at load: whatever a model's own code raises in them means that it does not run."""
    try:
        yield
    except SparkablateError:
        raise
    except Exception as error:
        words = f"{type(error).__name__}: {error}"
        if is_out_of_memory(error):
            raise SparkablateError(
                "out_of_memory", f"{name}: no memory for a pass of eval.batch_size rows: {words}"
            ) from error
        raise SparkablateError(
            "load_failed", f"{name}: the model does not run: {words}", traceback.format_exc()
        ) from error


def is_out_of_memory(error: Exception) -> bool:
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or (
        isinstance(error, RuntimeError) and any(words in str(error) for words in _OUT_OF_MEMORY_WORDS)
    )
