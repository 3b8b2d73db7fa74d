"""One bake, from plan to place: refuse → live side → write → certify → rename."""

from __future__ import annotations

import gc
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sparkablate.anatomy.architectures import row_for
from sparkablate.bake import card, live, travel
from sparkablate.bake.certificate import judge, run_jobs, write_job
from sparkablate.bake.checkpoint import Checkpoint, check_plain, find_names
from sparkablate.bake.cuts import NOTHING, Wish, removals
from sparkablate.bake.edits import Planner
from sparkablate.bake.place import (
    RECORD,
    Place,
    check_target,
    placed,
    require_space,
    resolve_target,
    sync_file,
)
from sparkablate.bake.prune import Renumbering, mend_config
from sparkablate.bake.readers import converts, gguf_command, warnings_for
from sparkablate.bake.rules import check, constant_receiver, deleted
from sparkablate.bake.sizes import parameters_after
from sparkablate.bake.writer import plan_outputs, write_json, write_weights
from sparkablate.catalog import SITES
from sparkablate.edits.functions import MODES, SKIP
from sparkablate.edits.means import MeanKey
from sparkablate.errors import SparkablateError
from sparkablate.loading import numerics
from sparkablate.loading.configuration import model_class
from sparkablate.manager import AblationManager
from sparkablate.progress import Progress
from sparkablate.specs import AblationSpec, DirectionSpec, Spec, canonical, condition_id, validate

#: Room for configuration, tokenizer, card and the file system's own needs.
SPARE_BYTES = 16 << 20
#: Of a message, which has at most 1 MiB, for what was left behind.
LEFT_BYTES = 256 << 10


@dataclass(frozen=True)
class Source:
    """The loaded source model: `name` as it was asked for, its files, and the manager that edits it.

    `sha256`: of its tensors, where it came from no file. `files`: the directory whose other files travel,
    where that is not the one of the weights.
    """

    name: str
    revision: str | None
    directory: Path
    tokenizer: Any
    manager: AblationManager
    sha256: str | None = None
    files: Path | None = None


@dataclass(frozen=True)
class Telling:
    """What a bake tells beside its certificate.

    `timed`: how fast source and result run. `card`: rows and paragraphs for a section of the card that
    compares the two, as the wire's `bake` has them.
    """

    timed: bool = False
    card: Mapping[str, Any] | None = None


NO_MORE = Telling()


@dataclass(frozen=True)
class Written:
    """A directory that is not certified yet: verify.py's job, the live side's floor, the record so far."""

    job: dict[str, Any]
    floor: float | None
    record: dict[str, Any]


class Baking:
    """Everything that needs no writing is checked when it is made."""

    def __init__(
        self,
        source: Source,
        specs: Sequence[Spec],
        out: Path,
        written: str,
        prune: bool,
        force: bool,
        wish: Wish = NOTHING,
        telling: Telling = NO_MORE,
    ) -> None:
        """`written`: as `Form` has it. Raises "bake_refused", "usage", and what `validate` does."""
        self.telling = telling
        self.target = resolve_target(Path(out))
        self.force = force
        self.prune = prune
        self.source: Source | None = source
        self.origin = (source.files or source.directory).resolve()
        check_target(self.target, self.origin, force)
        manager = source.manager
        sites = manager.sites
        self.specs = canonical(resolved(specs, manager))
        self.condition = condition_id(self.specs)
        validate(self.specs, sites)
        model: Any = manager.model
        self.text_config = model.config.get_text_config()
        row = row_for(model)
        assert row is not None
        check(self.specs, row, prune)
        self._projections = [projection for _, made in row.outputs for projection in made]
        self.dtype = torch.float32 if written == "float32" else None
        self.renumbering = Renumbering(deleted(self.specs, prune), sites.n_layers)
        self.removed = removals(self.specs, wish, sites, self.renumbering.removed)
        with Checkpoint(source.directory) as checkpoint:
            check_plain(model.config, checkpoint.entries)
            names = find_names(row, sites, model, checkpoint.entries)
            self.edits = Planner(model, sites, row, checkpoint, names, _means(self.specs, manager)).plan(
                self.specs, self.renumbering.removed, self.removed
            )
            self.outputs = plan_outputs(
                checkpoint, self.edits, lambda name: self.renumbering.tensor(name, names), self.dtype
            )
            self.files = {name: entry.file for name, entry in checkpoint.entries.items()}
            self.travelling = travel.find(
                self.origin if source.files else source.directory,
                checkpoint.names,
                (self.target, Place.of(self.target).work, *((source.directory,) if source.files else ())),
            )
        self.parameters = {
            "before": sites.parameters,
            "after": parameters_after(
                model,
                sites,
                pruned=self.renumbering.removed,
                removed=self.removed,
                bias_keys=self.edits.bias_keys,
                untied=self.edits.untied_head is not None,
            ),
        }
        self.config = self._config(source.directory)
        self.facts = numerics.describe(model, full_logits=True)

    def run(self, progress: Progress, stop: Callable[[], None]) -> dict[str, Any]:
        """Writes, certifies and places the directory; returns what sparkablate_bake.json holds.

        `stop` may raise, and is called often. Nothing is left behind unless it succeeds.
        """
        require_space(self.target.parent, self._bytes_needed())
        with placed(self.target) as place:
            written = self.write(place, progress, stop)
            self._release()
            (report,) = run_jobs([written.job], place.work, progress, stop)
            certificate = judge(report, written.floor, written.job["dtype"])
            if not certificate["passed"]:
                raise SparkablateError(
                    "certificate_failed",
                    f"{self.condition}: {'; '.join(certificate['problems'])}",
                    detail=json.dumps(certificate, indent=1),
                )
            record = {**written.record, "certificate": certificate}
            if self.telling.timed:
                record["timing"] = report["timing"]
            return self._place(place, record)

    def write(self, place: Place, progress: Progress, stop: Callable[[], None]) -> Written:
        """The live side and the directory beside its place, ready to be checked."""
        source = self._held
        # The target may have come meanwhile.
        check_target(self.target, self.origin, self.force)
        floor = self._live(place, progress, stop)
        copied = self._write(place, progress, stop)
        loading = {**self._loading(), "timed": self.telling.timed}
        job = write_job(place.model, source.directory, self.files, self.outputs, loading, place.work)
        return Written(
            job, floor, {**self._record(), "copied": copied, "left_behind": dict(self.travelling.left)}
        )

    # ── The steps ────────────────────────────────────────────────────────────────────────────
    @property
    def _held(self) -> Source:
        assert self.source is not None, "the source model was freed already"
        return self.source

    def _live(self, place: Place, progress: Progress, stop: Callable[[], None]) -> float | None:
        manager, sites = self._held.manager, self._held.manager.sites
        ids = live.fixed_ids(self._held.tokenizer, sites.vocab_size, sites.max_positions)
        return live.record(manager, self.specs, ids, place.work, progress, stop, self._resummed())

    def _resummed(self) -> list[nn.Module]:
        """The projections that sum over what is removed."""
        layers = self._held.manager.sites.layers
        taps = [
            layers[at].neurons if removal.unit == "neuron" else layers[at].heads
            for removal in self.removed
            for at in removal.removed
        ]
        return [tap.module for tap in taps if tap is not None]

    def _write(self, place: Place, progress: Progress, stop: Callable[[], None]) -> list[str]:
        with Checkpoint(self._held.directory) as checkpoint:
            write_weights(checkpoint, self.outputs, place.model, progress, stop)
        write_json(place.model / "config.json", self.config)
        return travel.copy(self.travelling, place.model, stop)

    def _place(self, place: Place, record: dict[str, Any]) -> dict[str, Any]:
        card_path = place.model / "README.md"
        card_path.write_text(card.model_card(record, self.specs, self.telling.card), encoding="utf-8")
        sync_file(card_path)
        record["files"] = card.file_digests(place.model)
        write_json(place.model / RECORD, record)
        check_target(self.target, self.origin, self.force)
        place.finish()
        return record

    def _release(self) -> None:
        """Frees the live model: the two sides are never in memory together."""
        self.source = None
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    # ── What is written besides the weights ──────────────────────────────────────────────────
    def _config(self, directory: Path) -> dict[str, Any]:
        """The source's config.json, changed only where the bake changes what it says."""
        raw: dict[str, Any] = json.loads((directory / "config.json").read_text(encoding="utf-8"))
        nested = isinstance(raw.get("text_config"), dict)
        parts = [raw, raw["text_config"]] if nested else [raw]
        if self.renumbering.removed:
            mended = mend_config(parts[-1], self.text_config, self.renumbering)
            parts[-1].clear()
            parts[-1].update(mended)
        parts[-1].update(dict.fromkeys(self.edits.bias_keys, True))
        for removal in self.removed:
            parts[-1].update(removal.keys)
        for part in parts:
            if self.edits.untied_head is not None:
                part["tie_word_embeddings"] = False
            if self.dtype is not None:
                part.pop("torch_dtype", None)
                part["dtype"] = str(self.dtype).removeprefix("torch.")
        return raw

    def _record(self) -> dict[str, Any]:
        held = self._held
        model_type = self.text_config.model_type
        untied = self.edits.untied_head is not None
        removed = sorted(self.renumbering.removed)
        biases = self.edits.bias_keys
        warnings = warnings_for(model_type, untied, bool(removed), bool(biases))
        warnings += [removal.warning for removal in self.removed]
        notes = list(warnings)
        if untied:
            notes.insert(
                0, "the embedding was tied to the head and only one side is edited: they are untied now"
            )
        for removal in self.removed:
            of_all = f"{removal.count} of {removal.before} {removal.unit}s of every layer"
            notes.insert(0, f"{of_all} are removed; {RECORD} lists which")
        if self.parameters["after"] < self.parameters["before"]:
            notes.insert(0, "parameters: {before:,} before, {after:,} after".format(**self.parameters))
        if constants := self._held_constants():
            notes.insert(0, constants)
        if removed:
            notes.insert(0, f"layers {removed} of the source are deleted; the others are renumbered")
        if biases:
            keys = " and ".join(f"{key}: true" for key in biases)
            constants = "0 but for the constants of this ablation"
            notes.insert(0, f"config.json says {keys} now; the biases that come with it are {constants}")
        notes += travel.note(self.travelling.left)
        return {
            "condition": self.condition,
            "base_model": {"name": held.name, "revision": held.revision}
            | ({} if held.sha256 is None else {"sha256": held.sha256}),
            "interventions": [card.described(spec) for spec in self.specs],
            "directions": [s.sha256 for s in self.specs if isinstance(s, DirectionSpec)],
            "dtype": "source" if self.dtype is None else "float32",
            "pruned_layers": removed,
            "removed": {
                f"{removal.unit}s": {str(at): list(units) for at, units in removal.removed.items()}
                for removal in self.removed
            },
            "parameters": self.parameters,
            "untied": untied,
            "biases": list(biases),
            "notes": notes,
            # Typed in the directory itself, which will be moved and published.
            "gguf_command": gguf_command(".") if converts(model_type, warnings) else None,
            "numerics": self.facts,
            "versions": self.facts["versions"],
        }

    def _held_constants(self) -> str:
        """Where the constants of deleted layers are; empty where there are none."""
        places = [
            f"layer {spec.layer}'s in layer {constant_receiver(spec, self.renumbering.removed)}'s"
            for spec in self.specs
            if isinstance(spec, AblationSpec) and spec.layer in self.renumbering.removed and spec.mode != SKIP
        ]
        return f"constants of deleted layers are in MLP biases: {', '.join(places)}" if places else ""

    def _loading(self) -> dict[str, Any]:
        """How the fresh process loads the directory: as the live side did."""
        model: Any = self._held.manager.model
        head = (self.edits.untied_head or ("", ""))[0]
        return {
            "auto_class": model_class(model.config).__name__,
            "dtype": str(model.dtype),
            "device": numerics.device_of(model).type,
            "attn_implementation": model.config._attn_implementation,
            # Prefix of the layers' module paths, and which of the source's layers each one is.
            "layers_path": self._held.manager.sites.layers[0].path.removesuffix("0"),
            "kept": self.renumbering.kept,
            # Weights that stock transformers must not leave unread.
            "must_be_read": [
                one.name for one in self.outputs if one.edits or one.source is None or one.name == head
            ],
        }

    def _bytes_needed(self) -> int:
        sites = self._held.manager.sites
        logits = live.BLOCKS * live.LENGTH * sites.vocab_size * 4
        weights = sum(output.bytes for output in self.outputs)
        # Where layers stay on disk, readers copy what they merge in memory: the experts.
        offloaded = any(p.device.type == "meta" for p in self._held.manager.model.parameters())
        copies = weights if offloaded and any(p.experts for p in self._projections) else 0
        return weights + copies + logits + self.travelling.bytes + SPARE_BYTES


def resolved(specs: Sequence[Spec], manager: AblationManager) -> list[Spec]:
    """Directions named by their sha256 get the vector that the manager was given."""
    found: list[Spec] = []
    for spec in specs:
        if isinstance(spec, DirectionSpec):
            vector, norm = manager.direction(spec)
            spec = replace(spec, vector=vector, norm=norm)
        found.append(spec)
    return found


def _means(specs: Sequence[Spec], manager: AblationManager) -> Mapping[MeanKey, Tensor]:
    """The calibrated means that the specs need."""
    needed = [
        MeanKey(site, spec.layer, "all")
        for spec in specs
        if isinstance(spec, AblationSpec)
        and (site := SITES[spec.kind].values) is not None
        and spec.mode != SKIP
        and MODES[spec.mode].needs == "mean"
    ]
    return {key: manager.mean(key) for key in needed}


def to_wire(record: Mapping[str, Any], target: Path) -> dict[str, Any]:
    """The wire's result of a bake, without its duration."""
    files = [path for path in target.rglob("*") if path.is_file()]
    certificate = record["certificate"]
    behaviour = {key: value for key, value in certificate["behaviour"].items() if key != "finite"}
    return {
        "directory": str(target),
        "condition": record["condition"],
        "files": len(files),
        "bytes": sum(path.stat().st_size for path in files),
        "certificate": {"edit": certificate["edit"], "behaviour": behaviour},
        "notes": record["notes"],
        "left_behind": _fitting(record["left_behind"]),
        "gguf_command": None if record["gguf_command"] is None else gguf_command(str(target)),
        "timing": record.get("timing"),
    }


def _fitting(left: Mapping[str, str]) -> dict[str, str]:
    """The first of what was left behind, as much as goes into one message; the record has all of it."""
    kept: dict[str, str] = {}
    room = LEFT_BYTES
    for name, why in left.items():
        room -= len(name.encode()) + len(why.encode())
        if room < 0:
            break
        kept[name[:4096]] = why
    return kept
