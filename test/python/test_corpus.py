"""Texts and datasets as ids: no special tokens, rows joined by blank lines, cut where asked."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import model_directory
import numpy as np
import pytest
from transformers import AutoTokenizer

from sparkablate import corpus
from sparkablate.errors import SparkablateError
from sparkablate.progress import silent

ROWS = ["Catherine grows quite a good-looking girl;", "", "she is almost pretty today."]
DATASET = {"config": None, "split": "train", "column": "text"}


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any]:
    """One that does not add BOS, and one that does."""
    root = tmp_path_factory.mktemp("tokenizers")
    without = model_directory.save(root / "without")
    adds = model_directory.save(root / "adds", adds_bos=True)
    return AutoTokenizer.from_pretrained(without), AutoTokenizer.from_pretrained(adds)


def test_text_is_tokenised_without_special_tokens(tokenizers: tuple[Any, Any]) -> None:
    for tokenizer in tokenizers:
        ids, truncated = corpus.tokenize_rows(tokenizer, iter((ROWS[0],)), 1000, silent)
        assert ids.dtype == np.int32
        assert not truncated
        assert 0 not in ids
        assert tokenizer.decode(ids) == ROWS[0]


def test_bos_is_what_the_tokenizer_itself_does(tokenizers: tuple[Any, Any]) -> None:
    without, adds = tokenizers
    assert corpus.special_tokens(without, 258) == (0, False)
    assert corpus.special_tokens(adds, 258) == (0, True)
    assert corpus.special_tokens(None, 258) == (None, False)


def test_a_cut_text_is_the_beginning_of_the_whole_one(tokenizers: tuple[Any, Any]) -> None:
    """Rows are read only as far as needed, whatever the first guess of their length was."""
    rows = [f"row {number} " * 5 for number in range(200)]
    whole, truncated = corpus.tokenize_rows(tokenizers[0], iter(rows), 10**6, silent)
    assert not truncated
    assert tokenizers[0].decode(whole) == "\n\n".join(rows)
    source = iter(rows)
    cut, truncated = corpus.tokenize_rows(tokenizers[0], source, 100, silent)
    assert truncated
    assert (cut == whole[:100]).all()
    assert next(source, None) is not None
    exact, truncated = corpus.tokenize_rows(tokenizers[0], iter(rows), len(whole), silent)
    assert not truncated
    assert len(exact) == len(whole)


def test_a_model_without_tokenizer_says_so() -> None:
    with pytest.raises(SparkablateError, match="no tokenizer"):
        corpus.tokenize_rows(None, iter(("text",)), 10, silent)


datasets = pytest.importorskip("datasets", reason="the library `datasets` is not installed")


def write_jsonl(directory: Path) -> None:
    lines = [json.dumps({"text": row, "number": number}) for number, row in enumerate(ROWS)]
    (directory / "train.jsonl").write_text("\n".join(lines))


def write_parquet(directory: Path) -> None:
    datasets.Dataset.from_dict({"text": ROWS, "number": [0, 1, 2]}).to_parquet(directory / "train.parquet")


def write_text(directory: Path) -> None:
    (directory / "train.txt").write_text("\n".join(ROWS))


@pytest.mark.parametrize("write", [write_jsonl, write_parquet, write_text])
def test_local_directories_are_read_by_the_library(tmp_path: Path, write: Any) -> None:
    write(tmp_path)
    assert list(corpus.dataset_rows({**DATASET, "path": str(tmp_path)})) == ROWS


@pytest.mark.parametrize(
    ("changes", "code", "message"),
    [
        ({"split": "test"}, "input_missing", "no split 'test' .there are: train"),
        ({"column": "words"}, "config_invalid", "no column 'words' .there are: text, number"),
        ({"column": "number"}, "config_invalid", "int, not text"),
        ({"path": "missing"}, "input_missing", "neither a local directory"),
        ({"config": "other"}, "input_missing", "other"),
    ],
)
def test_what_is_not_there_is_named(tmp_path: Path, changes: dict[str, Any], code: str, message: str) -> None:
    directory = tmp_path / "data"
    directory.mkdir()
    write_jsonl(directory)
    changed = {**DATASET, "path": str(directory), **changes}
    if "path" in changes:
        changed["path"] = str(tmp_path / changes["path"])
    with pytest.raises(SparkablateError, match=message) as caught:
        list(corpus.dataset_rows(changed))
    assert caught.value.code == code
