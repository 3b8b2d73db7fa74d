"""A run directory that Python writes: the tables of src/store, its lock and its checksums."""

from __future__ import annotations

import json
import os
import socket
import sqlite3
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from sparkablate import checksums
from sparkablate.errors import SparkablateError
from sparkablate.measure.slice import Measurement
from sparkablate.study.planning import STORE, Condition
from sparkablate.study.sampling import Block

#: A crash costs at most this much of what was measured.
COMMIT_EVERY = 1.0
#: What file systems and desktops put into directories, and a run that was stopped before it began.
NOBODYS = frozenset(
    {".DS_Store", ".directory", ".gitkeep", ".keep", ".gitignore", "Thumbs.db", "desktop.ini", "lost+found"}
    | {"run.lock", "run.lock.owner", "results.sqlite-wal", "results.sqlite-shm"}
)
SHOWN = 5


def now() -> str:
    """As JavaScript prints it: milliseconds, UTC."""
    return datetime.now(timezone.utc).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def compact(value: Any) -> str:
    """JSON as JavaScript has it."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


@dataclass(frozen=True)
class Record:
    """One run, as it is stored before anything is measured."""

    run_id: str
    identity: Mapping[str, str]
    model: Mapping[str, Any]
    facts: Mapping[str, Any]
    notices: Sequence[str]


@dataclass(frozen=True)
class Means:
    sha256: str
    sites: list[dict[str, Any]]
    vectors: bytes


class Store:
    """results.sqlite, open for writing; in memory where there is no directory."""

    def __init__(self, database: sqlite3.Connection, path: Path | None) -> None:
        self.database = database
        self.path = path
        self._committed = time.monotonic()

    # ── A new run ────────────────────────────────────────────────────────────────────────────
    def begin(
        self,
        record: Record,
        blocks: Mapping[str, Sequence[Block]],
        items: Sequence[tuple[int, dict[str, str], int]],
        conditions: Sequence[Condition],
        means: Means | None,
        seen: Mapping[str, Any] | None,
    ) -> None:
        """``items``: ordinal, the task's item, tokens of its answer; ``seen``: what the run is known by."""
        rows: dict[str, Iterable[Sequence[Any]]] = {
            "run": [
                (
                    record.run_id,
                    *map(compact, (record.identity, record.model, record.facts, record.notices)),
                    None,
                )
            ],
            "block": [
                (split, ordinal, block.index, block.sha256)
                for split, chosen in blocks.items()
                for ordinal, block in enumerate(chosen)
            ],
            "item": [
                (ordinal, item["prompt"], item["answer"], item.get("wrong"), tokens)
                for ordinal, item, tokens in items
            ],
            "condition": [
                (
                    ordinal,
                    one.id,
                    compact(one.interventions),
                    compact(one.to_wire()["nudge"]) if one.nudge else None,
                )
                for ordinal, one in enumerate(conditions)
            ],
            "mean": [] if means is None else [(means.sha256, compact(means.sites), means.vectors)],
        }
        with self._transaction():
            for table, values in rows.items():
                self._insert(table, values)
            checksums.write(self.database, checksums.ALWAYS)
        if seen is not None:
            self._keep_seen(seen)

    def _keep_seen(self, seen: Mapping[str, Any]) -> None:
        files = [(file["name"], file["sha256"], file["stamp"]) for file in seen["model"]["files"]]
        parts = {
            "model directory": seen["model"]["directory"],
            "model entries": seen["model"]["entries_sha256"],
            **seen["inputs"],
        }
        with self._transaction():
            for statement in STORE["seen"].split(";"):
                if statement.strip():
                    self.database.execute(statement)
            self._insert("model_file", files)
            self._insert("seen", parts.items())
            checksums.write(self.database, ("model_file", "seen"))

    def _insert(self, table: str, rows: Iterable[Sequence[Any]]) -> None:
        for row in rows:
            self.database.execute(f"INSERT INTO {table} VALUES ({', '.join('?' * len(row))})", tuple(row))

    # ── What is there ────────────────────────────────────────────────────────────────────────
    def identity(self) -> dict[str, str] | None:
        """None where no run was begun."""
        row = self.database.execute("SELECT identity FROM run").fetchone()
        return None if row is None else json.loads(row[0])

    def means(self) -> Means | None:
        row = self.database.execute("SELECT sha256, sites, vectors FROM mean").fetchone()
        return None if row is None else Means(row[0], json.loads(row[1]), row[2])

    def measured(self) -> dict[int, set[int]]:
        """Condition → blocks that have its NLL."""
        found: dict[int, set[int]] = {}
        for condition, block in self.database.execute(
            "SELECT condition, block FROM measurement WHERE metric = 'nll'"
        ):
            found.setdefault(condition, set()).add(block)
        return found

    def failures(self) -> dict[int, str]:
        """Conditions whose last attempt failed → error code."""
        return dict(
            self.database.execute(
                "SELECT condition, code FROM attempt WHERE rowid IN "
                "(SELECT max(rowid) FROM attempt GROUP BY condition) AND code IS NOT NULL"
            )
        )

    # ── Measurements ─────────────────────────────────────────────────────────────────────────
    def record(self, condition: int, batch: int, blocks: Sequence[int], measurement: Measurement) -> None:
        """Committed within a second of work, or by `flush`."""
        if not self.database.in_transaction:
            self.database.execute("BEGIN")
        sums = [
            (condition, block, column, float(value))
            for column, row in zip(measurement.columns, measurement.sums, strict=measurement.error is None)
            for block, value in zip(blocks, row, strict=True)
        ]
        error = measurement.error
        attempt = (
            condition,
            batch,
            now(),
            measurement.seconds,
            compact(list(measurement.flags)),
            *((None,) * 3 if error is None else (error.code, str(error), error.detail)),
        )
        # Whole or not at all: an interrupt may come between any two statements, and the rest is committed.
        self.database.execute("SAVEPOINT measurement")
        try:
            checksums.append(self.database, "measurement", self._fresh(sums))
            checksums.append(self.database, "attempt", [attempt])
        except BaseException:
            self.database.execute("ROLLBACK TO measurement")
            raise
        finally:
            self.database.execute("RELEASE measurement")
        if time.monotonic() - self._committed > COMMIT_EVERY:
            self.flush()

    def _fresh(self, sums: Sequence[tuple[int, int, str, float]]) -> list[tuple[int, int, str, float]]:
        """Those that are not stored yet. Raises ``measurement_conflict`` where others are."""
        fresh = []
        for row in sums:
            stored = self.database.execute(
                "SELECT sum FROM measurement WHERE condition = ? AND block = ? AND metric = ?", row[:3]
            ).fetchone()
            if stored is None:
                fresh.append(row)
            elif stored[0] != row[3]:
                raise SparkablateError(
                    "measurement_conflict",
                    f"condition {row[0]}, block {row[1]}, {row[2]}: {row[3]} was measured where "
                    f"{stored[0]} is stored",
                )
        return fresh

    def flush(self) -> None:
        if self.database.in_transaction:
            self.database.execute("COMMIT")
        self._committed = time.monotonic()

    def finish(self) -> None:
        self.flush()
        with self._transaction():
            self.database.execute("UPDATE run SET finished_at = ? WHERE finished_at IS NULL", (now(),))
            checksums.write(self.database, ("run",))

    def write_result(self, columns: Mapping[str, str], rows: Iterable[Sequence[Any]]) -> None:
        """The table ``result``: column → SQL type."""
        definitions = ", ".join(f'"{name}" {kind}' for name, kind in columns.items())
        self.flush()
        with self._transaction():
            self.database.execute("DROP TABLE IF EXISTS result")
            self.database.execute(f"CREATE TABLE result ({definitions})")
            self._insert("result", rows)
            checksums.write(self.database, ("result",))

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self.database.execute("BEGIN")
        try:
            yield
        except BaseException:
            self.database.execute("ROLLBACK")
            raise
        self.database.execute("COMMIT")

    def close(self) -> None:
        self.flush()
        if self.path is not None:
            # Afterwards the run is one file. Whoever reads it now holds the log: the next writer merges it.
            with suppress(sqlite3.OperationalError):
                self.database.execute("PRAGMA journal_mode = MEMORY")
            self.database.close()


@contextmanager
def opened(directory: Path | None) -> Iterator[Store]:
    """The run's store, locked against other writers; what was measured is saved however the block ends.

    Raises ``run_locked``, ``not_ours`` for a directory that holds something else, ``storage_failed``.
    """
    if directory is None:
        # Python's own transactions, kept off: ours are said. Frames are made of it in whatever thread.
        database = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
        _make_tables(database)
        yield Store(database, None)
        return
    _require_ours(directory)
    try:
        with _locked(directory):
            path = directory / "results.sqlite"
            if path.exists():
                checksums.verify_file(path)
            database = sqlite3.connect(path, isolation_level=None)
            for pragma in ("journal_mode = MEMORY", "journal_mode = WAL", "synchronous = FULL"):
                database.execute(f"PRAGMA {pragma}")
            _make_tables(database)
            store = Store(database, path)
            try:
                yield store
            finally:
                store.close()
    except sqlite3.Error as error:
        raise SparkablateError("storage_failed", f"{directory} cannot be written to: {error}") from error


def _make_tables(database: sqlite3.Connection) -> None:
    if database.execute("PRAGMA user_version").fetchone()[0] == STORE["version"]:
        return
    database.executescript(f"BEGIN; {STORE['tables']}")
    checksums.write(database, checksums.ALWAYS)
    database.execute(f"PRAGMA user_version = {STORE['version']}")
    database.execute("COMMIT")


def _require_ours(directory: Path) -> None:
    try:
        directory.mkdir(parents=True, exist_ok=True)
        if (directory / "results.sqlite").exists():
            return
        strangers = sorted(set(os.listdir(directory)) - NOBODYS)
    except OSError as error:
        raise SparkablateError(
            "storage_failed", f"dir: {directory} cannot be used: {error.strerror}"
        ) from error
    if strangers:
        more = f" and {len(strangers) - SHOWN} more" if len(strangers) > SHOWN else ""
        raise SparkablateError(
            "not_ours",
            f"dir: {directory} is neither empty nor a run directory; it holds "
            f"{', '.join(strangers[:SHOWN])}{more}",
        )


@contextmanager
def _locked(directory: Path) -> Iterator[None]:
    """The lock of src/store/lock.ts: a file in BEGIN EXCLUSIVE, which the kernel frees with the process."""
    path, owner = directory / "run.lock", directory / "run.lock.owner"
    with suppress(FileExistsError):
        path.touch(exist_ok=False)
    held = path.stat().st_ino
    database = sqlite3.connect(path, isolation_level=None, timeout=0)
    try:
        database.execute("PRAGMA journal_mode = MEMORY")
        database.execute("BEGIN EXCLUSIVE")
        if not path.exists() or path.stat().st_ino != held:
            raise sqlite3.OperationalError("replaced")
    except sqlite3.OperationalError as error:
        database.close()
        holder = owner.read_text(encoding="utf-8").strip() if owner.is_file() else "another controller"
        raise SparkablateError("run_locked", f"{directory} is in use by {holder}") from error
    try:
        owner.write_text(f"pid {os.getpid()} on {socket.gethostname()} since {now()}\n", encoding="utf-8")
        yield
    finally:
        owner.unlink(missing_ok=True)
        path.unlink(missing_ok=True)
        database.close()
