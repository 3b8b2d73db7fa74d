"""Text and datasets → one stream of token ids, without special tokens."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from sparkablate.errors import SparkablateError
from sparkablate.progress import Progress

#: What stands between two rows of a dataset.
ROW_SEPARATOR = "\n\n"

#: First guess of how much text holds a number of tokens; doubled until it does.
CHARACTERS_PER_TOKEN = 6


def tokenize_rows(
    tokenizer: Any, rows: Iterator[str], max_tokens: int, progress: Progress
) -> tuple[np.ndarray, bool]:
    """Ids of the rows joined by blank lines: the whole text is tokenised at once, as one text.

    Rows are read only until they hold ``max_tokens``; then the ids are cut there and the second value is
    True.
    """
    if tokenizer is None:
        raise SparkablateError(
            "load_failed", "the model's files hold no tokenizer, so text cannot be tokenised"
        )
    pieces: list[str] = []
    characters = 0
    wanted = max_tokens * CHARACTERS_PER_TOKEN
    more = True
    while True:
        while more and characters < wanted:
            row = next(rows, None)
            if row is None:
                more = False
                break
            pieces.append(row)
            characters += len(row)
            progress("read", float(characters), None, "characters")
        progress("tokenize", 0.0, float(characters), "characters")
        encoded = tokenizer(ROW_SEPARATOR.join(pieces), add_special_tokens=False, verbose=False)["input_ids"]
        progress("tokenize", float(characters), float(characters), "characters")
        if len(encoded) > max_tokens:
            return np.asarray(encoded[:max_tokens], dtype=np.int32), True
        if not more:
            return np.asarray(encoded, dtype=np.int32), False
        wanted = max(wanted, characters) * 2


def dataset_rows(dataset: dict[str, Any]) -> Iterator[str]:
    """The column's texts of a hub dataset or a local directory of parquet, JSONL or text files.

    ``dataset``: ``{path, config, split, column}`` of the wire. Raises ``environment_missing`` without the
    library ``datasets``, ``input_missing`` where the path or the split is not there, ``config_invalid`` where
    the column is not, or is no text.
    """
    try:
        from datasets import load_dataset  # type: ignore[import-untyped]
        from datasets.exceptions import DatasetNotFoundError  # type: ignore[import-untyped]
    except ImportError as error:
        raise SparkablateError(
            "environment_missing", "datasets need the Python package 'datasets': run 'sparkablate setup'"
        ) from error
    path, split, column = dataset["path"], dataset["split"], dataset["column"]
    try:
        splits = load_dataset(path, name=dataset["config"], streaming=True)
    except (DatasetNotFoundError, FileNotFoundError, ConnectionError) as error:
        raise SparkablateError(
            "input_missing",
            f"eval.dataset {path!r}: neither a local directory with data files nor on the Hugging Face hub "
            f"(or no network): {error}",
            detail=repr(error),
        ) from error
    except ValueError as error:  # an unknown configuration; the library lists those that exist
        raise SparkablateError(
            "input_missing", f"eval.dataset {path!r}: {error}", detail=repr(error)
        ) from error
    if split not in splits:
        raise SparkablateError(
            "input_missing", f"eval.dataset {path!r} has no split {split!r} (there are: {', '.join(splits)})"
        )
    return _texts(splits[split], path, column)


def _texts(rows: Iterable[dict[str, Any]], path: str, column: str) -> Iterator[str]:
    for number, row in enumerate(rows):
        if column not in row:
            raise SparkablateError(
                "config_invalid",
                f"eval.dataset {path!r} has no column {column!r} (there are: {', '.join(row)})",
            )
        text = row[column]
        if not isinstance(text, str):
            raise SparkablateError(
                "config_invalid",
                f"eval.dataset {path!r}: column {column!r}, row {number}: {type(text).__name__}, not text",
            )
        yield text


def special_tokens(tokenizer: Any, vocab_size: int) -> tuple[int | None, bool]:
    """The BOS id (None where there is none), and whether the tokenizer itself puts it in front of a text."""
    bos = getattr(tokenizer, "bos_token_id", None) if tokenizer is not None else None
    if bos is None or not 0 <= bos < vocab_size:
        return None, False
    return int(bos), tokenizer("a", verbose=False)["input_ids"][:1] == [bos]
