"""Every site that a layer offers, edited: a key/value cache against none, left padding against none."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

import tiny_models
from sparkablate import AblationManager, AblationSpec, DirectionSpec
from sparkablate.anatomy.sites import SiteMap
from sparkablate.catalog import MODED_SITES
from sparkablate.edits.positions import CACHE_ARGUMENTS
from sparkablate.specs import Spec, condition_id

ROWS = list(tiny_models.TINY)
LENGTH, PREFILL, PADDING = 10, 6, 3
IDS = tiny_models.tokens(2, LENGTH)
#: Positions that the model does not read off the mask: what a padded batch is given with.
LEARNED_POSITIONS = ("gpt2",)
#: Types whose stock model itself differs with its cache, or padded: there is nothing to compare with.
STOCK_CACHE_DIFFERS = ("minimax", "nemotron_h", "recurrent_gemma", "zamba2")
STOCK_PADDING_DIFFERS = ("recurrent_gemma",)


def conditions(sites: SiteMap) -> Iterator[list[Spec]]:
    """Each kind of site in all layers that offer it at once; each skip alone; directions of both kinds."""
    for kind in MODED_SITES:
        here = [layer.index for layer in sites.layers if kind in layer.sites]
        parts = {"head": "heads", "kv_group": "groups", "neuron": "neurons"}.get(kind)
        more: dict[str, Any] = {} if parts is None else {parts: (0,)}
        if here:
            yield [AblationSpec(kind, index, **more) for index in here]
    yield from ([AblationSpec("layer", layer.index)] for layer in sites.layers if "layer" in layer.sites)
    vector = torch.randn(sites.d_model, generator=torch.Generator().manual_seed(0))
    vector /= vector.norm()
    yield [DirectionSpec("project_out", vector)]
    yield [DirectionSpec("add", vector, layers=(1,), norm=4.0, positions="not_first")]


def logits(model: Any, ids: Tensor = IDS, **more: Any) -> Tensor:
    return model(input_ids=ids, use_cache=False, **more).logits


def close(left: Tensor, right: Tensor, what: str) -> None:
    torch.testing.assert_close(left, right, rtol=1e-3, atol=1e-4, msg=lambda text: f"{what}: {text}")


def stepwise(model: Any) -> Tensor:
    """Logits [batch, pos, vocab] of a prefill and of single tokens behind it. The cache alone says how many
    there were before."""
    output = model(input_ids=IDS[:, :PREFILL], use_cache=True)
    parts = [output.logits]
    for position in range(PREFILL, LENGTH):
        (name,) = (name for name in CACHE_ARGUMENTS if vars(output).get(name) is not None)
        cache = {name: vars(output)[name]}
        output = model(input_ids=IDS[:, position : position + 1], use_cache=True, **cache)
        parts.append(output.logits)
    return torch.cat(parts, dim=1)


@pytest.mark.parametrize("row", ROWS)
@torch.inference_mode()
def test_a_cache_gives_what_a_whole_pass_gives(row: str, tiny: Any) -> None:
    manager = AblationManager(tiny(row))
    if row in STOCK_CACHE_DIFFERS:
        with pytest.raises((AssertionError, ValueError)):
            close(stepwise(manager.model), logits(manager.model), row)
        return
    for specs in conditions(manager.sites):
        with manager.applied(specs):
            close(stepwise(manager.model), logits(manager.model), condition_id(specs))


@pytest.mark.parametrize("row", ROWS)
@torch.inference_mode()
def test_left_padding_gives_what_none_gives(row: str, tiny: Any) -> None:
    manager = AblationManager(tiny(row))
    padded = torch.cat([torch.zeros(2, PADDING, dtype=torch.long), IDS], dim=1)
    more = {"attention_mask": (torch.arange(padded.shape[1]) >= PADDING).long().expand(2, -1)}
    if row in LEARNED_POSITIONS:
        more["position_ids"] = (more["attention_mask"].cumsum(dim=-1) - 1).clamp(min=0)
    if row in STOCK_PADDING_DIFFERS:
        with pytest.raises(AssertionError):
            close(logits(manager.model, padded, **more)[:, PADDING:], logits(manager.model), row)
        return
    for specs in [[], *conditions(manager.sites)]:
        with manager.applied(specs):
            found = logits(manager.model, padded, **more)[:, PADDING:]
            close(found, logits(manager.model), condition_id(specs))
