"""The local engine: one model on one device, one slice at a time. Knows no sockets."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sparkablate.anatomy.architectures import locate, needs_bos
from sparkablate.bake.baking import Baking, Source, resolved, result_dtype, to_wire
from sparkablate.bake.checkpoint import check_plain
from sparkablate.bake.foresight import Wanted, foresee
from sparkablate.directions.on_texts import find_on_texts
from sparkablate.edits.donors import SOURCE_MODES
from sparkablate.engines.loaded import Loaded, check_positions, load_proved, random_ids, refused_by
from sparkablate.errors import SparkablateError
from sparkablate.generation.run import Generation, GenerationRun
from sparkablate.loading import numerics
from sparkablate.loading.configuration import build_empty, load_config, resolve_source
from sparkablate.loading.open import open_model
from sparkablate.manager import AblationManager, MeanKey
from sparkablate.measure.donors import Donors
from sparkablate.measure.failures import first_passes
from sparkablate.measure.items import Answers, EncodedItem, encode_items
from sparkablate.measure.slice import Canary, EvaluateSummary, Measurement, SliceRun
from sparkablate.measure.walk import PROOF_POSITIONS, Walk
from sparkablate.progress import Progress
from sparkablate.proofs.causality import prove_causal
from sparkablate.specs import from_wire
from sparkablate.text import corpus
from sparkablate.text.token_bytes import token_bytes
from sparkablate.text.vocabulary import check_ids

__all__ = ["EvaluateSummary", "Generation", "LocalEngine", "Measurement"]

#: Shape of the load check where only the model's map is wanted.
INSPECT_SHAPE = (1, PROOF_POSITIONS)
#: The baseline is measured again after this many times what it takes: at 0.5 % of the time.
LOOK_EVERY = 200


class LocalEngine:
    """Answers the wire's load, inspect, tokenize, calibrate, put and evaluate, shaped as in protocol.ts."""

    slots = 1

    def __init__(self) -> None:
        self._held: Loaded | None = None
        self._means: dict[str, dict[MeanKey, Tensor]] = {}

    @property
    def loaded(self) -> str | None:
        """Name of the loaded model."""
        return None if self._held is None else str(self._held.request["name"])

    @property
    def baseline_sha256(self) -> str:
        """Of the loaded model's losses on a fixed batch of the run's shape: equal where two engines compute
        the same bits. Raises ``session_lost`` without a model."""
        return self._need().canary.sha256

    def load(
        self,
        model: dict[str, Any],
        seq_len: int,
        batch_size: int,
        progress: Progress,
        may_offload: bool = False,
    ) -> dict[str, Any]:
        """Loads, fingerprints and checks a model in the shape it will be run in; one that is there is kept.

        ``may_offload``: the model is to be baked: see ``open_model``; a quantised one is refused unloaded.

        Raises what ``open_model`` and ``locate`` do; ``config_invalid`` for a ``seq_len`` beyond the model's
        positions.
        """
        began = time.perf_counter()
        shape = (max(batch_size, 1), max(seq_len, 2))
        held = self._held
        reused = (
            held is not None
            and held.request == model
            and (may_offload or model["device_map"] is not None or not held.opened.offloaded)
            and held.opened.source == resolve_source(model["name"])
            and held.files.unchanged(progress)
        )
        if reused:
            assert held is not None
            check_positions(held.manager.sites, model["name"], shape[1])
            with first_passes(model["name"]):
                held.likelihood.check_chunks(*shape)
                if shape[1] != held.canary.ids.shape[1]:
                    prove_causal(held.likelihood, shape[1])
            held.canary = Canary.measure(held.likelihood, random_ids(held.likelihood, shape))
        else:
            if may_offload:
                check_plain(_config(model), {})
            self._held, held = None, None  # the old model's memory is needed for the new one
            self._means.clear()
            held = self._held = load_proved(model, shape, may_offload, progress)
        sites = held.manager.sites
        bos, adds_bos = corpus.special_tokens(held.opened.tokenizer, sites.vocab_size)
        return {
            "source": held.opened.source,
            "revision": held.opened.revision,
            "model_map": sites.to_wire(),
            "numerics": numerics.describe(held.opened.model, held.likelihood.full_logits[shape]),
            "weights_sha256": held.files.weights_sha256,
            "tokenizer_sha256": held.files.tokenizer_sha256,
            "model_files": held.files.to_wire(),
            "bos_token_id": bos,
            "adds_bos": adds_bos or (bos is not None and needs_bos(held.opened.model)),
            "self_test": held.self_test,
            "notices": held.notices,
            "seconds": time.perf_counter() - began,
            "reused": reused,
            "cost": held.canary.cost.to_wire(held.entries.walkable),
        }

    def inspect(self, model: dict[str, Any], meta: bool, progress: Progress) -> dict[str, Any]:
        """The model's map; ``meta``: from its configuration alone, without weights and self-test."""
        if meta:
            empty = build_empty(_config(model), trust_remote_code=model["trust_remote_code"])
            with first_passes(model["name"]):
                return {"model_map": locate(empty).to_wire(), "self_test": [], "notices": []}
        batch_size, seq_len = INSPECT_SHAPE
        loaded = self.load(model, seq_len, batch_size, progress)
        return {key: loaded[key] for key in ("model_map", "self_test", "notices")}

    def tokenize(
        self, text: str | None, dataset: dict[str, Any] | None, max_tokens: int, progress: Progress
    ) -> tuple[np.ndarray, bool, list[str]]:
        """Ids (int32 [tokens]) of a text or a dataset, whether there is more of it (``max_tokens`` cut it),
        and what a person should know of it."""
        tokenizer = self._need().opened.tokenizer
        rows = corpus.one_text(text) if text is not None else corpus.dataset_rows(dataset or {})
        ids, cut = corpus.tokenize_rows(tokenizer, rows.texts, max_tokens, progress)
        check_ids([ids], self._need().manager.sites.vocab_size, tokenizer)
        return ids, cut or rows.more, rows.notices

    def tokenize_task(
        self, items: list[dict[str, str]], name: str, max_tokens: int, progress: Progress
    ) -> tuple[list[EncodedItem], list[str]]:
        """A task's items as ids, and what a person should know of them. Raises what ``encode_items`` does."""
        held = self._need()
        encoded, notices = encode_items(held.opened.tokenizer, items, name, max_tokens, progress)
        wrong = [[item.wrong] for item in encoded if item.wrong >= 0]
        check_ids(
            [*(item.ids for item in encoded), *wrong], held.manager.sites.vocab_size, held.opened.tokenizer
        )
        return encoded, notices

    def token_bytes(self, ids: np.ndarray) -> list[bytes]:
        """What tokens (int32 [tokens]) stand for. Raises what ``sparkablate.text.token_bytes`` does."""
        self._tensor(ids)  # refuses ids outside the vocabulary
        return token_bytes(self._need().opened.tokenizer, ids.tolist())

    def calibrate(
        self, rows: Sequence[np.ndarray], batch_size: int, sites: list[dict[str, Any]], progress: Progress
    ) -> tuple[list[dict[str, Any]], np.ndarray]:
        """Means of the sites over ``rows`` (each int32 [pos]): the sites with their widths, and the float32
        means one after the other. Only rows of one length share a batch, so that nothing is padded."""
        held = self._need()

        def batches() -> Iterator[Tensor]:
            done = 0
            for _, same in groupby(sorted(rows, key=len), key=len):
                ids = np.stack(list(same))
                for begin in range(0, len(ids), batch_size):
                    batch = ids[begin : begin + batch_size]
                    yield self._tensor(batch)
                    done += len(batch)
                    progress("calibrate", float(done), float(len(rows)), "blocks")

        keys = [MeanKey(site["kind"], site["layer"], site["positions"]) for site in sites]
        means = held.manager.calibrate_means(batches(), keys)
        self._check_files()
        wired = [{**site, "width": len(means[key])} for site, key in zip(sites, keys, strict=True)]
        return wired, np.concatenate([means[key].numpy() for key in keys])

    def put_means(self, sha256: str, sites: list[dict[str, Any]], values: np.ndarray) -> None:
        """Keeps means (float32, one after the other) for conditions that name them by ``sha256``."""
        self._need()
        ends = np.cumsum([site["width"] for site in sites])
        if len(sites) == 0 or ends[-1] != len(values):
            raise SparkablateError("invalid_message", f"put: {len(values)} values for {len(sites)} sites")
        self._means[sha256] = {
            MeanKey(site["kind"], site["layer"], site["positions"]): torch.from_numpy(part.copy())
            for site, part in zip(sites, np.split(values, ends[:-1]), strict=True)
        }

    def put_direction(self, sha256: str, vector: np.ndarray, norm: float) -> None:
        """Keeps a unit vector (float32 [d_model]) for interventions that name it by ``sha256``."""
        held = self._need()
        held.manager.set_direction(sha256, torch.from_numpy(vector.copy()), norm)
        held.directions[sha256] = norm

    def evaluate(
        self,
        ids: np.ndarray,
        conditions: list[dict[str, Any]],
        metrics: list[str],
        means_sha256: str | None,
        on_measurement: Callable[[Measurement], None],
        cancelled: Callable[[], bool],
        progress: Progress,
        answers: list[dict[str, Any]] | None = None,
        per_token: bool = False,
        sources: Mapping[str, np.ndarray] | None = None,
    ) -> EvaluateSummary:
        """Measures every condition on ``ids`` [blocks, pos], one batch, and reports each as it is done.

        ``answers``: of a task's items, which ``ids`` then are, padded: as in src/protocol/messages.ts.
        ``per_token``: with the NLL at every predicted token. ``sources``: mode → the tokens whose activations
        it puts in, row i into row i; same shape as ``ids``.

        Raises ``means_missing`` where means or a direction were not put, ``baseline_changed`` where the
        unedited model is no longer what it was. What concerns one condition alone is in its
        ``Measurement.error``.
        """
        held = self._ready(conditions, means_sha256)
        tensor = self._tensor(ids)
        if held.walk is None or not torch.equal(held.walk.ids, tensor):
            held.walk = Walk(held.likelihood, held.entries, tensor)
        given = {mode: self._tensor(rows) for mode, rows in (sources or {}).items()}
        if held.donors is None or not held.donors.same(given):
            if held.donors is not None:
                held.donors.forget()
            held.donors = Donors(held.manager, held.likelihood, held.entries, given)
        vocab_size = held.manager.sites.vocab_size
        scored = None if answers is None else Answers.from_wire(answers, tensor, vocab_size)
        run = SliceRun(
            held.manager, held.walk, held.donors, held.canary, metrics, progress, scored, per_token
        )

        def measured(measurement: Measurement) -> None:
            self._check_files()
            on_measurement(measurement)

        summary = run.run(conditions, measured, cancelled)
        self._look_at_baseline()
        return summary

    def generate(
        self,
        prompts: list[str],
        conditions: list[dict[str, Any]],
        max_new_tokens: int,
        template_date: str | None,
        means_sha256: str | None,
        on_generation: Callable[[Generation], None],
        cancelled: Callable[[], bool],
        progress: Progress,
    ) -> dict[str, Any]:
        """Continues every prompt greedily under every condition, and reports each text as it is done.

        ``template_date``: as in src/protocol/messages.ts.

        Raises ``means_missing`` and ``baseline_changed`` as ``evaluate``; ``config_invalid`` for a prompt
        that does not fit the model's positions. What concerns one text alone is in ``Generation.error``.
        """
        held = self._ready(conditions, means_sha256)
        if modes := _source_modes(conditions):
            raise SparkablateError(
                "config_invalid",
                f"mode {modes[0]} takes activations of other tokens at the same positions, and a text that is"
                " yet to be written has none; measure it with 'sparkablate run'",
            )
        run = GenerationRun(
            held.opened.model,
            held.opened.tokenizer,
            held.manager,
            max_new_tokens,
            cancelled,
            progress,
            recover=lambda: held.canary.check(held.likelihood),
        )

        def generated(generation: Generation) -> None:
            self._check_files()
            on_generation(generation)

        return run.run(prompts, template_date, conditions, generated)

    def check_bake(
        self,
        model: dict[str, Any],
        condition: dict[str, Any],
        out: str,
        dtype: str,
        prune_layers: bool,
        force: bool,
    ) -> None:
        """Raises what ``bake`` would, as far as the model's configuration alone can tell."""
        specs = [from_wire(wire) for wire in condition["interventions"]]
        wanted = Wanted(specs, Path(out), dtype, prune_layers, force)
        foresee(model["name"], model["revision"], model["trust_remote_code"], wanted)

    def bake(
        self,
        condition: dict[str, Any],
        out: str,
        dtype: str,
        prune_layers: bool,
        force: bool,
        means_sha256: str | None,
        progress: Progress,
        stop: Callable[[], None],
    ) -> dict[str, Any]:
        """Bakes one condition of the loaded model; then no model is loaded, since the check needs the memory.

        Raises ``means_missing`` as ``evaluate``, and what ``sparkablate.bake.bake`` does.
        """
        began = time.perf_counter()
        held = self._ready([condition], means_sha256)
        specs = resolved([from_wire(wire) for wire in condition["interventions"]], held.manager)
        means = self._means.get(means_sha256 or "", {})
        request, tests = held.request, held.self_test
        opened, manager, files = held.opened, held.manager, held.files
        del held
        wanted = result_dtype(str(opened.directory), dtype)
        if numerics.DTYPES[wanted] != opened.model.dtype:
            self._held = None
            del opened, manager  # the new model needs their memory
            opened = open_model(**{**request, "dtype": wanted}, may_offload=True)
            manager = AblationManager(opened.model, locate(opened.model).refusing(refused_by(tests)))
            manager.set_means(means)
        source = Source(request["name"], opened.revision, opened.directory, opened.tokenizer, manager)
        baking = Baking(source, specs, Path(out), dtype, prune_layers, force)
        self._held = None
        del opened, manager, source

        def stop_or_changed() -> None:
            files.check()
            stop()

        record = baking.run(progress, stop_or_changed)
        return {**to_wire(record, baking.target), "seconds": time.perf_counter() - began}

    def find_direction(
        self,
        positive: list[str],
        negative: list[str],
        options: dict[str, Any],
        cancelled: Callable[[], bool],
        progress: Progress,
    ) -> tuple[dict[str, Any], np.ndarray]:
        """The result of ``find_direction`` in src/protocol/messages.ts, and float32 [candidates, d_model].

        ``options``: its request's fields. Raises what ``find_directions`` and ``encode_prompts`` do.
        """
        held = self._need()
        found = find_on_texts(
            held.manager, held.opened.tokenizer, positive, negative, options, cancelled, progress
        )
        self._check_files()
        return found

    def _ready(self, conditions: list[dict[str, Any]], means_sha256: str | None) -> Loaded:
        """The loaded model with the means in use. Raises ``means_missing`` for vectors that were not put."""
        held = self._need()
        if means_sha256 is not None:
            if means_sha256 not in self._means:
                raise SparkablateError("means_missing", f"the means {means_sha256} are not here")
            held.manager.set_means(self._means[means_sha256])
        named = {i["sha256"] for condition in conditions for i in condition["interventions"] if "sha256" in i}
        if absent := sorted(named - held.directions.keys()):
            raise SparkablateError("means_missing", f"the direction {absent[0]} is not here")
        return held

    def _need(self) -> Loaded:
        if self._held is None:
            raise SparkablateError("session_lost", "this worker has no model loaded")
        return self._held

    def _tensor(self, ids: np.ndarray) -> Tensor:
        """int32 [blocks, pos] → int64 on the model's device; ids outside the vocabulary are refused."""
        held = self._need()
        vocab_size = held.manager.sites.vocab_size
        if ids.size and not (ids.min() >= 0 and ids.max() < vocab_size):
            raise SparkablateError("invalid_message", f"a token id is outside the vocabulary of {vocab_size}")
        return torch.from_numpy(ids.astype(np.int64)).to(numerics.device_of(held.opened.model))

    def _check_files(self) -> None:
        """Raises ``baseline_changed`` where a weight file is no longer what was loaded; then nothing is."""
        try:
            self._need().files.check()
        except SparkablateError:
            self._held = None
            raise

    def _look_at_baseline(self) -> None:
        """Raises ``baseline_changed`` where the unedited model computes other bits though nothing failed and
        no file shows it: a memory fault, or a mapping of the weights that was open for writing before."""
        held = self._need()
        cost = held.canary.cost
        if time.monotonic() - held.looked < LOOK_EVERY * (cost.stack_seconds + cost.head_seconds):
            return
        try:
            held.canary.check(held.likelihood, "while nothing had failed")
        except SparkablateError:
            self._held = None
            raise
        held.looked = time.monotonic()


def _source_modes(conditions: list[dict[str, Any]]) -> list[str]:
    """Modes of the conditions that need a source."""
    modes = {edit.get("mode") for condition in conditions for edit in condition["interventions"]}
    return [mode for mode in SOURCE_MODES if mode in modes]


def _config(model: dict[str, Any]) -> Any:
    """Of a `model` section. Raises what ``resolve_source`` and ``load_config`` do."""
    source, trusted = resolve_source(model["name"]), model["trust_remote_code"]
    return load_config(source, revision=model["revision"], trust_remote_code=trusted)
