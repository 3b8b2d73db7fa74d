"""Text files as the worker reads them, by src/config/text-file.ts' rules: UTF-8, and a mark is no text."""

from __future__ import annotations

import codecs
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from sparkablate.errors import SparkablateError

#: What stands between two rows of a dataset, and between two text files of a directory.
ROW_SEPARATOR = "\n\n"

#: ``MAX_PAYLOAD_BYTES`` of src/protocol/messages.ts: of a single text file the controller sends as much.
MOST_BYTES = 16 << 20

#: Encodings that a file's first bytes give away; of two that begin alike the longer mark first.
OTHER_MARKS = (
    ("UTF-32", codecs.BOM_UTF32_LE),
    ("UTF-32", codecs.BOM_UTF32_BE),
    ("UTF-16", codecs.BOM_UTF16_LE),
    ("UTF-16", codecs.BOM_UTF16_BE),
)


class Joined(NamedTuple):
    """``more``: whether the files go on behind ``text``; ``notices``: what a person should know of them."""

    text: str
    more: bool
    notices: list[str]


def decode(data: bytes, name: str) -> str:
    """The text of a file's bytes. Raises ``config_invalid`` with line and byte of what is no UTF-8 text."""
    for encoding, mark in OTHER_MARKS:
        if data.startswith(mark):
            raise SparkablateError(
                "config_invalid",
                f"{name}: is not UTF-8 text, but {encoding}, by its first bytes; convert it: "
                f"{_iconv(encoding)}",
            )
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        nul = data.find(b"\0", 0, error.start)
        if nul < 0:
            value = f"0x{data[error.start]:02x}"
            raise SparkablateError(
                "config_invalid",
                f"{name}: is not UTF-8 text: {value} {_place(data, error.start)}; convert it from "
                f"its encoding, for example: {_iconv('WINDOWS-1252')}",
            ) from error
    else:
        nul = data.find(b"\0")
    if nul >= 0:
        raise SparkablateError(
            "config_invalid",
            f"{name}: is not text: there is a NUL {_place(data, nul)}; if it is UTF-16, convert it: "
            f"{_iconv('UTF-16')}",
        )
    return text.removeprefix("\ufeff")


def _place(data: bytes, offset: int) -> str:
    line = data.count(b"\n", 0, offset) + 1
    return f"at byte offset {offset} (line {line})"


def _iconv(encoding: str) -> str:
    return f"iconv -f {encoding} -t UTF-8 OLD > NEW"


def join_files(paths: Sequence[Path]) -> Joined:
    """The files whole, one after another, joined by blank lines; together as much as a single file may hold.

    Raises ``input_missing`` for a file that cannot be read, ``config_invalid`` for what is no text.
    """
    pieces: list[str] = []
    ends: dict[str, int] = {}
    left = MOST_BYTES
    more = False
    for path in paths:
        left -= len(ROW_SEPARATOR) if pieces else 0
        more = more or left <= 0
        if more:
            break
        data, more = _beginning(path, left)
        left -= len(data)
        pieces.append(decode(data, str(path)))
        if lines := data.count(b"\r\n"):
            ends[path.name] = lines
    return Joined(ROW_SEPARATOR.join(pieces), more, _crlf_notices(ends))


def _crlf_notices(ends: dict[str, int]) -> list[str]:
    if not ends:
        return []
    name, *others = ends
    more = f" and {len(others)} more files" if others else ""
    return [
        f"{name}{more}: {sum(ends.values())} lines end with CR LF; the text is used as it is, so every CR "
        "counts (tr -d '\\r' removes them)"
    ]


def _beginning(path: Path, most: int) -> tuple[bytes, bool]:
    """The last whole lines within ``most`` bytes, and whether there is more; of one endless line, whole
    characters."""
    if not path.is_file():
        raise SparkablateError("input_missing", f"{path}: cannot be read: it is not a file (any more)")
    try:
        with path.open("rb") as stream:
            data = stream.read(most + 4)
    except OSError as error:
        raise SparkablateError("input_missing", f"{path}: cannot be read: {error.strerror}") from error
    allowed = most + len(codecs.BOM_UTF8) * data.startswith(codecs.BOM_UTF8)
    if len(data) <= allowed:
        return data, False
    end = data.rfind(b"\n", 0, allowed) + 1
    if end == 0:
        end = next((allowed - back for back in range(4) if data[allowed - back] & 0xC0 != 0x80), allowed)
    return data[:end], True
