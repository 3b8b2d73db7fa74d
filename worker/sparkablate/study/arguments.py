"""The arguments of `sweep()`, checked before a model is looked at; messages speak of Python's names."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from sparkablate.arguments import described
from sparkablate.errors import SparkablateError
from sparkablate.measure.metrics import METRICS
from sparkablate.study import inputs
from sparkablate.study.prepared import Settings


def settings_of(
    text: Any,
    task: Any,
    calibration: Any,
    seq_len: Any,
    batch_size: Any,
    blocks: Any,
    calibration_blocks: Any,
    add_bos: Any,
    seed: Any,
    metrics: Any,
) -> Settings:
    if (text is None) == (task is None):
        raise SparkablateError(
            "usage",
            "sweep() measures on a text or on a task: give text='novel.txt' or task='items.jsonl'"
            + (", not both" if text is not None else ""),
        )
    batch = _whole("batch_size", batch_size, 1)
    for name, value in (("blocks", blocks), ("calibration_blocks", calibration_blocks)):
        if value is None and name == "blocks":
            continue
        if _whole(name, value, 1) % batch:
            raise SparkablateError(
                "usage", f"{name}={value} is not a multiple of batch_size={batch}: batches are whole"
            )
    if not isinstance(add_bos, bool) and add_bos != "auto":
        raise SparkablateError("usage", f"add_bos: allowed: True, False, 'auto', not {described(add_bos)}")
    source = None if text is None else inputs.source_of("text", text, "text.txt")
    given = None if calibration is None else inputs.source_of("calibration", calibration, "calibration.txt")
    return Settings(
        source,
        None if task is None else inputs.task_of(task),
        given,
        0 if seq_len is None else _whole("seq_len", seq_len, 2),
        batch,
        blocks,
        calibration_blocks,
        add_bos,
        _whole("seed", seed, 0),
        _metrics(metrics, task is not None),
    )


def _whole(name: str, value: Any, least: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
        raise SparkablateError("usage", f"{name} is a whole number from {least}, not {described(value)}")
    return int(value)


def _metrics(metrics: Any, is_task: bool) -> tuple[str, ...]:
    named = (
        [metrics]
        if isinstance(metrics, str)
        else list(metrics)
        if isinstance(metrics, Iterable)
        else [metrics]
    )
    for name in named:
        if name not in METRICS:
            raise SparkablateError("usage", f"metrics: {described(name)}; allowed: {', '.join(METRICS)}")
        if METRICS[name].needs == "wrong" and not is_task:
            raise SparkablateError("usage", f"metrics: {name!r} needs a task whose items have wrong answers")
    return tuple(name for name in METRICS if name == "nll" or name in named)


def directory_of(given: Any) -> Path | None:
    if given is None:
        return None
    if not isinstance(given, str | os.PathLike):
        raise SparkablateError("usage", f"dir: the path of a run directory is wanted, not {described(given)}")
    return Path(given).absolute()
