"""Texts and datasets as ids: no special tokens, rows joined by blank lines, cut where asked."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import model_directory
import numpy as np
import pytest
from transformers import AutoTokenizer

from sparkablate.errors import SparkablateError
from sparkablate.progress import silent
from sparkablate.text import corpus
from sparkablate.text import files as texts

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


@pytest.mark.parametrize("write", [write_jsonl, write_parquet])
def test_local_directories_are_read_by_the_library(tmp_path: Path, write: Any) -> None:
    write(tmp_path)
    assert read(tmp_path) == (ROWS, [])


def read(directory: Path, **changes: Any) -> tuple[list[str], list[str]]:
    """Texts, notices."""
    rows = corpus.dataset_rows({**DATASET, "path": str(directory), **changes})
    return list(rows.texts), rows.notices


def write_files(directory: Path, **files: str | bytes) -> Path:
    """``a__txt`` stands for a.txt."""
    directory.mkdir(exist_ok=True)
    for name, content in files.items():
        data = content.encode() if isinstance(content, str) else content
        (directory / name.replace("__", ".")).write_bytes(data)
    return directory


def test_a_directory_of_text_files_is_their_text(tmp_path: Path) -> None:
    """Whole, in order of name, joined as rows are: line breaks stay what they are."""
    text = "One line.\n\n\n  Another, indented.\n"
    assert read(write_files(tmp_path / "one", train__txt=text)) == ([text], [])
    several = write_files(tmp_path / "several", b__txt="second\n", a__txt="\ufefffirst", c__txt="")
    assert read(several) == (["first\n\nsecond\n\n\n"], [])


def test_text_files_of_no_split_are_named(tmp_path: Path) -> None:
    directory = write_files(tmp_path / "d", train__txt="a", test__txt="b", notes__txt="c")
    texts, (notice,) = read(directory)
    assert texts == ["a"]
    assert notice == f"{directory}: notes.txt: their names belong to no split, so they are left out"
    assert read(directory, split="test")[0] == ["b"]


def test_line_ends_of_another_system_stay_and_are_named(tmp_path: Path) -> None:
    texts, (notice,) = read(write_files(tmp_path / "d", a__txt="x\r\ny\r\n", b__txt="z\r\n", c__txt="\r"))
    assert texts == ["x\r\ny\r\n\n\nz\r\n\n\n\r"]
    assert notice.startswith("a.txt and 1 more files: 3 lines end with CR LF")


def test_packed_text_files_are_rows_and_that_is_said(tmp_path: Path) -> None:
    directory = write_files(tmp_path / "d", a__txt__gz=gzip.compress(b"x\ny\n"))
    texts, (notice,) = read(directory)
    assert texts == ["x", "y"]
    assert "every line of its text files is a row" in notice


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (
            {"train__txt": "caf\xe9".encode("latin-1")},
            r"train\.txt: is not UTF-8 text: 0xe9 at byte offset 3 .*iconv",
        ),
        ({"train__txt": "text".encode("utf-16")}, "UTF-16, by its first bytes.*iconv -f UTF-16"),
        ({"train__txt": "text".encode("utf-16-le")}, "NUL at byte offset 1 .line 1."),
        ({"a__jsonl": '{"text": "a"}\n\n{"text": "b"\n'}, r"a\.jsonl:3: is not JSON"),
        ({"a__jsonl": '{"text": "a"}\n{"text": "b"} c\n'}, r"a\.jsonl:2: is not JSON"),
        ({"a__jsonl": '{"text": "a"}\n[]\n'}, r"a\.jsonl:2: is not a JSON object"),
        ({"a__jsonl": b'{"text": "a"}\n{"text": "\xe9"}\n'}, r"0xe9 at byte offset 24 .line 2."),
        ({"a__jsonl": '{"text": "\\ud800"}\n'}, r"a\.jsonl|surrogate"),
        ({"a__jsonl": '{"text": "a", "text": "b"}\n'}, "specified twice"),
        ({"a__jsonl": ""}, "cannot read .*a.jsonl: there is no row"),
        ({"a__csv": b'text,n\n"a\xe9",1\n'}, r"a\.csv: is not UTF-8 text: 0xe9 at byte offset 9 .line 2."),
        ({"a__csv": "text\n1,2,3\na,b,c,d\n"}, "cannot read .*a.csv"),
        ({"a__parquet": b"PAR1 and no more"}, "cannot read .*a.parquet"),
    ],
)
def test_damaged_files_are_refused_by_their_place(
    tmp_path: Path, files: dict[str, bytes | str], message: str
) -> None:
    directory = write_files(tmp_path / "d", **files)
    with pytest.raises(SparkablateError, match=message) as caught:
        read(directory)
    assert caught.value.code == "config_invalid"


def test_marks_and_line_ends_around_json_are_no_text(tmp_path: Path) -> None:
    directory = write_files(tmp_path / "d", a__jsonl=b'\xef\xbb\xbf{"text": "a"}\r\n\r\n{"text": "b"}')
    assert read(directory) == (["a", "b"], [])


def test_what_cannot_be_read_is_missing(tmp_path: Path) -> None:
    directory = write_files(tmp_path / "d", a__txt="a")
    (directory / "b.txt").symlink_to(directory / "c.txt")
    (directory / "c.txt").symlink_to(directory / "b.txt")
    (directory / "loop").symlink_to(directory)
    assert read(directory)[0] == ["a"]
    with pytest.raises(SparkablateError, match="cannot be read: it is not a file") as caught:
        texts.join_files([directory / "gone.txt"])
    assert caught.value.code == "input_missing"


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
        list(corpus.dataset_rows(changed).texts)
    assert caught.value.code == code
