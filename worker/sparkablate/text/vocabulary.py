"""Ids that a tokenizer gives, held against the rows that the embedding has."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from sparkablate.errors import SparkablateError


def check_ids(rows: Iterable[Sequence[int] | np.ndarray], vocab_size: int, tokenizer: Any = None) -> None:
    """Raises ``config_invalid`` for an id that is past the embedding: a tokenizer of another model."""
    for row in rows:
        ids = np.asarray(row)
        if ids.size and not (ids.min() >= 0 and ids.max() < vocab_size):
            bad = int(ids[(ids < 0) | (ids >= vocab_size)].flat[0])
            token = "" if tokenizer is None else f" ({tokenizer.convert_ids_to_tokens(bad)!r:.60})"
            raise SparkablateError(
                "config_invalid",
                f"the tokenizer gives id {bad}{token}, and the model's embedding has {vocab_size} rows: it "
                "is the tokenizer of another model, or tokens were added and the embedding was not resized",
            )
