"""The one model that is loaded, and what was proved of it."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from sparkablate.anatomy.architectures import locate, needs_bos
from sparkablate.anatomy.sites import SiteMap
from sparkablate.errors import SparkablateError
from sparkablate.loading import model_files, numerics
from sparkablate.loading.configuration import resolve_source
from sparkablate.loading.model_files import ModelFiles
from sparkablate.loading.open import OpenedModel, open_model
from sparkablate.manager import AblationManager
from sparkablate.measure.cost import warm_up
from sparkablate.measure.donors import Donors
from sparkablate.measure.failures import first_passes
from sparkablate.measure.likelihood import Likelihood
from sparkablate.measure.slice import Canary
from sparkablate.measure.walk import PROOF_POSITIONS, Entries, Walk, prove_entries
from sparkablate.progress import Progress
from sparkablate.proofs import self_test
from sparkablate.proofs.causality import prove_causal
from sparkablate.text import corpus


@dataclass
class Loaded:
    """The one model that is loaded, and what was proved of it."""

    request: dict[str, Any]
    opened: OpenedModel
    manager: AblationManager
    likelihood: Likelihood
    entries: Entries
    canary: Canary
    self_test: list[dict[str, Any]]
    notices: list[str]
    files: ModelFiles
    #: When the baseline was last found unchanged, monotonic.
    looked: float
    walk: Walk | None = None
    donors: Donors | None = None
    directions: dict[str, float] = field(default_factory=dict)


def load_proved(model: dict[str, Any], shape: tuple[int, int], may_offload: bool, progress: Progress) -> Loaded:
    progress("load", 0.0, None, "models")
    before = model_files.settled(model_files.here(resolve_source(model["name"]), model["revision"]))
    opened = open_model(**model, may_offload=may_offload)
    notices = list(opened.notices)
    files = ModelFiles(opened.directory, opened.tokenizer, before, progress)
    with first_passes(model["name"]):
        sites = locate(opened.model)
    notices += corpus.bos_notices(opened.tokenizer, sites, needs_bos(opened.model))
    check_positions(sites, model["name"], shape[1])
    progress("check", 0.0, None, "logits")
    likelihood = Likelihood(opened.model, sites)
    with first_passes(model["name"]):
        likelihood.check_chunks(*shape)
        small = random_ids(likelihood, (1, min(PROOF_POSITIONS, shape[1])))
        likelihood.prove_head(small)
        prove_causal(likelihood, shape[1])
        batch = random_ids(likelihood, shape)
        warm_up(likelihood, batch)
        canary = Canary.measure(likelihood, batch)
        progress("self-test", 0.0, None, "tests")
        tests = self_test.run(opened.model, sites)
    if refused := refused_by(tests):
        notices.append(f"the self-test refused {', '.join(refused)}"[:4096])
        sites = sites.refusing(refused)
    progress("check", 0.0, float(sites.n_layers), "layers")
    entries = prove_entries(likelihood, small)
    if not entries.walkable:
        notices.append(f"every condition takes a whole forward pass: {entries.reason}"[:4096])
    progress("check", float(sites.n_layers), float(sites.n_layers), "layers")
    return Loaded(
        request=dict(model),
        opened=opened,
        manager=AblationManager(opened.model, sites),
        likelihood=likelihood,
        entries=entries,
        canary=canary,
        self_test=tests,
        notices=notices,
        files=files,
        looked=time.monotonic(),
    )


def check_positions(sites: SiteMap, name: str, seq_len: int) -> None:
    if sites.max_positions is not None and seq_len > sites.max_positions:
        raise SparkablateError(
            "config_invalid", f"eval.seq_len {seq_len}: {name} has {sites.max_positions} positions"
        )


def refused_by(tests: list[dict[str, Any]]) -> list[str]:
    """Sites that the self-test refused, e.g. "L0.head"."""
    return [label for test in tests for label in test["refused"]]


def random_ids(likelihood: Likelihood, shape: tuple[int, int]) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(likelihood.sites.vocab_size, shape, generator=generator).to(
        numerics.device_of(likelihood.model)
    )
