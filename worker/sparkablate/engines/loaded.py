"""The one model that is loaded, and what was proved of it."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from sparkablate.anatomy.architectures import needs_bos
from sparkablate.anatomy.sites import SiteMap
from sparkablate.engines.requests import Load, Wire
from sparkablate.errors import SparkablateError
from sparkablate.loading import model_files, numerics
from sparkablate.loading.configuration import resolve_source
from sparkablate.loading.model_files import ModelFiles
from sparkablate.loading.open import OpenedModel, open_model
from sparkablate.manager import AblationManager
from sparkablate.measure.backward import Room
from sparkablate.measure.cost import warm_up
from sparkablate.measure.donors import Donors
from sparkablate.measure.failures import first_passes
from sparkablate.measure.given import Given
from sparkablate.measure.likelihood import Likelihood
from sparkablate.measure.slice import Canary
from sparkablate.measure.walk import PROOF_POSITIONS, Entries, Walk, prove_entries
from sparkablate.progress import Progress
from sparkablate.proofs import self_test
from sparkablate.proofs.causality import prove_causal
from sparkablate.proofs.discovery import located
from sparkablate.specs import Spec, canonical
from sparkablate.text import corpus

#: The baseline is measured again after this many times what it takes: at 0.5 % of the time.
LOOK_EVERY = 200


class Files(Protocol):
    """What a model was made from: files, or what its owner holds in memory."""

    @property
    def weights_sha256(self) -> str: ...

    @property
    def tokenizer_sha256(self) -> str: ...

    def check(self) -> None:
        """Raises ``baseline_changed`` where it is no longer what was loaded."""

    def unchanged(self, progress: Progress) -> bool: ...

    def to_wire(self) -> Wire: ...


@dataclass
class Loaded:
    """With what is kept from one request to the next: the walk and the donors of the last batch of blocks."""

    request: Wire
    #: The same with the dtype that `auto` became.
    resolved: Wire
    opened: OpenedModel
    manager: AblationManager
    likelihood: Likelihood
    entries: Entries
    canary: Canary
    self_test: list[Wire]
    #: Sites that the self-test refused, e.g. "L0.head".
    refused: list[str]
    notices: list[str]
    files: Files
    #: When the baseline was last found unchanged, monotonic.
    looked: float
    walk: Walk | None = None
    #: What the walk was made under.
    walked: tuple[object, ...] = ()
    donors: Donors | None = None
    #: What passes with gradients have been found to take.
    room: Room = field(default_factory=Room)
    #: Sha256 of those that were put.
    directions: set[str] = field(default_factory=set)

    def serves(self, request: Load, progress: Progress) -> bool:
        """Whether it is the model that is asked for, from the very files that are there now."""
        model = request.model
        return (
            model in (self.request, self.resolved)
            and (request.may_offload or model["device_map"] is not None or not self.opened.offloaded)
            and self.opened.source == resolve_source(model["name"])
            and self.files.unchanged(progress)
        )

    def prove(self, shape: tuple[int, int]) -> None:
        """What of a load depends on the batch's shape. Raises ``config_invalid`` for more positions than the
        model has."""
        _check_positions(self.manager.sites, self.request["name"], shape[1])
        with first_passes(self.request["name"]):
            self.likelihood.check_chunks(*shape)
            if shape[1] != self.canary.ids.shape[1]:
                prove_causal(self.likelihood, shape[1])
        self.canary = Canary.measure(self.likelihood, _random_ids(self.likelihood, shape))

    def to_wire(self, shape: tuple[int, int], seconds: float, reused: bool) -> Wire:
        """`loadedModel` of src/protocol/messages.ts."""
        opened, files, sites = self.opened, self.files, self.manager.sites
        bos, adds_bos = corpus.special_tokens(opened.tokenizer, sites.vocab_size)
        return {
            "source": opened.source,
            "revision": opened.revision,
            "model_map": sites.to_wire(),
            "numerics": numerics.describe(opened.model, self.likelihood.full_logits[shape]),
            "weights_sha256": files.weights_sha256,
            "tokenizer_sha256": files.tokenizer_sha256,
            "model_files": files.to_wire(),
            "bos_token_id": bos,
            "adds_bos": adds_bos or (bos is not None and needs_bos(opened.model)),
            "self_test": self.self_test,
            "notices": self.notices,
            "seconds": seconds,
            "reused": reused,
            "cost": self.canary.cost.to_wire(self.entries.walkable),
        }

    def tensor(self, ids: np.ndarray) -> Tensor:
        """int32 [blocks, pos] → int64 on the model's device; ids outside the vocabulary are refused."""
        vocab_size = self.manager.sites.vocab_size
        if ids.size and not (ids.min() >= 0 and ids.max() < vocab_size):
            raise SparkablateError("invalid_message", f"a token id is outside the vocabulary of {vocab_size}")
        return torch.from_numpy(ids.astype(np.int64)).to(numerics.device_of(self.opened.model))

    def walk_over(self, ids: Tensor, given: Sequence[Spec], means_sha256: str | None) -> Walk:
        """``given``: edits that are part of the baseline, with the means and donors that are in use."""
        base = Given(self.manager, tuple(canonical(given)))
        key = (base.key, means_sha256 if base.specs else None)
        if self.walk is None or self.walked != key or not torch.equal(self.walk.ids, ids):
            self.walk = Walk(self.likelihood, self.entries, ids, base)
            self.walked = key
        return self.walk

    def donors_from(self, given: Mapping[str, Tensor]) -> Donors:
        if self.donors is None or not self.donors.same(given):
            if self.donors is not None:
                self.donors.forget()
            self.walk = None  # its given edits may have taken theirs from the others
            self.donors = Donors(self.manager, self.likelihood, self.entries, given)
        return self.donors

    def look_at_baseline(self) -> None:
        """Raises ``baseline_changed`` where the unedited model computes other bits though nothing failed and
        no file shows it: a memory fault, or a mapping of the weights that was open for writing before."""
        cost = self.canary.cost
        if time.monotonic() - self.looked >= LOOK_EVERY * (cost.stack_seconds + cost.head_seconds):
            self.canary.check(self.likelihood, "while nothing had failed")
            self.looked = time.monotonic()


def load_proved(request: Load, shape: tuple[int, int], progress: Progress) -> Loaded:
    """Raises what ``Load`` says."""
    model = request.model
    progress("load", 0.0, None, "models")
    before = model_files.settled(model_files.here(resolve_source(model["name"]), model["revision"]))
    opened = open_model(**model, may_offload=request.may_offload)
    files = ModelFiles(opened.directory, opened.tokenizer, before, progress)
    return proved(dict(model), opened, files, shape, progress)


def proved(
    request: Wire, opened: OpenedModel, files: Files, shape: tuple[int, int], progress: Progress
) -> Loaded:
    """A model that is there, proved for what is run on it."""
    name = request["name"]
    notices = [*([opened.dtype_reason] if opened.dtype_reason else []), *opened.notices]
    with first_passes(name):
        sites = located(opened.model)
    if sites.discovered is not None:
        notices.append(
            f"{sites.model_type} is discovered, not reviewed: no row of the table describes it; one was "
            "found on the model, and only what is proved is offered"
        )
    notices += corpus.bos_notices(opened.tokenizer, sites, needs_bos(opened.model))
    _check_positions(sites, name, shape[1])
    progress("check", 0.0, None, "logits")
    likelihood = Likelihood(opened.model, sites)
    with first_passes(name):
        likelihood.check_chunks(*shape)
        small = _random_ids(likelihood, (1, min(PROOF_POSITIONS, shape[1])))
        prove_causal(likelihood, shape[1])
        batch = _random_ids(likelihood, shape)
        warm_up(likelihood, batch)
        canary = Canary.measure(likelihood, batch)
        progress("self-test", 0.0, None, "tests")
        tests = self_test.run(opened.model, sites)
        refused = self_test.require(opened.model, tests)
    if refused:
        notices.append(f"the self-test refused {', '.join(refused)}"[:4096])
        sites = sites.refusing(refused)
    progress("check", 0.0, float(sites.n_layers), "layers")
    entries = prove_entries(likelihood, small)
    if not entries.walkable:
        notices.append(f"every condition takes a whole forward pass: {entries.reason}"[:4096])
    progress("check", float(sites.n_layers), float(sites.n_layers), "layers")
    return Loaded(
        request=request,
        resolved={**request, "dtype": str(opened.model.dtype).removeprefix("torch.")},
        opened=opened,
        manager=AblationManager(opened.model, sites),
        likelihood=likelihood,
        entries=entries,
        canary=canary,
        self_test=tests,
        refused=refused,
        notices=notices,
        files=files,
        looked=time.monotonic(),
    )


def _check_positions(sites: SiteMap, name: str, seq_len: int) -> None:
    if sites.max_positions is not None and seq_len > sites.max_positions:
        raise SparkablateError(
            "config_invalid", f"eval.seq_len {seq_len}: {name} has {sites.max_positions} positions"
        )


def _random_ids(likelihood: Likelihood, shape: tuple[int, int]) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(likelihood.sites.vocab_size, shape, generator=generator).to(
        numerics.device_of(likelihood.model)
    )
