"""The local engine: one model on one device, one request at a time. Knows no sockets."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sparkablate.anatomy.architectures import locate
from sparkablate.bake.baking import Baking, Source, Telling, resolved, to_wire
from sparkablate.bake.checkpoint import check_plain
from sparkablate.bake.cuts import Wish
from sparkablate.bake.foresight import Wanted, foresee, form_of
from sparkablate.catalog import DONOR_MODES
from sparkablate.directions.on_texts import find_on_texts
from sparkablate.engines import requests
from sparkablate.engines.loaded import Loaded, load_proved
from sparkablate.engines.requests import NOBODY, Answer, Caller, Request, Wire
from sparkablate.errors import SparkablateError
from sparkablate.generation.run import GenerationRun
from sparkablate.loading import numerics
from sparkablate.loading.configuration import build_empty, load_config, resolve_source
from sparkablate.loading.open import open_model
from sparkablate.manager import AblationManager, MeanKey
from sparkablate.measure.attribution import Attribution, WholeSite
from sparkablate.measure.failures import condition_failure, first_passes
from sparkablate.measure.given import Given
from sparkablate.measure.items import Answers, EncodedItem, encode_items
from sparkablate.measure.slice import EvaluateSummary, SliceRun
from sparkablate.measure.walk import PROOF_POSITIONS
from sparkablate.proofs.discovery import located
from sparkablate.specs import canonical, from_wire, validate
from sparkablate.text import corpus
from sparkablate.text.token_bytes import token_bytes
from sparkablate.text.vocabulary import check_ids


class LocalEngine:
    """★ Table below: request → what answers it."""

    slots = 1

    def __init__(self, held: Loaded | None = None) -> None:
        self._held = held
        self._means: dict[str, dict[MeanKey, Tensor]] = {}
        self._device = numerics.resolve_device("auto").type
        self._threads_set = False

    def state(self) -> Wire:
        held = self._held
        return {
            "device": self._device,
            "threads_set": self._threads_set,
            "model_files": None if held is None else held.files.to_wire(),
        }

    @property
    def loaded(self) -> str | None:
        return None if self._held is None else str(self._held.request["name"])

    def answer(self, request: Request[Answer], caller: Caller = NOBODY) -> Answer:
        return _ANSWERS[type(request)](self, request, caller)

    # ── The model ────────────────────────────────────────────────────────────────────────────
    def _load(self, request: requests.Load, caller: Caller) -> Wire:
        began = time.perf_counter()
        self._threads_set = self._threads_set or request.model["threads"] is not None
        shape = (max(request.batch_size, 1), max(request.seq_len, 2))
        reused = self._held is not None and self._held.serves(request, caller.progress)
        if reused:
            self._need().prove(shape)
        else:
            if request.may_offload:
                check_plain(_config(request.model), {})
            self._held = None  # the old model's memory is needed for the new one
            self._means.clear()
            self._held = load_proved(request, shape, caller.progress)
        return self._need().to_wire(shape, time.perf_counter() - began, reused)

    def _inspect(self, request: requests.Inspect, caller: Caller) -> Wire:
        return inspect(request, lambda load: self._load(load, caller))

    def _baseline(self, request: requests.Baseline, caller: Caller) -> str:
        return self._need().canary.sha256

    # ── Texts ────────────────────────────────────────────────────────────────────────────────
    def _tokenize(self, request: requests.Tokenize, caller: Caller) -> tuple[np.ndarray, bool, list[str]]:
        tokenizer = self._need().opened.tokenizer
        rows = (
            corpus.dataset_rows(request.dataset or {})
            if request.text is None
            else corpus.one_text(request.text)
        )
        ids, cut = corpus.tokenize_rows(tokenizer, rows.texts, request.max_tokens, caller.progress)
        check_ids([ids], self._need().manager.sites.vocab_size, tokenizer)
        return ids, cut or rows.more, rows.notices

    def _tokenize_task(
        self, request: requests.TokenizeTask, caller: Caller
    ) -> tuple[list[EncodedItem], list[str]]:
        tokenizer = self._need().opened.tokenizer
        encoded, notices = encode_items(
            tokenizer, request.items, request.name, request.max_tokens, caller.progress
        )
        wrong = [[item.wrong] for item in encoded if item.wrong >= 0]
        check_ids([*(item.ids for item in encoded), *wrong], self._need().manager.sites.vocab_size, tokenizer)
        return encoded, notices

    def _token_bytes(self, request: requests.TokenBytes, caller: Caller) -> list[bytes]:
        held = self._need()
        held.tensor(request.ids)  # refuses ids outside the vocabulary
        return token_bytes(held.opened.tokenizer, request.ids.tolist())

    # ── Vectors ──────────────────────────────────────────────────────────────────────────────
    def _calibrate(self, request: requests.Calibrate, caller: Caller) -> tuple[list[Wire], np.ndarray]:
        held = self._need()

        def batches() -> Iterator[Tensor]:
            """Only rows of one length share a batch, so that nothing is padded."""
            done = 0
            for _, same in groupby(sorted(request.rows, key=len), key=len):
                ids = np.stack(list(same))
                for begin in range(0, len(ids), request.batch_size):
                    batch = ids[begin : begin + request.batch_size]
                    yield held.tensor(batch)
                    done += len(batch)
                    caller.progress("calibrate", float(done), float(len(request.rows)), "blocks")

        keys = list(map(_mean_key, request.sites))
        means = held.manager.calibrate_means(batches(), keys)
        self._check_files()
        wired = [{**site, "width": len(means[key])} for site, key in zip(request.sites, keys, strict=True)]
        return wired, np.concatenate([means[key].numpy() for key in keys])

    def _put_means(self, request: requests.PutMeans, caller: Caller) -> None:
        self._need()
        sites, values = request.sites, request.values
        ends = np.cumsum([site["width"] for site in sites])
        if len(sites) == 0 or ends[-1] != len(values):
            raise SparkablateError("invalid_message", f"put: {len(values)} values for {len(sites)} sites")
        self._means[request.sha256] = {
            _mean_key(site): torch.from_numpy(part.copy())
            for site, part in zip(sites, np.split(values, ends[:-1]), strict=True)
        }

    def _put_direction(self, request: requests.PutDirection, caller: Caller) -> None:
        held = self._need()
        held.manager.set_direction(request.sha256, torch.from_numpy(request.vector.copy()), request.norm)
        held.directions.add(request.sha256)

    def _find_direction(self, request: requests.FindDirection, caller: Caller) -> tuple[Wire, np.ndarray]:
        held = self._need()
        found = find_on_texts(held.manager, held.opened.tokenizer, request, caller.cancelled, caller.progress)
        self._check_files()
        return found

    # ── Conditions ───────────────────────────────────────────────────────────────────────────
    def _evaluate(self, request: requests.Evaluate, caller: Caller) -> EvaluateSummary:
        base = {"id": "given", "interventions": request.given}
        held = self._ready([base, *request.conditions], request.means_sha256)
        ids = held.tensor(request.ids)
        donors = held.donors_from({mode: held.tensor(rows) for mode, rows in request.donors.items()})
        answers = request.answers
        given = [from_wire(wire) for wire in request.given]
        validate(given, held.manager.sites)
        run = SliceRun(
            held.manager,
            held.walk_over(ids, given, request.means_sha256),
            donors,
            held.canary,
            request.metrics,
            caller.progress,
            None if answers is None else Answers.from_wire(answers, ids, held.manager.sites.vocab_size),
            request.per_token,
        )
        summary = run.run(request.conditions, self._watched(caller.report), caller.cancelled)
        with self._unloading():
            held.look_at_baseline()
        return summary

    def _attribute(self, request: requests.Attribute, caller: Caller) -> np.ndarray:
        base = {"id": "given", "interventions": request.given}
        held = self._ready([base, *request.conditions], request.means_sha256)
        if caller.cancelled():
            raise SparkablateError("interrupted", "interrupted; nothing was attributed")
        ids = held.tensor(request.ids)
        given = [from_wire(wire) for wire in request.given]
        validate(given, held.manager.sites)
        attribution = Attribution(
            held.manager,
            held.likelihood,
            held.entries,
            Given(held.manager, tuple(canonical(given))),
            held.donors_from({mode: held.tensor(rows) for mode, rows in request.donors.items()}),
            held.room,
        )
        answers = request.answers
        try:
            found, sums = attribution.run(
                ids,
                [[from_wire(wire) for wire in one["interventions"]] for one in request.conditions],
                [WholeSite(**site) for site in request.sites],
                request.metric,
                None if answers is None else Answers.from_wire(answers, ids, held.manager.sites.vocab_size),
            )
        except Exception as error:  # the model's own code may raise anything
            raise condition_failure(error) from None
        self._check_files()
        for one in sums:
            caller.report(one)
        return found

    def _generate(self, request: requests.Generate, caller: Caller) -> Wire:
        held = self._ready(request.conditions, request.means_sha256)
        if modes := _source_modes(request.conditions):
            raise SparkablateError(
                "config_invalid",
                f"mode {modes[0]} takes activations from other tokens at the same positions, and a text that "
                "is yet to be written has none; measure it with 'sparkablate run'",
            )
        run = GenerationRun(
            held.opened.model,
            held.opened.tokenizer,
            held.manager,
            request.max_new_tokens,
            caller.cancelled,
            caller.progress,
            recover=lambda: held.canary.check(held.likelihood),
        )
        return run.run(
            request.prompts, request.template_date, request.conditions, self._watched(caller.report)
        )

    def _check_bake(self, request: requests.CheckBake, caller: Caller) -> Wire:
        model = request.model
        specs = [from_wire(wire) for wire in request.condition["interventions"]]
        wish = Wish(request.prune_kv_groups, request.prune_neurons)
        wanted = Wanted(specs, Path(request.out), request.dtype, request.prune_layers, request.force, wish)
        found = foresee(model["name"], model["revision"], model["trust_remote_code"], wanted)
        form = found.form
        return {
            "dtype": form.live,
            "keeps_source": form.written == "source",
            "why": form.why,
            "before": asdict(found.before),
            "after": asdict(found.after),
        }

    def _bake(self, request: requests.Bake, caller: Caller) -> Wire:
        began = time.perf_counter()
        held = self._ready([request.condition], request.means_sha256)
        specs = resolved([from_wire(wire) for wire in request.condition["interventions"]], held.manager)
        means = self._means.get(request.means_sha256 or "", {})
        model, refused = held.request, held.refused
        opened, manager, files = held.opened, held.manager, held.files
        del held
        # As it lies on disk: loading has overwritten the dtype that it declares.
        form = form_of(request.dtype, specs, _config({**model, "name": str(opened.directory)}))
        if numerics.DTYPES[form.live] != opened.model.dtype:
            self._held = None
            del opened, manager  # the new model needs their memory
            opened = open_model(**{**model, "dtype": form.live}, may_offload=True)
            manager = AblationManager(opened.model, located(opened.model).refusing(refused))
            manager.set_means(means)
        source = Source(model["name"], opened.revision, opened.directory, opened.tokenizer, manager)
        wish = Wish(request.prune_kv_groups, request.prune_neurons)
        out, prune = Path(request.out), request.prune_layers
        telling = Telling(request.timed, request.card)
        baking = Baking(source, specs, out, form.written, prune, request.force, wish, telling)
        self._held = None
        del opened, manager, source

        def stop() -> None:
            files.check()
            if caller.cancelled():
                raise SparkablateError("interrupted", f"interrupted; {request.out} was not written")

        record = baking.run(caller.progress, stop)
        return {**to_wire(record, baking.target), "seconds": time.perf_counter() - began}

    # ── What must hold ───────────────────────────────────────────────────────────────────────
    def _need(self) -> Loaded:
        if self._held is None:
            raise SparkablateError("session_lost", "this worker has no model loaded")
        return self._held

    def _ready(self, conditions: list[Wire], means_sha256: str | None) -> Loaded:
        """The loaded model with the means in use. Raises ``means_missing`` for vectors that were not put."""
        held = self._need()
        if means_sha256 is not None:
            if means_sha256 not in self._means:
                raise SparkablateError("means_missing", f"the means {means_sha256} are not here")
            held.manager.set_means(self._means[means_sha256])
        named = {i["sha256"] for condition in conditions for i in condition["interventions"] if "sha256" in i}
        if absent := sorted(named - held.directions):
            raise SparkablateError("means_missing", f"the direction {absent[0]} is not here")
        return held

    def _watched(self, report: Callable[[Any], None]) -> Callable[[Any], None]:
        """Nothing is reported of a model whose files have changed."""

        def watched(done: Any) -> None:
            self._check_files()
            report(done)

        return watched

    def _check_files(self) -> None:
        """Raises ``baseline_changed`` where a weight file is no longer what was loaded."""
        with self._unloading():
            self._need().files.check()

    @contextmanager
    def _unloading(self) -> Iterator[None]:
        """A model that is found changed is loaded no longer."""
        try:
            yield
        except SparkablateError:
            self._held = None
            raise


def inspect(request: requests.Inspect, load: Callable[[requests.Load], Wire]) -> Wire:
    """``load``: of the engine that is asked, where the configuration alone does not do."""
    if request.meta:
        name, trusted = request.model["name"], request.model["trust_remote_code"]
        empty = build_empty(_config(request.model), trust_remote_code=trusted)
        with first_passes(name):
            return {"model_map": locate(empty).to_wire(), "self_test": [], "notices": []}
    found = load(requests.Load(request.model, seq_len=PROOF_POSITIONS, batch_size=1))
    return {key: found[key] for key in ("model_map", "self_test", "notices")}


def _config(model: Wire) -> Any:
    """Of a `model` section. Raises what ``resolve_source`` and ``load_config`` do."""
    source, trusted = resolve_source(model["name"]), model["trust_remote_code"]
    return load_config(source, revision=model["revision"], trust_remote_code=trusted)


def _mean_key(site: Wire) -> MeanKey:
    return MeanKey(site["kind"], site["layer"], site["positions"])


def _source_modes(conditions: list[Wire]) -> list[str]:
    """Modes of the conditions that need a donor."""
    modes = {edit.get("mode") for condition in conditions for edit in condition["interventions"]}
    return [mode for mode in DONOR_MODES if mode in modes]


_ANSWERS: Mapping[type[Request[Any]], Callable[[LocalEngine, Any, Caller], Any]] = {
    requests.Load: LocalEngine._load,
    requests.Inspect: LocalEngine._inspect,
    requests.Baseline: LocalEngine._baseline,
    requests.Tokenize: LocalEngine._tokenize,
    requests.TokenizeTask: LocalEngine._tokenize_task,
    requests.TokenBytes: LocalEngine._token_bytes,
    requests.Calibrate: LocalEngine._calibrate,
    requests.PutMeans: LocalEngine._put_means,
    requests.PutDirection: LocalEngine._put_direction,
    requests.FindDirection: LocalEngine._find_direction,
    requests.Evaluate: LocalEngine._evaluate,
    requests.Attribute: LocalEngine._attribute,
    requests.Generate: LocalEngine._generate,
    requests.CheckBake: LocalEngine._check_bake,
    requests.Bake: LocalEngine._bake,
}
