"""The checksums of src/store/checksums.ts: what is read from results.sqlite is what was written there."""

from __future__ import annotations

import sqlite3
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from zlib import crc32

from sparkablate.errors import SparkablateError

#: Table → whether the order of its rows counts.
TABLES = {
    "run": False,
    "block": False,
    "item": False,
    "condition": False,
    "mean": False,
    "measurement": False,
    "attempt": True,
    "token_block": False,
    "token_text": False,
    "token_nll": False,
    "model_file": False,
    "seen": False,
    "result": True,
}
#: Made by the first transaction of every database.
ALWAYS = frozenset({"run", "block", "item", "condition", "mean", "measurement", "attempt"})

_MODULUS = 2**48
_NULL, _FLOAT, _TEXT, _BLOB = b"\x00", b"\x01", b"\x02", b"\x03"
_float64 = struct.Struct("<d").pack


def require_tables(database: sqlite3.Connection, path: Path) -> None:
    """Raises ``store_corrupt`` where the database is another program's."""
    found = {name for (name,) in database.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")}
    if missing := sorted(ALWAYS - found):
        raise SparkablateError(
            "store_corrupt", f"{path} has other tables than this version: no such table: {missing[0]}"
        )


def verify(database: sqlite3.Connection, path: Path) -> None:
    """Raises ``store_corrupt`` for the first table that is not as it was written."""
    definitions = dict(database.execute("SELECT name, sql FROM sqlite_schema WHERE type = 'table'"))
    stored = {name: (rows, total) for name, rows, total in database.execute("SELECT * FROM checksum")}
    for name, is_ordered in TABLES.items():
        if name not in stored and name not in definitions and name not in ALWAYS:
            continue
        found = _tally(database, name, definitions[name], is_ordered) if name in definitions else None
        if found is None or found != stored.get(name):
            raise SparkablateError(
                "store_corrupt", f"{path} is damaged: its table {name} is not as it was written"
            )


def _tally(database: sqlite3.Connection, name: str, definition: str, is_ordered: bool) -> tuple[int, int]:
    total, rows = _row_sum([definition]), 0
    for row in database.execute(f"SELECT * FROM {name}{' ORDER BY rowid' if is_ordered else ''}"):
        total += _row_sum([rows, *row] if is_ordered else row)
        rows += 1
    return rows, total % _MODULUS


def _row_sum(row: Sequence[Any]) -> int:
    code = crc32(b"".join(map(_encode, row)))
    code = (code ^ code >> 16) * 0x85EBCA6B & 0xFFFFFFFF
    return code ^ code >> 13


def _encode(value: Any) -> bytes:
    if isinstance(value, (int, float)):
        return _FLOAT + _float64(value)
    if isinstance(value, str):
        text = value.encode()
        return _TEXT + _float64(len(text)) + text
    if isinstance(value, bytes):
        return _BLOB + _float64(len(value)) + struct.pack("<I", crc32(value))
    return _NULL
