"""What a run is, beside its rows: its config, identity and facts, as src/run/records.ts and
src/store/fingerprint.ts have them, so that `sparkablate run` of the config goes on with it."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from sparkablate.specs import DirectionSpec, spec_id
from sparkablate.study.directory import compact, now
from sparkablate.study.planning import DEFAULT_CONFIG, Plan, plain, to_wire
from sparkablate.study.prepared import Settings, Study
from sparkablate.study.subject import Subject
from sparkablate.version import __version__


def config_of(subject: Subject, settings: Settings, wants: Plan, directory: Path | None) -> dict[str, Any]:
    """The config that the call stands for, complete."""
    config: dict[str, Any] = copy.deepcopy(dict(DEFAULT_CONFIG))
    config["model"] |= subject.request
    name = str(subject.request["name"])
    if subject.origin is not None and Path(name).is_dir():
        config["model"]["name"] = str(Path(name).resolve())
    task, size = settings.task, settings.batch_size
    own = config["eval"]["calibration"] if settings.calibration is None else settings.calibration
    config["eval"] |= {
        "dataset": None if settings.text is None else settings.text.in_config(directory),
        "task": None if task is None else str(task.path or (directory or Path()) / task.name),
        "calibration": own and own.in_config(directory),
        "seq_len": settings.seq_len or config["eval"]["seq_len"],
        "batch_size": size,
        "max_batches": None if settings.blocks is None else settings.blocks // size,
        "calibration_batches": settings.calibration_blocks // size,
        "add_bos": settings.add_bos,
        "seed": settings.seed,
        "metrics": list(settings.metrics),
    }
    config["ablation"] |= wants.ablation
    config["output"] = {"dir": str(directory or "results/sweep")}
    return config


def config_yaml(config: Mapping[str, Any]) -> str:
    import yaml

    text: str = yaml.safe_dump(config, sort_keys=False, allow_unicode=True, width=1 << 20)
    return text


def identity_of(study: Study, config: Mapping[str, Any]) -> dict[str, str]:
    """Part → its value as text, or its sha256."""
    chosen = study.chosen
    wire = study.wire
    task = study.settings.task
    donors = {"resample sources": _joined(block.sha256 for block in chosen.donors)} if chosen.donors else {}
    return {
        **_flat(_identity_config(config), "config"),
        "weights": wire["weights_sha256"],
        "tokenizer": wire["tokenizer_sha256"],
        **({} if task is None else {"task": task.sha256}),
        "evaluation blocks": _joined(block.sha256 for block in chosen.evaluation),
        "calibration blocks": _joined(block.sha256 for block in chosen.calibration),
        **donors,
        **({"given": " + ".join(map(spec_id, study.plan.given))} if study.plan.given else {}),
        "conditions": _joined(condition.id for condition in study.plan.conditions),
        "directions": _joined(
            dict.fromkeys(
                f"{spec.sha256} {plain(spec.norm)}"
                for spec in study.plan.edits
                if isinstance(spec, DirectionSpec)
            )
        ),
        **_flat(wire["numerics"], "numerics"),
    }


def _identity_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """All but `output` and names and paths, in whose place the store puts digests of the contents."""
    left_out = {
        "model": {"name", "revision"},
        "eval": {"dataset", "task", "calibration"},
        "ablation": {"from", "top", "source"},
    }
    kept: dict[str, Any] = {
        part: {key: value for key, value in config[part].items() if key not in names}
        for part, names in left_out.items()
    }
    return {**kept, "stop": config["stop"]}


def _flat(value: Any, prefix: str) -> dict[str, str]:
    if not isinstance(value, Mapping):
        return {prefix: compact(value)}
    parts: dict[str, str] = {}
    for key, inner in value.items():
        parts |= _flat(inner, f"{prefix}.{key}")
    return parts


def _joined(lines: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def facts_of(study: Study, config: Mapping[str, Any], directory: Path | None) -> dict[str, Any]:
    """All that a report says of the run beside its rows: RunFacts of src/results/facts.ts."""
    settings, chosen = study.settings, study.chosen
    wire = study.wire
    task = settings.task
    text = task.name if task is not None else settings.text.name if settings.text is not None else ""
    calibration = text if settings.calibration is None else settings.calibration.name
    discovered = wire["model_map"]["discovered"]
    return {
        "name": "sweep" if directory is None else directory.name,
        "model": config["model"]["name"],
        "revision": wire["revision"],
        "weights_sha256": wire["weights_sha256"],
        **({} if discovered is None else {"discovered": discovered}),
        "numerics": wire["numerics"],
        "text": text,
        "task": task and {"sha256": task.sha256, "items": len(task.items), "wrong": task.wrong},
        "calibration": calibration if chosen.calibration else None,
        **({"resample_source": calibration} if chosen.donors else {}),
        "batch_size": study.shape[0],
        "seq_len": study.shape[1],
        "bos": _has_bos(study),
        "seed": settings.seed,
        "planned_blocks": len(chosen.evaluation),
        "planned_conditions": sum(bool(condition.specs) for condition in study.plan.conditions),
        "sweep": study.plan.sweep,
        **({"given": [to_wire(spec) for spec in study.plan.given]} if study.plan.given else {}),
        "statistics": {"correction": "bh", "floor": None, "race": None},
        "config": config_yaml(config),
        "version": __version__,
        "started": now(),
        "finished": None,
    }


def _has_bos(study: Study) -> bool:
    wire = study.wire
    wanted = study.settings.add_bos
    return bool(wire["adds_bos"] if wanted == "auto" else wanted) and wire["bos_token_id"] is not None


def seen_of(study: Study, config: Mapping[str, Any]) -> dict[str, Any] | None:
    """What a finished run is recognised by without loading (src/run/recognise.ts); None for an object."""
    if study.subject.origin is None:
        return None
    settings, model = study.settings, config["model"]
    found = {
        "version": __version__,
        "model.name": None
        if model["name"].startswith("/")
        else f"{model['name']} {_null(model['revision'])}",
        "eval.dataset": settings.text and settings.text.digest,
        "eval.calibration": settings.calibration and settings.calibration.digest,
        "eval.task": settings.task and settings.task.sha256,
        "directions": "",
    }
    return {
        "model": study.wire["model_files"],
        "inputs": {part: value for part, value in found.items() if value is not None},
    }


def _null(value: str | None) -> str:
    return "null" if value is None else value
