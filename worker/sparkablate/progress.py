"""The one way in which long work says that it is still going on."""

from __future__ import annotations

from collections.abc import Callable

#: ``progress(stage, done, total, unit)``; ``total`` is None where it is not known.
Progress = Callable[[str, float, float | None, str], None]


def silent(stage: str, done: float, total: float | None, unit: str) -> None:
    """For callers that show no progress, e.g. notebooks."""
