"""Conditions measured on top of given edits, against the joint condition's own hooked pass, bit for bit."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from sparkablate.anatomy.sites import SiteMap
from sparkablate.edits.given import joined
from sparkablate.errors import SparkablateError
from sparkablate.manager import AblationManager
from sparkablate.measure.donors import Donors
from sparkablate.measure.given import Given
from sparkablate.measure.likelihood import Likelihood
from sparkablate.measure.slice import Canary, Measurement, SliceRun
from sparkablate.measure.walk import Entries, Walk, prove_entries
from sparkablate.progress import silent
from sparkablate.specs import AblationSpec, DirectionSpec, Spec, canonical, condition_id
from sparkablate.study.planning import to_wire
from tiny_models import TINY, tokens

#: Sequential and parallel, with norms behind the writes, a post-norm, experts, and one that is never walked.
NAMES = [
    name
    for name in ("llama", "gpt2", "gpt_neox", "gemma2", "olmo2", "bloom", "opt", "mixtral", "gemma4_text")
    if name in TINY
]
SOURCE = tokens(seed=3)
#: Of the edits each model takes so many-th as given, each model others: all of them take minutes.
EVERY = 17


def unit(seed: int, width: int) -> Tensor:
    vector = torch.randn(width, generator=torch.Generator().manual_seed(seed))
    return vector / vector.norm()


def edits(sites: SiteMap) -> list[Spec]:
    """Every kind of edit, in every layer that offers it, and directions that reach over several."""
    found: list[Spec] = []
    for layer in sites.layers:
        at, offered = layer.index, layer.sites
        if "head" in offered:
            found += [AblationSpec("head", at, heads=(0,)), AblationSpec("head", at, heads=(1,), mode="mean")]
            found += [AblationSpec("head", at, heads=(1,), mode="resample")]
        if "attn" in offered:
            found += [AblationSpec("attn", at, mode="mean")]
        if "neuron" in offered:
            found += [AblationSpec("neuron", at, neurons=(1, 3), positions="not_first")]
        if "mlp" in offered:
            found += [AblationSpec("mlp", at), AblationSpec("mlp", at, mode="mean")]
        found += [AblationSpec("layer", at)]
        if "layer" in offered and not layer.no_constant:
            found += [AblationSpec("layer", at, mode="mean")]
        if at == 1 and not layer.no_constant:
            found += [AblationSpec("layer", at, mode="mean")]
        found += [DirectionSpec("project_out", unit(at, sites.d_model), layers=(at,))]
        found += [DirectionSpec("project_out", unit(9, sites.d_model), layers=(at,), at="stream")]
    found += [DirectionSpec("project_out", unit(20, sites.d_model))]
    found += [DirectionSpec("add", unit(21, sites.d_model), layers=(0, sites.n_layers - 1), norm=3.0)]
    return found


class Bench:
    """One tiny model, and slices of it."""

    def __init__(self, model: Any, entries: Entries | None = None) -> None:
        self.model = model
        self.manager = AblationManager(model)
        self.sites = self.manager.sites
        self.manager.calibrate_means([tokens(seed=7)])
        self.likelihood = Likelihood(model, self.sites)
        self.entries = entries or prove_entries(self.likelihood, tokens(batch=1))
        self.ids = tokens()
        for spec in edits(self.sites):
            if isinstance(spec, DirectionSpec):
                assert spec.vector is not None
                self.manager.set_direction(spec.sha256, spec.vector, spec.norm)

    def walk(self, given: Sequence[Spec]) -> Walk:
        return Walk(self.likelihood, self.entries, self.ids, Given(self.manager, tuple(canonical(given))))

    def measure(
        self, walk: Walk, conditions: Sequence[Sequence[Spec]], metrics: list[str]
    ) -> dict[str, Measurement]:
        donors = Donors(self.manager, self.likelihood, self.entries, {"resample": SOURCE})
        canary = Canary.measure(self.likelihood, self.ids)
        run = SliceRun(self.manager, walk, donors, canary, metrics, silent, per_token=True)
        wired = [
            {"id": condition_id(specs), "interventions": [to_wire(spec) for spec in canonical(specs)]}
            for specs in conditions
        ]
        found: dict[str, Measurement] = {}
        run.run(wired, lambda one: found.update({one.condition: one}), lambda: False)
        for one in found.values():
            assert one.error is None, one.error
        return found

    def plain(self, specs: Sequence[Spec]) -> np.ndarray:
        """[batch, pos - 1]: the model's own forward pass and full logits; nothing of the walk."""
        self.manager.record_sources(SOURCE, "resample")
        with torch.inference_mode(), self.manager.applied(specs) if specs else nullcontext():
            logits = self.model(input_ids=self.ids, use_cache=False).logits[:, :-1].float()
        losses = functional.cross_entropy(
            logits.flatten(0, 1), self.ids[:, 1:].flatten(), reduction="none"
        ).view(self.ids.shape[0], -1)
        return losses.numpy()


def pairs(sites: SiteMap, given: Spec) -> Iterator[tuple[list[Spec], tuple[Spec, ...]]]:
    """Conditions that may stand on the given edit, and what they are together."""
    for spec in edits(sites):
        with contextlib.suppress(SparkablateError):
            yield [spec], joined([given], [spec], sites).specs


@pytest.mark.parametrize("name", NAMES)
def test_a_condition_on_top_of_given_edits_is_the_joint_condition(
    tiny: Callable[..., Any], name: str
) -> None:
    bench = Bench(tiny(name))
    expected: dict[str, np.ndarray] = {}
    for given in edits(bench.sites)[NAMES.index(name) % EVERY :: EVERY]:
        allowed = list(pairs(bench.sites, given))
        walk = bench.walk([given])
        found = bench.measure(walk, [[], *(specs for specs, _ in allowed)], ["nll", "kl"])
        for specs, joint in [([], (given,)), *allowed]:
            key = condition_id(joint)
            if key not in expected:
                expected[key] = bench.plain(joint)
            one = found[condition_id(specs)]
            assert one.per_token is not None
            assert np.array_equal(one.per_token, expected[key]), f"{condition_id(specs)} on {given}"
        kl = found["baseline"].sums[found["baseline"].columns.index("kl")]
        assert np.array_equal(kl, np.zeros_like(kl)), given
