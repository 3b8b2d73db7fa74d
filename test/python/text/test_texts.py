"""Bytes → text: marks, encodings, places of faults, and where a text that is too long is cut."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from sparkablate.errors import SparkablateError
from sparkablate.text import files as texts


@pytest.mark.parametrize("text", ["", "a", "\ufeff", "naïve 🙂\r\n", "\x01\x7f\x85"])
def test_text_is_what_was_written_and_a_mark_is_none(text: str) -> None:
    assert texts.decode(b"\xef\xbb\xbf" + text.encode(), "f") == text
    if not text.startswith("\ufeff"):
        assert texts.decode(text.encode(), "f") == text


@pytest.mark.parametrize(
    "encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-be", "cp1252", "cp932"]
)
def test_other_encodings_are_refused(encoding: str) -> None:
    text = "Ein Maß" if encoding == "cp1252" else "日本" if encoding == "cp932" else "plain words"
    with pytest.raises(SparkablateError, match=r"iconv -f [A-Z0-9-]+ -t UTF-8") as caught:
        texts.decode(text.encode(encoding), "f.txt")
    assert caught.value.code == "config_invalid"
    if encoding.startswith("utf"):
        assert f"iconv -f {'UTF-32' if encoding == 'utf-32' else 'UTF-16'}" in caught.value.message


def test_the_place_is_the_first_byte_that_is_no_text() -> None:
    rng = random.Random(0)
    for _ in range(50):
        good = "".join(rng.choice("ab\né日🙂") for _ in range(rng.randrange(30))).encode()
        bad = rng.choice([b"\x80", b"\xc3\x28", b"\xe2\x82", b"\xf0\x9f\x99", b"\xed\xa0\x80", b"\x00"])
        with pytest.raises(SparkablateError) as caught:
            texts.decode(good + bad, "f")
        assert f"at byte offset {len(good)} (line {good.count(10) + 1})" in caught.value.message


def test_a_text_that_is_too_long_ends_with_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(texts, "MOST_BYTES", 10)
    paths = [tmp_path / name for name in "abc"]
    paths[0].write_bytes(b"\xef\xbb\xbfone\ntwo")
    paths[1].write_bytes(b"three")
    paths[2].write_bytes(b"four")
    assert texts.join_files(paths[:1]) == texts.Joined("one\ntwo", False, [])
    assert texts.join_files(paths[1:]) == texts.Joined("three\n\nfou", True, [])
    paths[0].write_bytes("ééééé\nx".encode())
    assert texts.join_files(paths[:1]) == texts.Joined("ééééé", True, [])
    paths[0].write_bytes("aéééééé".encode())
    assert texts.join_files(paths[:1]) == texts.Joined("aéééé", True, [])
    paths[0].write_bytes(b"12345\n78901234")
    assert texts.join_files(paths) == texts.Joined("12345\n", True, [])
