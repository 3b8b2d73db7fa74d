"""What a sweep is measured on: a text's blocks or a task's items, and the blocks of means and donors."""

from __future__ import annotations

from sparkablate.engines import requests
from sparkablate.engines.loaded import Loaded
from sparkablate.engines.local import LocalEngine
from sparkablate.engines.requests import Caller
from sparkablate.errors import SparkablateError
from sparkablate.progress import Progress
from sparkablate.study import inputs, sampling
from sparkablate.study.planning import Plan
from sparkablate.study.prepared import Settings
from sparkablate.study.sampling import Block, Chosen, Shape, Wanted


def choose(
    engine: LocalEngine, loaded: Loaded, settings: Settings, seq_len: int, wants: Plan, progress: Progress
) -> Chosen:
    batch, positions = loaded.canary.ids.shape
    wire = loaded.to_wire((batch, positions), 0.0, False)
    bos = (
        wire["bos_token_id"]
        if (wire["adds_bos"] if settings.add_bos == "auto" else settings.add_bos)
        else None
    )
    if settings.add_bos is True and bos is None:
        raise SparkablateError("usage", "add_bos=True, but the tokenizer has no BOS token")
    means = "mean" in wants.modes_used
    wanted = Wanted(
        settings.blocks,
        settings.calibration_blocks if means else 0,
        settings.batch_size,
        settings.seed,
        "resample" in wants.modes_used,
    )
    caller = Caller(progress)
    shape = Shape(seq_len, bos)
    calibration = None
    if settings.calibration is not None and (means or wanted.resample):
        calibration = _tokens(engine, settings.calibration, caller)
    if settings.task is not None:
        return _items(engine, settings.task, calibration, shape, wanted, caller)
    assert settings.text is not None
    return sampling.choose_blocks(_tokens(engine, settings.text, caller), calibration, shape, wanted)


def _tokens(engine: LocalEngine, source: inputs.Source, caller: Caller) -> sampling.Text:
    ids, more, notices = engine.answer(
        requests.Tokenize(source.text, source.dataset, sampling.MAX_TEXT_TOKENS), caller
    )
    if more:
        notices = [*notices, f"{source.name} is too long; its first {len(ids)} tokens are used"]
    return sampling.Text(source.name, ids, [*source.notices, *notices])


def _items(
    engine: LocalEngine,
    task: inputs.Task,
    calibration: sampling.Text | None,
    shape: Shape,
    wanted: Wanted,
    caller: Caller,
) -> Chosen:
    if wanted.resample:
        raise SparkablateError(
            "usage",
            "mode 'resample' of a task draws aligned donors: write it as a config and use 'sparkablate run'",
        )
    encoded, notices = engine.answer(
        requests.TokenizeTask(task.items, task.name, sampling.MAX_TEXT_TOKENS), caller
    )
    for index, item in enumerate(encoded):
        if len(item.ids) + (shape.bos is not None) > shape.seq_len:
            raise SparkablateError(
                "config_invalid",
                f"{task.name}:{index + 1}: prompt and answer have {len(item.ids)} tokens; seq_len allows "
                f"{shape.seq_len}",
            )
    own = Wanted(**{**vars(wanted), "calibration": 0}) if calibration is not None else wanted
    chosen = sampling.choose_items(task.name, encoded, shape.bos, own)
    chosen.notices[:0] = notices
    if calibration is not None and wanted.calibration > 0:
        total = len(calibration.ids) // shape.width
        real = [
            Block(block.index, block.ids[: block.answer["end"]], block.sha256)
            for block in chosen.evaluation
            if block.answer is not None
        ]
        order = sampling.shuffled(total, wanted.seed)
        chosen.calibration = sampling.disjoint(
            calibration, order, wanted.calibration, real, shape, chosen.notices
        )
    return chosen
