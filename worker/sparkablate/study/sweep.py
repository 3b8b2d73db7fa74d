"""`sweep()`: what `sparkablate run` measures, in Python: the same blocks, walk, sums and files."""

from __future__ import annotations

import hashlib
import os
import secrets
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from sparkablate.catalog import SITES
from sparkablate.engines import requests
from sparkablate.engines.local import LocalEngine
from sparkablate.engines.requests import Caller
from sparkablate.errors import SparkablateError
from sparkablate.measure.metrics import METRICS
from sparkablate.measure.slice import Measurement
from sparkablate.progress import Progress, silent
from sparkablate.results import Results, of_database
from sparkablate.specs import AblationSpec, DirectionSpec, condition_id
from sparkablate.study.arguments import directory_of, settings_of
from sparkablate.study.bar import Bar
from sparkablate.study.choice import choose
from sparkablate.study.directory import Means, Record, Store, opened
from sparkablate.study.planning import DEFAULT_CONFIG, Condition, plan, to_wire
from sparkablate.study.prepared import Settings, Study
from sparkablate.study.records import config_of, config_yaml, facts_of, identity_of, seen_of
from sparkablate.study.rows import columns_of, rows_of
from sparkablate.study.sampling import Block
from sparkablate.study.subject import Subject, subject_of

#: Where a model has fewer positions, as many as it has.
SEQ_LEN = int(DEFAULT_CONFIG["eval"]["seq_len"])
#: Rows that are asked for at a time, before anything of a task's lengths is known.
SHORTEST_ROW = 2


def sweep(
    model: Any,
    tokenizer: Any,
    conditions: Any,
    *,
    text: Any = None,
    task: Any = None,
    mode: str | Sequence[str] = "zero",
    layers: Any = "all",
    positions: str = "all",
    given: Any = None,
    blocks: int | None = 32,
    seq_len: int | None = None,
    batch_size: int = 4,
    calibration: Any = None,
    calibration_blocks: int = 32,
    metrics: str | Sequence[str] = (),
    add_bos: bool | str = "auto",
    seed: int = 0,
    dir: str | os.PathLike[str] | None = None,
    retry_failed: bool = False,
    progress: bool = True,
) -> Results:
    """Measures what each knock-out costs: Δ NLL with its interval, p and q, as `sparkablate run` does.

    The same blocks, forward passes and statistics as the command's run of the same thing; the sums are equal
    to the bit. The model is proved first, as at every load. Races (`stop:`), pairs of an earlier run, mode
    patch and pages are the command line's.

    Args:
        model, tokenizer: as `load_model` or transformers give them; the model in evaluation mode.
        conditions: "heads", "layers", "mlp", "attn", "kv_groups" or a site of your own (`register_site`), one
            condition each; or a list: ids like
            "L14.head[3,7].zero", specs, or lists of specs that act jointly.
        text: path of a .txt file, a text, or a dataset {"path", "config", "split", "column"}.
        task: instead of a text: a .jsonl file of {"prompt", "answer", "wrong"?}, or a list of them.
        mode: of a sweep by name: "zero", "mean", "resample", or several.
        layers: of a sweep by name: "all", or numbers; negative ones count from the end.
        positions: "all", or "not_first" to leave each block's first position alone.
        given: edits that all is measured on top of, the baseline too: an id like "L3.head[2].zero", a spec,
            or a list of them. Effects are against that baseline; `.rows` then has a column `given`.
        blocks: how many blocks (or items) are measured; None: all of the text.
        seq_len: tokens a block; default 1024, or what the model has positions for.
        batch_size: blocks a forward pass; part of what makes a run's bits.
        calibration: text for means and donors; default: blocks that evaluation does not use.
        calibration_blocks: how many of those means are taken over.
        metrics: besides nll: "kl", "top1", or your own (`register_metric`); with a task "logit_diff" and
            "accuracy" come unasked.
        add_bos: whether a BOS token stands before every block; "auto": as the tokenizer, or the model, needs.
        seed: which blocks, in which order.
        dir: a run directory. It is resumed if it holds this run; `sparkablate report` opens it.
        retry_failed: measures conditions again that failed before.
        progress: shows a bar.

    Returns: `Results`: `.rows` (one a condition, a pandas frame), `.blocks`, `.plot()`, `.save(dir)`.

    An interrupt (Ctrl-C) keeps what was measured where there is a `dir`: the same call goes on. Raises
    SparkablateError: "usage" for arguments, "text_too_short", "input_missing", "config_invalid",
    "site_unsupported", "conditions_overlap", "other_run" for a directory of another run, and what a load
    raises.
    """
    settings = settings_of(
        text, task, calibration, seq_len, batch_size, blocks, calibration_blocks, add_bos, seed, metrics
    )
    directory = directory_of(dir)
    subject = subject_of(model, tokenizer)
    with Bar(progress) as bar:
        study = _prepared(subject, conditions, settings, mode, layers, positions, given, bar)
        with opened(directory) as store:
            _measure(study, store, retry_failed, bar)
            return of_database(store.database, directory, study.kept)


def _prepared(
    subject: Subject,
    conditions: Any,
    settings: Settings,
    mode: Any,
    layers: Any,
    positions: Any,
    given: Any,
    progress: Progress,
) -> Study:
    most = _positions(subject.model)
    seq_len = settings.seq_len or min(SEQ_LEN, most or SEQ_LEN)
    shape = (settings.batch_size, SHORTEST_ROW if settings.task is not None else seq_len)
    loaded = subject.proved(shape, progress)
    engine = LocalEngine(loaded)
    wants = plan(
        conditions,
        loaded.manager.sites,
        mode=mode,
        layers=layers,
        positions=positions,
        nulls=subject.request["dtype"] != "float32",
        given=given,
    )
    if "patch" in wants.modes_used:
        raise SparkablateError(
            "usage",
            "mode 'patch' takes its activations from a source that is aligned with the task: write it as a "
            "config and use 'sparkablate run', or record_sources() and applied()",
        )
    for spec in wants.edits:
        if isinstance(spec, DirectionSpec) and spec.vector is not None:
            engine.answer(requests.PutDirection(spec.sha256, spec.vector.numpy(), spec.norm))
    chosen = choose(engine, loaded, settings, seq_len, wants, progress)
    if settings.task is not None:
        shape = (settings.batch_size, chosen.seq_len)
        loaded.prove(shape)
    metrics = settings.metrics
    if settings.task is not None:
        unasked = {"accuracy", *(("logit_diff",) if settings.task.wrong else ())}
        metrics = tuple(name for name in METRICS if name in unasked or name in settings.metrics)
    return Study(subject, settings, loaded, engine, wants, chosen, shape, metrics)


def _positions(model: Any) -> int | None:
    config = getattr(model, "config", None)
    if config is not None and hasattr(config, "get_text_config"):
        config = config.get_text_config()
    found = getattr(config, "max_position_embeddings", None)
    return found if isinstance(found, int) and found > 1 else None


def _measure(study: Study, store: Store, retry_failed: bool, bar: Bar) -> None:
    config = config_of(study.subject, study.settings, study.plan, store.path and store.path.parent)
    identity = identity_of(study, config)
    stored = store.identity()
    if stored is None:
        means = _calibrated(study, bar)
        _require_given(study, means)
        directory = None if store.path is None else store.path.parent
        for name, data in study.kept.items() if directory else ():
            (directory / name).write_bytes(data)  # type: ignore[operator]
        record = Record(
            secrets.token_hex(16),
            identity,
            _model(study),
            facts_of(study, config, directory),
            _notices(study),
        )
        items = [
            (ordinal, study.settings.task.items[block.index], block.answer["end"] - block.answer["begin"])
            for ordinal, block in enumerate(study.chosen.evaluation)
            if study.settings.task is not None and block.answer is not None
        ]
        blocks = {"evaluation": study.chosen.evaluation, "calibration": study.chosen.calibration}
        if study.chosen.donors:
            blocks["resample"] = study.chosen.donors
        store.begin(record, blocks, items, study.plan.conditions, means, seen_of(study, config))
        if directory is not None:
            (directory / "config.yaml").write_text(config_yaml(config), encoding="utf-8")
    else:
        _require_same(store, stored, identity)
        means = store.means()
    _put(study, means)
    try:
        _evaluate(study, store, means, retry_failed, bar)
        store.finish()
    finally:
        store.write_result(columns_of(store.database), rows_of(store.database))


def _put(study: Study, means: Means | None) -> None:
    if means is not None:
        values = np.frombuffer(means.vectors, dtype="<f4")
        study.engine.answer(requests.PutMeans(means.sha256, means.sites, values))


def _require_given(study: Study, means: Means | None) -> None:
    """All is measured on top of the given edits: raises what they alone fail with."""
    if not study.plan.given:
        return
    _put(study, means)
    first = range(min(study.settings.batch_size, len(study.chosen.evaluation)))
    found: list[Measurement] = []
    request = _request(study, means, first, study.plan.conditions[:1])
    study.engine.answer(request, Caller(silent, found.append))
    error = found[0].error
    if error is not None:
        raise SparkablateError(
            error.code,
            f"given: {condition_id(study.plan.given)} fails alone, so nothing can be measured on top of it: "
            f"{error.message}",
            error.detail,
        )


def _require_same(store: Store, stored: Mapping[str, str], now: Mapping[str, str]) -> None:
    differing = [part for part in sorted({*stored, *now}) if stored.get(part) != now.get(part)]
    if not differing:
        return
    shown = [f"  {part}: {_short(stored.get(part))} there, {_short(now.get(part))} now" for part in differing]
    where = store.path.parent if store.path else ""
    raise SparkablateError(
        "other_run",
        "\n".join([f"{where} belongs to another run; these differ:", *shown, "give another dir"]),
    )


def _short(value: str | None) -> str:
    if value is None:
        return "absent"
    return value[:12] if len(value) == 64 else value


def _model(study: Study) -> dict[str, Any]:
    return {key: value for key, value in study.wire.items() if key != "model_files"}


def _notices(study: Study) -> list[str]:
    return [*study.loaded.notices, *study.plan.notices, *study.chosen.notices]


def _calibrated(study: Study, progress: Progress) -> Means | None:
    sites: dict[str, dict[str, Any]] = {}
    for spec in study.plan.edits:
        if isinstance(spec, AblationSpec) and spec.mode == "mean":
            site = {"kind": SITES[spec.kind].values, "layer": spec.layer, "positions": spec.positions}
            sites.setdefault(str(site), site)
    if not sites:
        return None
    rows = [block.ids for block in study.chosen.calibration]
    wired, values = study.engine.answer(
        requests.Calibrate(rows, study.settings.batch_size, list(sites.values())), Caller(progress)
    )
    vectors = values.astype("<f4").tobytes()
    return Means(hashlib.sha256(vectors).hexdigest(), wired, vectors)


def _evaluate(study: Study, store: Store, means: Means | None, retry_failed: bool, bar: Bar) -> None:
    """Every missing condition of every batch; an interrupt keeps what is measured."""
    conditions, blocks = study.plan.conditions, study.chosen.evaluation
    size = study.settings.batch_size
    batches = [list(range(begin, min(begin + size, len(blocks)))) for begin in range(0, len(blocks), size)]
    measured = store.measured()
    failed = set() if retry_failed else set(store.failures())
    missing = {
        batch: [
            ordinal
            for ordinal in range(len(conditions))
            if ordinal not in failed and not measured.get(ordinal, set()).issuperset(ordinals)
        ]
        for batch, ordinals in enumerate(batches)
    }
    bar.begin(sum(map(len, missing.values())), len(conditions))
    for batch, ordinals in enumerate(batches):
        wanted = [ordinal for ordinal in missing[batch] if ordinal not in failed]
        if not wanted:
            continue
        by_id = {conditions[ordinal].id: ordinal for ordinal in wanted}

        def report(
            measurement: Any,
            batch: int = batch,
            ordinals: list[int] = ordinals,
            by_id: dict[str, int] = by_id,
        ) -> None:
            ordinal = by_id[measurement.condition]
            store.record(ordinal, batch, ordinals, measurement)
            if measurement.error is not None:
                failed.add(ordinal)
            bar.step()

        study.engine.answer(
            _request(study, means, ordinals, [conditions[ordinal] for ordinal in wanted]),
            Caller(silent, report),
        )


def _request(
    study: Study, means: Means | None, ordinals: Sequence[int], conditions: Sequence[Condition]
) -> requests.Evaluate:
    def stacked(rows: Sequence[Block]) -> np.ndarray:
        return np.stack([rows[ordinal].ids for ordinal in ordinals])

    chosen = study.chosen
    answers = [chosen.evaluation[ordinal].answer for ordinal in ordinals]
    return requests.Evaluate(
        stacked(chosen.evaluation),
        [condition.to_wire() for condition in conditions],
        list(study.metrics),
        None if means is None else means.sha256,
        None if study.settings.task is None else [answer for answer in answers if answer is not None],
        donors={"resample": stacked(chosen.donors)} if chosen.donors else {},
        given=[to_wire(spec) for spec in study.plan.given],
    )
