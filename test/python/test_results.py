"""`sparkablate.results` without pandas. What it reads: test/unit/store/pandas.test.ts, against SQLite."""

from __future__ import annotations

import json
import re
import shutil
import sys
from pathlib import Path

import pytest

from sparkablate import SparkablateError, results

SOURCE = Path(__file__).parents[2] / "src" / "store" / "schema.sql.ts"


def test_without_pandas_the_error_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)  # as Python marks a module that cannot be imported
    with pytest.raises(SparkablateError, match=r"pip install 'pandas>=") as caught:
        results.load(tmp_path)
    assert caught.value.code == "environment_missing"


def test_reads_the_format_that_the_controller_writes() -> None:
    (version,) = re.findall(r"SCHEMA_VERSION = (\d+);", SOURCE.read_text(encoding="utf-8"))
    assert int(version) == results.SCHEMA_VERSION


RUNS = Path(__file__).parents[1] / "fixtures" / "runs-0.1.0" / "runs"


@pytest.mark.parametrize("name", sorted(path.name for path in RUNS.iterdir()))
def test_reads_what_0_1_0_left(name: str, tmp_path: Path) -> None:
    directory = tmp_path / name
    shutil.copytree(RUNS / name, directory)
    lines = (directory / "results.jsonl").read_text(encoding="utf-8").splitlines()
    left = {row["condition"]: row for row in map(json.loads, lines)}
    loaded = results.load(directory)
    assert list(loaded.rows["condition"]) == list(left)
    for column in ("nll", "delta_nll", "se", "blocks", "tokens"):
        written = [row[column] for row in left.values()]
        read = [None if value != value else value for value in loaded.rows[column]]  # NaN is not itself
        assert read == written
    assert ("top1" in loaded.rows) == ("top1_changed" in loaded.rows)
    if "top1" in loaded.rows:
        assert loaded.rows["top1_changed"].equals(loaded.rows["top1"])
        assert loaded.rows["top1_changed_ci95_low"].equals(loaded.rows["top1_ci95_low"])
