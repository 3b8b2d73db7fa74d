"""A run directory as pandas frames. Reads results.sqlite and nothing else: no controller, no torch."""

from __future__ import annotations

import json
import os
import sqlite3
import stat
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from sparkablate import checksums
from sparkablate.errors import SparkablateError

if TYPE_CHECKING:
    import pandas

#: `SCHEMA_VERSION` of src/store/schema.sql.ts.
SCHEMA_VERSION = 2
#: `UNCHECKED_VERSION` there: what 0.1.0 wrote.
UNCHECKED_VERSION = 1

#: Conditions that are printed.
SHOWN = 20

#: Type of a column of the table `result` → what pandas makes of it; all but the floats know missing values.
DTYPES = {"REAL": "float64", "INTEGER": "Int64", "TEXT": "string"}


@dataclass(frozen=True, repr=False)
class Results:
    """What `load` and `sweep` give. Numbers are those of results.sqlite, bit for bit; nothing is rounded.

    Args:
        rows: one row a condition, the baseline first, with the columns of ``report --format csv``. An
            interval is two columns (``ci95_low``, ``ci95_high``); what was not measured is NaN or NA.
        blocks: one row a condition and block, in the order of evaluation: ``condition``, ``block`` (its
            index in the text), ``delta_nll`` (nats per predicted token, paired with the baseline on the same
            block; NaN where the baseline is missing) and ``nll_sum``, ``kl_sum``, … (sums over the block's
            predicted tokens). With a task a block is an item, ``block`` its index in the file, and
            ``nll_sum``, ``logit_diff_sum``, … are the item's own values. The null conditions of the numeric
            floor are left out.
        tokens: predicted tokens a block: ``nll_sum / tokens`` is the block's NLL. 1 with a task.
        items: of a task, one row an item in the order of evaluation: ``block``, ``prompt``, ``answer``,
            ``wrong`` (NA without one) and ``tokens`` (of the answer). No rows where a text was evaluated.
        facts: what a report says of the run beside its rows: model, text, sizes, the config as YAML.
        finished: when the run was finished, ISO 8601; None while conditions are missing. ``rows`` of a
            run that is not finished may be some seconds older than ``blocks``.
        notices: what the run said: tokens dropped, sites that the self-test refused.

    It prints as a table, in notebooks too.
    """

    rows: pandas.DataFrame
    blocks: pandas.DataFrame
    tokens: int
    items: pandas.DataFrame
    facts: dict[str, Any]
    finished: str | None
    notices: tuple[str, ...] = ()
    _source: Path | sqlite3.Connection | None = field(default=None, repr=False, compare=False)
    _kept: dict[str, bytes] = field(default_factory=dict, repr=False, compare=False)

    @property
    def ranked(self) -> pandas.DataFrame:
        """The conditions without the baseline, the most harmful first."""
        rows = self.rows[self.rows["condition"] != "baseline"]
        return rows.sort_values("delta_nll", ascending=False, kind="stable", na_position="last")

    @property
    def config(self) -> str:
        """The YAML that the run stands for: `sparkablate run -c` of it is the same run."""
        return str(self.facts["config"])

    def __repr__(self) -> str:
        return f"{self._title()}\n{self._table().to_string(index=False)}"

    def _repr_html_(self) -> str:
        from html import escape

        return f"<p>{escape(self._title())}</p>{self._table().to_html(index=False, na_rep='')}"

    def _title(self) -> str:
        baseline = self.rows["nll"].iloc[0]
        marked = int(self.ranked["distinguishable"].fillna(False).sum())
        given = f", given {self.rows['given'].iloc[0]}" if "given" in self.rows else ""
        return (
            f"{self.facts['model']}, {self.facts['text']}{given}: baseline {baseline:.4f} nats; {marked} of "
            f"{len(self.ranked)} effects distinguishable from 0" + ("" if self.finished else "; not finished")
        )

    def _table(self) -> pandas.DataFrame:
        """The ranking as people read it."""
        pandas, ranked = _pandas(), self.ranked.head(SHOWN)

        def interval(row: Any) -> str:
            low, high = row["ci95_low"], row["ci95_high"]
            return "" if pandas.isna(low) else f"[{low:+.3f}, {high:+.3f}]"

        frame = pandas.DataFrame(
            {"": ["*" if mark else "" for mark in ranked["distinguishable"].fillna(False)]}
        )
        frame["condition"] = ranked["condition"].to_list()
        frame["Δ NLL"] = ["" if pandas.isna(value) else f"{value:+.3f}" for value in ranked["delta_nll"]]
        frame["95 % interval"] = [interval(row) for _, row in ranked.iterrows()]
        frame["q"] = ["" if pandas.isna(value) else f"{value:.2g}" for value in ranked["q"]]
        for name in ("worse_blocks", "flags"):
            if name in ranked:
                frame[name.split("_")[0]] = ranked[name].fillna("").to_list()
        return frame

    def plot(self, ax: Any = None, top: int | None = None) -> Any:
        """Bars of Δ NLL with 95 % intervals, of heads a layer × head map; gives matplotlib's axes.

        Args:
            ax: axes to draw into; default: new ones.
            top: draws bars of so many conditions, the most harmful first; default: all, in order.

        Raises SparkablateError("environment_missing") without matplotlib, "usage" for another top.
        """
        from sparkablate.drawing import draw

        return draw(self.rows[self.rows["condition"] != "baseline"], self.ranked, ax, top)

    def save(self, directory: str | os.PathLike[str]) -> Path:
        """Writes a run directory that `load` and `sparkablate report` open; returns its path.

        Raises SparkablateError: "not_ours" for a directory that is not empty, "storage_failed", "usage".
        """
        if not isinstance(directory, str | os.PathLike):
            raise SparkablateError("usage", f"expected the path of a run directory, not {directory!r:.200}")
        if self._source is None:
            raise SparkablateError("usage", "these results were made by hand, so there is no run to save")
        target = Path(directory).absolute()
        part = target / "results.sqlite.part"
        try:
            target.mkdir(parents=True, exist_ok=True)
            if found := sorted(os.listdir(target)):
                raise SparkablateError(
                    "not_ours", f"{target} is not empty, it holds {found[0]}: save into a new directory"
                )
            for name, data in self._kept.items():
                (target / name).write_bytes(data)
            with closing(sqlite3.connect(part, isolation_level=None)) as copy:
                with self._reading() as source:
                    source.backup(copy)
                self._move(copy, target)
            os.replace(part, target / "results.sqlite")
        except (OSError, sqlite3.Error) as error:
            part.unlink(missing_ok=True)
            raise SparkablateError("storage_failed", f"{target} cannot be written to: {error}") from error
        return target

    def _reading(self) -> AbstractContextManager[sqlite3.Connection]:
        if isinstance(self._source, Path):
            return _reading(self._source / "results.sqlite")
        assert self._source is not None
        return nullcontext(self._source)

    def _move(self, copy: sqlite3.Connection, target: Path) -> None:
        """What the run says of its own place."""
        import yaml

        config = yaml.safe_load(self.config)
        for part, key in (("eval", "dataset"), ("eval", "calibration"), ("eval", "task")):
            if str(config[part][key]) in self._kept:
                config[part][key] = str(target / str(config[part][key]))
        config["output"]["dir"] = str(target)
        text = yaml.safe_dump(config, sort_keys=False, allow_unicode=True, width=1 << 20)
        (target / "config.yaml").write_text(text, encoding="utf-8")
        copy.execute("BEGIN")
        (stored,) = copy.execute("SELECT facts FROM run").fetchone()
        facts = {**json.loads(stored), "name": target.name, "config": text}
        copy.execute(
            "UPDATE run SET facts = ?", (json.dumps(facts, ensure_ascii=False, separators=(",", ":")),)
        )
        checksums.write(copy, ("run",))
        copy.execute("COMMIT")


def load(directory: str | os.PathLike[str]) -> Results:
    """A run's results, finished or not. The run is only read, and a sweep that writes to it is not disturbed.

    ``directory`` is a run directory: the one that holds results.sqlite.

    Raises ``environment_missing`` without pandas, ``input_missing`` where there is no run, or one that was
    stopped before its first measurement, ``store_corrupt`` for a damaged database or one that is not ours,
    ``not_ours`` where a link, a pipe or a directory has the name of the database, ``run_locked`` while
    another program keeps it from being read, ``storage_failed`` where the disk fails, ``usage`` for what is
    no path.
    """
    _pandas()
    try:
        path = Path(directory) / "results.sqlite"
    except TypeError as error:
        raise SparkablateError(
            "usage", f"directory must be the path of a run directory, not of type {type(directory).__name__}"
        ) from error
    if not _is_own(path):
        raise SparkablateError(
            "input_missing", f"{directory} is not a run directory: it has no results.sqlite"
        )
    with _reading(path) as database:
        return of_database(database, Path(directory))


def of_database(
    database: sqlite3.Connection, directory: Path | None, kept: Mapping[str, bytes] | None = None
) -> Results:
    """The results in an open database: that of ``directory``, or one in memory, with the texts that a
    directory of it would ``kept``."""
    tables = {name for (name,) in database.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")}
    begun = tables and database.execute("SELECT facts, notices, finished_at FROM run").fetchone()
    # The table of rows is written right after the run is.
    if not begun or "result" not in tables:
        raise SparkablateError(
            "input_missing",
            f"{directory}: the run was stopped before its first measurement; "
            "run the same 'sparkablate run' command again",
        )
    facts, notices, finished = json.loads(begun[0]), json.loads(begun[1]), begun[2]
    # The values of a task's items are whole.
    tokens = 1 if facts.get("task") else facts["seq_len"] - 1
    items = _items(database, bool(facts.get("task")))
    return Results(
        _rows(database),
        _blocks(database, tokens),
        tokens,
        items,
        facts,
        finished,
        tuple(notices),
        database if directory is None else directory,
        dict(kept or {}),
    )


def _pandas() -> Any:
    try:
        import pandas
    except ImportError as error:
        raise SparkablateError(
            "environment_missing", "results need the Python package 'pandas': pip install 'pandas>=2.2'"
        ) from error
    return pandas


#: What SQLite opens by name, beside the database, following links: src/store/own-files.ts.
_OPENED = ("", "-wal", "-shm")


def _is_own(path: Path) -> bool:
    """Whether there is a database. Raises ``not_ours`` for links and devices in the place of a run's files,
    and for another program's journal."""
    try:
        is_there = [_is_file(path.with_name(path.name + suffix)) for suffix in _OPENED]
        journal = path.with_name(f"{path.name}-journal")
        if os.path.lexists(journal):
            raise _foreign(journal, "is the journal of another program that was writing to the database")
    except (OSError, ValueError) as error:  # a name that is too long, or has a zero byte
        raise SparkablateError("input_missing", f"{path} cannot be used: {error}") from error
    return is_there[0]


def _is_file(path: Path) -> bool:
    """False where nothing is there."""
    try:
        mode = path.lstat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return False
    if stat.S_ISLNK(mode):
        raise _foreign(path, "is a symbolic link")
    if not stat.S_ISREG(mode):
        raise _foreign(path, "is not a file")
    return True


def _foreign(path: Path, fault: str) -> SparkablateError:
    return SparkablateError(
        "not_ours",
        f"{path} {fault}: a run directory must contain its own files; copy it with 'cp -rL', which "
        "replaces links by files, or remove this one",
    )


#: Parts of SQLite's messages, whose codes are there from Python 3.11 on → what src/store/failure.ts says.
_FAILURES = {
    "is locked": ("run_locked", "is in use by another program"),
    "disk I/O error": ("storage_failed", "cannot be used"),
    "readonly database": ("storage_failed", "cannot be used"),
    "unable to open": ("input_missing", "cannot be used"),
}


@contextmanager
def _reading(path: Path) -> Iterator[sqlite3.Connection]:
    """A connection that cannot write and sees one state of the run."""
    is_checked = False
    try:
        with closing(sqlite3.connect(_address(path), uri=True, isolation_level=None)) as database:
            database.execute("PRAGMA cell_size_check = ON")
            database.execute("BEGIN")
            (version,) = database.execute("PRAGMA user_version").fetchone()
            (is_empty,) = database.execute("SELECT count(*) = 0 FROM sqlite_schema").fetchone()
            # Version 0 without a table: the controller was killed before it made them.
            if version not in (SCHEMA_VERSION, UNCHECKED_VERSION) and not (version == 0 and is_empty):
                raise SparkablateError(
                    "store_corrupt",
                    f"{path} has format {version}, "
                    f"this version reads {UNCHECKED_VERSION} and {SCHEMA_VERSION}",
                )
            (problem,) = database.execute("PRAGMA integrity_check(1)").fetchone()
            if problem != "ok":
                raise SparkablateError("store_corrupt", f"{path} is damaged: {problem}")
            if version == SCHEMA_VERSION:
                checksums.verify(database, path)
                is_checked = True
            elif not is_empty:
                checksums.require_tables(database, path)
            yield database
    except sqlite3.Error as error:
        code, fault = next(
            (found for part, found in _FAILURES.items() if part in str(error)),
            ("store_corrupt", "is not a readable database of ours"),
        )
        raise SparkablateError(code, f"{path} {fault}: {error}") from error
    except (KeyError, TypeError, ValueError) as error:
        if is_checked:
            raise
        # A run of 0.1.0 has no checksums: any value may be anything.
        raise SparkablateError("store_corrupt", f"{path} is damaged: {error}") from error


def _address(path: Path) -> str:
    """A reader of a write-ahead log keeps an index beside it; where it may not, nobody writes a log."""
    is_still = not os.access(path.parent, os.W_OK) and not path.with_name(f"{path.name}-wal").exists()
    return f"file:{quote(str(path.resolve()))}?mode=ro{'&immutable=1' if is_still else ''}"


def _rows(database: sqlite3.Connection) -> pandas.DataFrame:
    pandas = _pandas()
    columns = [(name, kind) for _, name, kind, *_ in database.execute("PRAGMA table_info(result)")]
    values = list(zip(*database.execute("SELECT * FROM result ORDER BY rowid"), strict=True))
    frame = pandas.DataFrame(
        {
            name: pandas.Series(
                column, dtype="boolean" if name.endswith("distinguishable") else DTYPES[kind.split()[0]]
            )
            for (name, kind), column in zip(columns, values, strict=True)
        }
    )
    # A run of 0.1.0 has this column under its earlier name alone.
    for end in ("", "_se", "_ci95_low", "_ci95_high"):
        earlier, now = f"top1{end}", f"top1_changed{end}"
        if earlier in frame and now not in frame:
            frame.insert(list(frame).index("error"), now, frame[earlier])
    return frame


def _items(database: sqlite3.Connection, of_task: bool) -> pandas.DataFrame:
    pandas = _pandas()
    rows = (
        database.execute(
            "SELECT position, prompt, answer, wrong, tokens FROM item JOIN block USING (ordinal) "
            "WHERE split = 'evaluation' ORDER BY ordinal"
        ).fetchall()
        if of_task
        else []
    )
    frame = pandas.DataFrame(rows, columns=["block", "prompt", "answer", "wrong", "tokens"])
    return frame.astype(
        {"block": "int64", "prompt": "string", "answer": "string", "wrong": "string", "tokens": "int64"}
    )


def _blocks(database: sqlite3.Connection, tokens: int) -> pandas.DataFrame:
    pandas = _pandas()
    ids = dict(database.execute("SELECT ordinal, id FROM condition WHERE nudge IS NULL"))
    positions = dict(database.execute("SELECT ordinal, position FROM block WHERE split = 'evaluation'"))
    measured = pandas.DataFrame(
        database.execute("SELECT condition, block, metric, sum FROM measurement").fetchall(),
        columns=["condition", "block", "metric", "sum"],
    )
    # Ordinals sort as the run does.
    sums = measured[measured["condition"].isin(ids)].pivot(
        index=["condition", "block"], columns="metric", values="sum"
    )
    conditions, blocks = (sums.index.get_level_values(level) for level in ("condition", "block"))
    baseline = sums["nll"].xs(0, level="condition") if 0 in conditions else pandas.Series(dtype="float64")
    nll = sums["nll"].to_numpy(dtype="float64") if "nll" in sums else []
    frame = {
        "condition": pandas.array([ids[one] for one in conditions], dtype="string"),
        "block": pandas.array([positions[one] for one in blocks], dtype="int64"),
        "delta_nll": (nll - baseline.reindex(blocks).to_numpy(dtype="float64")) / tokens if len(nll) else [],
    }
    for metric in sorted(sums.columns, key=lambda name: (name != "nll", name)):
        frame[f"{metric}_sum"] = sums[metric].to_numpy(dtype="float64")
    return pandas.DataFrame(frame)
