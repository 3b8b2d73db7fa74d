"""Compiled code runs eagerly while a model is edited: what was compiled knows nothing of later hooks."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from sparkablate.errors import SparkablateError


class Eager:
    """Torch's stance "force_eager", for the whole process, from the first `enter` to the last `leave`.

    It holds for whatever is compiled: the model, its layers, a function that calls it, in any thread.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._ours: Any = None

    def enter(self) -> None:
        """Raises SparkablateError("usage") in the midst of compiled code, whose rest would run compiled."""
        with self._lock:
            if self._inside == 0:
                try:
                    self._ours = torch.compiler.set_stance("force_eager")
                except RuntimeError as error:
                    raise SparkablateError(
                        "usage",
                        "a model cannot be edited from inside compiled code; open the block around the call "
                        "of the compiled function, or decorate the function that opens it with "
                        "torch.compiler.disable",
                    ) from error
            self._inside += 1

    def leave(self) -> bool:
        """Puts the earlier stance back. False where somebody else has changed it in the meantime: then code
        may have run compiled, and theirs stays."""
        with self._lock:
            self._inside -= 1
            if self._inside:
                return True
            found = torch.compiler.set_stance("force_eager")
            ours = found.prev is self._ours.stance
            (self._ours if ours else found).__exit__(None, None, None)
            return ours


EAGER = Eager()


@contextmanager
def eagerly() -> Iterator[None]:
    EAGER.enter()
    try:
        yield
    finally:
        EAGER.leave()
