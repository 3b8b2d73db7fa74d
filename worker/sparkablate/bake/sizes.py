"""How many parameters a baked checkpoint has, counted from the model and what the bake does to it."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Sequence
from typing import Any

from torch import nn

from sparkablate.anatomy.sites import SiteMap
from sparkablate.bake.biases import StockBiases
from sparkablate.bake.cuts import Cutter, Removal


def parameters_after(
    model: nn.Module,
    sites: SiteMap,
    *,
    pruned: Collection[int] = (),
    removed: Sequence[Removal] = (),
    bias_keys: Iterable[str] = (),
    untied: bool = False,
) -> int:
    """Parameters of the checkpoint, tied ones once. The model may be on the meta device.

    `pruned`: deleted layers. `removed`: what every other layer loses. `bias_keys`: what switches biases on.
    `untied`: whether the head gets a copy of the embedding. Raises "bake_refused" as `Cutter`.
    """
    any_model: Any = model
    keys = tuple(bias_keys)
    added = {
        (layer, name): shape
        for key in keys
        for (layer, name), shape in StockBiases(model, sites).added(key).items()
        if layer not in pruned
    }
    count = sites.parameters + sum(map(math.prod, added.values()))
    count -= sum(p.numel() for layer in pruned for p in sites.layers[layer].module.parameters())
    cutter = Cutter(model, sites, keys)
    for removal in removed:
        for one in cutter.shorter(removal):
            if one.layer in removal.removed:
                shape = added.get((one.layer, one.name)) or _shape(sites.layers[one.layer].module, one.name)
                count -= math.prod(shape) // removal.before * removal.count
    return count + (any_model.get_input_embeddings().weight.numel() if untied else 0)


def _shape(layer: nn.Module, name: str) -> tuple[int, ...]:
    return tuple(layer.get_parameter(name).shape)
