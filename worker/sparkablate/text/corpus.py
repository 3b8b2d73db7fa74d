"""Text and datasets → one stream of token ids, without special tokens."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from sparkablate.anatomy.sites import SiteMap
from sparkablate.errors import SparkablateError
from sparkablate.printable import is_unicode
from sparkablate.progress import Progress
from sparkablate.text.files import ROW_SEPARATOR, decode, join_files

#: First guess of how much text holds a number of tokens; doubled until it does.
CHARACTERS_PER_TOKEN = 6

#: Data files that are text, and those of them with a JSON object a line.
TEXT_SUFFIXES = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".txt")
LINES_SUFFIXES = (".jsonl", ".ndjson")

#: Files that a message lists.
SHOWN_FILES = 3


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


class Rows(NamedTuple):
    """``more``: whether the data goes on behind ``texts``; ``notices``: what a person should know of it."""

    texts: Iterator[str]
    more: bool
    notices: list[str]


def one_text(text: str) -> Rows:
    return Rows(iter((text,)), False, [])


def dataset_rows(dataset: dict[str, Any]) -> Rows:
    """The column's texts of a hub dataset or a local directory of parquet, JSONL or CSV; a directory of text
    files is one text: its files whole, in order of name.

    ``dataset``: ``{path, config, split, column}`` of the wire. Raises ``environment_missing`` without the
    library ``datasets``, ``input_missing`` where the path or the split is not there, ``config_invalid`` where
    the column is not, or is no text, and for files that are damaged, with their place.
    """
    try:
        from datasets import load_dataset_builder  # type: ignore[import-untyped]
        from datasets.exceptions import DatasetNotFoundError  # type: ignore[import-untyped]
        from datasets.packaged_modules.text.text import Text  # type: ignore[import-untyped]
    except ImportError as error:
        raise SparkablateError(
            "environment_missing",
            "reading a dataset needs the Python package 'datasets': run 'sparkablate setup'",
        ) from error
    path, split, column = dataset["path"], dataset["split"], dataset["column"]
    try:
        builder = load_dataset_builder(path, name=dataset["config"])
    except (DatasetNotFoundError, FileNotFoundError, ConnectionError) as error:
        raise SparkablateError(
            "input_missing",
            f"eval.dataset {path!r}: neither a local directory with data files nor on the Hugging Face hub "
            f"(or no network): {error}",
            detail=repr(error),
        ) from error
    except Exception as error:  # an unknown configuration, a broken README.md; the library says which
        raise SparkablateError(
            "input_missing", f"eval.dataset {path!r}: {error}", detail=repr(error)
        ) from error
    given: Mapping[str, Sequence[str]] = builder.config.data_files or {}
    files = {str(name): [Path(file) for file in found] for name, found in given.items()}
    local = Path(path).is_dir()
    if local and isinstance(builder, Text) and all(_is_plain(file) for file in files.get(split, ())):
        _require_split(path, split, files)
        return _text_directory(Path(path), split, column, files)
    rows = _library_rows(builder, dataset, files.get(split, []) if local else [])
    notices = []
    if isinstance(builder, Text):
        notices.append(f"{path}: every line of its text files is a row, and rows are joined by blank lines")
    return Rows(rows, False, notices)


def _is_plain(file: Path) -> bool:
    return file.suffix.lower() == ".txt"


def _require_split(path: str, split: str, splits: Iterable[str]) -> None:
    if split not in splits:
        raise SparkablateError(
            "input_missing", f"eval.dataset {path!r} has no split {split!r} (there are: {', '.join(splits)})"
        )


def _text_directory(directory: Path, split: str, column: str, files: Mapping[str, Sequence[Path]]) -> Rows:
    if column != "text":
        raise SparkablateError(
            "config_invalid", f"eval.dataset {str(directory)!r} has no column {column!r} (there are: text)"
        )
    joined = join_files(sorted(files[split]))
    notices = joined.notices
    used = {os.path.realpath(file) for found in files.values() for file in found}
    if unused := sorted(
        file.name
        for file in directory.iterdir()
        if _is_plain(file) and not file.name.startswith(".") and os.path.realpath(file) not in used
    ):
        shown = ", ".join(unused[:SHOWN_FILES]) + (", …" if len(unused) > SHOWN_FILES else "")
        notices.append(f"{directory}: {shown}: their names belong to no split, so they are left out")
    return Rows(iter((joined.text,)), joined.more, notices)


def _library_rows(builder: Any, dataset: dict[str, Any], files: Sequence[Path]) -> Iterator[str]:
    """``files``: those of the split that lie here, to say what is wrong with them."""
    path, split, column = dataset["path"], dataset["split"], dataset["column"]
    try:
        splits = builder.as_streaming_dataset()
        _require_split(path, split, splits)
        yield from _texts(splits[split], path, column)
    except SparkablateError:
        raise
    except Exception as error:  # whatever a data file makes of the library's readers
        for file in files:
            require_sound(file)
        if isinstance(error, OSError):
            raise SparkablateError(
                "input_missing", f"eval.dataset {path!r}: {error}", detail=repr(error)
            ) from error
        names = ", ".join(str(file) for file in files[:SHOWN_FILES]) or "it"
        raise SparkablateError(
            "config_invalid",
            f"eval.dataset {path!r}: the library datasets cannot read {names}: "
            f"{str(error).strip() or 'there is no row'}",
            detail=repr(error),
        ) from error


def require_sound(file: Path) -> None:
    """Raises ``config_invalid`` for the first line that is not UTF-8, or in JSON lines no JSON object."""
    if file.suffix not in TEXT_SUFFIXES or not file.is_file():
        return
    text = decode(file.read_bytes(), str(file))
    if file.suffix not in LINES_SUFFIXES:
        return
    for number, line in enumerate(text.split("\n"), 1):
        try:
            sound = not line.strip() or isinstance(json.loads(line), dict)
        except (ValueError, RecursionError) as error:
            raise SparkablateError(
                "config_invalid", f"{file}:{number}: is not JSON: {error}; write one JSON object per line"
            ) from error
        if not sound:
            raise SparkablateError("config_invalid", f"{file}:{number}: is not a JSON object")


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
        if not is_unicode(text):
            raise SparkablateError(
                "config_invalid",
                f"eval.dataset {path!r}: column {column!r}, row {number}: half a surrogate pair, not text",
            )
        yield text


def special_tokens(tokenizer: Any, vocab_size: int) -> tuple[int | None, bool]:
    """The BOS id (None where there is none), and whether the tokenizer itself puts it in front of a text."""
    bos = getattr(tokenizer, "bos_token_id", None) if tokenizer is not None else None
    if bos is None or not 0 <= bos < vocab_size:
        return None, False
    return int(bos), tokenizer("a", verbose=False)["input_ids"][:1] == [bos]


def bos_notices(tokenizer: Any, sites: SiteMap, needed: bool) -> list[str]:
    """``needed``: the model's type needs BOS, which is put before texts and prompts also by a tokenizer that
    does not add it."""
    bos, adds = special_tokens(tokenizer, sites.vocab_size)
    if not needed or adds or tokenizer is None:
        return []
    if bos is None:
        return [f"{sites.model_type} needs a BOS token before every text, and its tokenizer has none"]
    return [
        f"{sites.model_type} needs a BOS token before every text, and its tokenizer does not add it: it is "
        "put there (eval.add_bos: false leaves it out of a run's blocks)"
    ]
