"""The walk against whole hooked forward passes: every architecture row, site and mode, bit for bit."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from sparkablate.anatomy.sites import SiteMap
from sparkablate.manager import AblationManager
from sparkablate.measure.likelihood import Likelihood
from sparkablate.measure.metrics import metrics_of
from sparkablate.measure.walk import EMBEDDING, Stage, Start, Walk, first_edit, prove_entries
from sparkablate.specs import AblationSpec, DirectionSpec, Spec, condition_id
from tiny_models import TINY, tokens

UNIT = torch.eye(32)[0]
DTYPES = (torch.float32, torch.bfloat16)


def plain_nll(model: Any, manager: AblationManager, ids: Tensor, specs: list[Spec]) -> Tensor:
    """[batch, pos - 1]: the model's own forward pass and full logits; nothing of the walk."""
    with torch.inference_mode(), manager.applied(specs):
        logits = model(input_ids=ids, use_cache=False).logits[:, :-1].float()
    losses = functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten(), reduction="none")
    return losses.view(ids.shape[0], -1)


def conditions(sites: SiteMap, layer: int) -> Iterator[list[Spec]]:
    """Every site and mode that the layer offers, alone and joint."""
    offered = sites.layers[layer].sites
    vector = torch.randn(sites.d_model, generator=torch.Generator().manual_seed(layer))
    vector /= vector.norm()
    for mode in ("zero", "mean"):
        if "head" in offered:
            yield [AblationSpec("head", layer, heads=(sites.layers[layer].n_heads - 1,), mode=mode)]
        if "kv_group" in offered:
            yield [AblationSpec("kv_group", layer, groups=(0,), mode=mode)]
        if "attn" in offered:
            yield [AblationSpec("attn", layer, mode=mode)]
        if "mlp" in offered:
            yield [AblationSpec("mlp", layer, mode=mode)]
        if "neuron" in offered:
            yield [AblationSpec("neuron", layer, neurons=(1, 3), mode=mode)]
    if "mlp" in offered:
        yield [AblationSpec("mlp", layer, mode="mean", positions="not_first")]
    yield [AblationSpec(kind="layer", layer=layer)]
    if not sites.layers[layer].no_constant:
        replaced = AblationSpec("layer", layer, mode="mean")
        yield [replaced]
        yield [replaced, DirectionSpec("project_out", vector, layers=(layer,))]
        yield [replaced, DirectionSpec("project_out", vector, layers=(layer,), at="stream")]
    yield [DirectionSpec("project_out", vector, layers=(layer,))]
    yield [DirectionSpec("project_out", vector, layers=(layer,), at="stream")]
    yield [DirectionSpec("add", vector, layers=(layer,), norm=3.0)]
    last = sites.n_layers - 1
    if layer < last and {"mlp"} <= set(offered):
        yield [
            AblationSpec(kind="layer", layer=last),
            AblationSpec(kind="mlp", layer=layer),
        ]
        yield [
            DirectionSpec("add", vector, layers=(last,)),
            AblationSpec(kind="mlp", layer=layer),
        ]


@pytest.mark.parametrize("dtype", DTYPES, ids=["float32", "bfloat16"])
@pytest.mark.parametrize("name", TINY)
def test_walk_equals_plain_pass_bit_for_bit(tiny: Callable[..., Any], name: str, dtype: torch.dtype) -> None:
    model = tiny(name, dtype)
    manager = AblationManager(model)
    sites = manager.sites
    manager.calibrate_means([tokens(seed=7)])
    likelihood = Likelihood(model, sites)
    entries = prove_entries(likelihood, tokens(batch=1))
    ids = tokens()
    walk = Walk(likelihood, entries, ids)
    nll = metrics_of(["nll"])
    for layer in sorted({0, sites.n_layers // 2, sites.n_layers - 1}):
        for specs in conditions(sites, layer):
            start = first_edit(specs, sites)
            hidden = walk.final_hidden(start, lambda: manager.applied(specs))  # noqa: B023
            walked = likelihood.measure(hidden, ids, nll, None)["nll"]
            assert torch.equal(walked, plain_nll(model, manager, ids, specs)), condition_id(specs)
    everywhere = [DirectionSpec("project_out", torch.eye(sites.d_model)[0])]
    hidden = walk.final_hidden(first_edit(everywhere, sites), lambda: manager.applied(everywhere))
    walked = likelihood.measure(hidden, ids, nll, None)["nll"]
    assert torch.equal(walked, plain_nll(model, manager, ids, everywhere))


def test_a_walk_gives_the_same_bits_in_any_order(tiny: Callable[..., Any]) -> None:
    """Going back to a lower layer starts over; the baseline branches off from wherever the walk is."""
    model = tiny("qwen3")
    manager = AblationManager(model)
    likelihood = Likelihood(model, manager.sites)
    ids = tokens()
    walk = Walk(likelihood, prove_entries(likelihood, ids), ids)
    baseline = likelihood.final_hidden(ids)
    specs = [AblationSpec("mlp", layer=1)]
    with manager.applied(specs):
        expected = likelihood.final_hidden(ids)
    for layer in (2, 1, 0, 1, 2):
        assert torch.equal(walk.final_hidden(Start(layer, Stage.OUTPUT), nullcontext), baseline)
        assert torch.equal(
            walk.final_hidden(first_edit(specs, manager.sites), lambda: manager.applied(specs)),
            expected,
        )


def test_the_model_is_left_as_it_was(tiny: Callable[..., Any]) -> None:
    """No replaced forward pass and no hook stays behind, also where a condition raises."""
    model = tiny("llama")
    manager = AblationManager(model)
    likelihood = Likelihood(model, manager.sites)
    ids = tokens()
    walk = Walk(likelihood, prove_entries(likelihood, ids), ids)
    # transformers' own hooks stay behind where a test before this one asked for hidden states.
    before = [(list(module._forward_hooks), list(module._forward_pre_hooks)) for module in model.modules()]

    @contextmanager
    def failing() -> Iterator[None]:
        with manager.applied(AblationSpec("mlp", layer=1)):
            yield
            raise RuntimeError("after the forward pass")

    with pytest.raises(RuntimeError, match="after the forward pass"):
        walk.final_hidden(Start(1, Stage.MLP), failing)
    for module in model.modules():
        assert "forward" not in module.__dict__
    after = [(list(module._forward_hooks), list(module._forward_pre_hooks)) for module in model.modules()]
    assert after == before


def test_a_stage_that_does_not_give_the_plain_bits_is_not_used(
    tiny: Callable[..., Any],
) -> None:
    """BLOOM's attention adds the residual itself, so putting back the projection alone would lose it."""
    model = tiny("bloom")
    entries = prove_entries(Likelihood(model, AblationManager(model).sites), tokens(batch=1))
    assert entries.walkable
    assert not entries.attention
    assert len(entries.mlp) == 3


def test_a_model_whose_layers_share_keys_and_values_takes_whole_passes(
    tiny: Callable[..., Any],
) -> None:
    model = tiny("gemma4_text")
    entries = prove_entries(Likelihood(model, AblationManager(model).sites), tokens(batch=1))
    assert not entries.walkable
    assert "keys and values" in entries.reason


@pytest.mark.parametrize(
    ("specs", "start"),
    [
        ([AblationSpec("head", 2, heads=(0,))], Start(2, Stage.ATTENTION)),
        ([AblationSpec("mlp", 2), AblationSpec("attn", 2)], Start(2, Stage.ATTENTION)),
        ([AblationSpec("mlp", 2), AblationSpec("layer", 1)], Start(1, Stage.SKIP)),
        ([DirectionSpec("project_out", UNIT)], Start(EMBEDDING, Stage.ATTENTION)),
        ([DirectionSpec("project_out", UNIT, at="stream")], Start(0, Stage.OUTPUT)),
        (
            [DirectionSpec("add", UNIT, layers=(1, 2)), AblationSpec("mlp", 1)],
            Start(1, Stage.MLP),
        ),
        ([DirectionSpec("project_out", UNIT, layers=(1,))], Start(1, Stage.ATTENTION)),
    ],
)
def test_first_edit_is_the_lowest_place(tiny: Callable[..., Any], specs: list[Spec], start: Start) -> None:
    assert first_edit(specs, AblationManager(tiny("llama")).sites) == start
