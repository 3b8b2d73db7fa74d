"""Whatever interrupts a sweep, its database is as it was checked."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from sparkablate import checksums
from sparkablate.errors import SparkablateError
from sparkablate.measure.slice import Measurement
from sparkablate.study.directory import Record, Store, opened
from sparkablate.study.planning import Condition
from sparkablate.study.sampling import Block


class Interrupting(str):
    """A column's name whose second reading is Ctrl-C."""

    def __new__(cls, text: str) -> Interrupting:
        made = super().__new__(cls, text)
        made.read = 0  # type: ignore[attr-defined]
        return made

    def encode(self, *arguments: str) -> bytes:
        self.read += 1  # type: ignore[attr-defined]
        if self.read == 2:
            raise KeyboardInterrupt
        return str(self).encode(*arguments)


def measured(column: str, *sums: float) -> Measurement:
    return Measurement("baseline", (column,), np.array([sums]), 7, 0.1)


def begun(store: Store) -> None:
    blocks = [Block(0, np.zeros(8, dtype="<i4"), "a"), Block(1, np.ones(8, dtype="<i4"), "b")]
    record = Record("id", {"weights": "x"}, {}, {"seq_len": 8, "task": None}, [])
    store.begin(record, {"evaluation": blocks}, [], [Condition("baseline")], None, None)


def test_a_measurement_is_whole_or_not_there(tmp_path: Path) -> None:
    with opened(tmp_path) as store:
        begun(store)
        store.record(0, 0, [0], measured("kl", 1.0))
        with pytest.raises(KeyboardInterrupt):
            store.record(0, 0, [0, 1], measured(Interrupting("nll"), 1.0, 2.0))
    checksums.verify_file(tmp_path / "results.sqlite")
    with opened(tmp_path) as store:
        assert store.measured() == {}
        store.record(0, 0, [0, 1], measured("nll", 1.0, 2.0))
        store.record(0, 0, [0, 1], measured("nll", 1.0, 2.0))  # the same again is nothing new
        with pytest.raises(SparkablateError, match=r"2\.5 was measured where 2\.0 is stored"):
            store.record(0, 0, [0, 1], measured("nll", 1.0, 2.5))
        assert store.measured() == {0: {0, 1}}
    checksums.verify_file(tmp_path / "results.sqlite")
    assert not (tmp_path / "run.lock").exists()


def test_one_writer(tmp_path: Path) -> None:
    with opened(tmp_path), pytest.raises(SparkablateError, match="is in use by pid"), opened(tmp_path):
        pass


def test_nobody_elses_directory(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").touch()
    wanted = r"is neither empty nor a run directory; it holds thesis\.tex"
    with pytest.raises(SparkablateError, match=wanted), opened(tmp_path):
        pass
