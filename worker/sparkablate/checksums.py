"""The checksums of src/store/checksums.ts: what is read from results.sqlite is what was written there."""

from __future__ import annotations

import sqlite3
import struct
from collections.abc import Iterable, Sequence
from contextlib import closing
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


def verify_file(path: Path) -> None:
    """Raises ``store_corrupt`` for a database that is damaged, or of another format; one without tables is
    fine. Nothing is changed: a connection that may write changes a file by closing it."""
    try:
        with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)) as database:
            if database.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0] > 0:
                require_tables(database, path)
                verify(database, path)
    except sqlite3.Error as error:
        raise SparkablateError(
            "store_corrupt", f"{path} is not a readable database of ours: {error}"
        ) from error


def write(database: sqlite3.Connection, names: Iterable[str]) -> None:
    """Anew, of tables that are there; to be called in the transaction that changed them."""
    definitions = dict(database.execute("SELECT name, sql FROM sqlite_schema WHERE type = 'table'"))
    for name in names:
        tally = _tally(database, name, definitions[name], TABLES[name])
        database.execute("INSERT OR REPLACE INTO checksum VALUES (?, ?, ?)", (name, *tally))


def append(database: sqlite3.Connection, name: str, rows: Sequence[Sequence[Any]]) -> None:
    """Inserts rows, whole ones, and goes on with the table's checksum."""
    count, total = database.execute("SELECT rows, sum FROM checksum WHERE name = ?", (name,)).fetchone()
    for row in rows:
        database.execute(f"INSERT INTO {name} VALUES ({', '.join('?' * len(row))})", tuple(row))
        total += _row_sum([count, *row] if TABLES[name] else row)
        count += 1
    database.execute("UPDATE checksum SET rows = ?, sum = ? WHERE name = ?", (count, total % _MODULUS, name))


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
