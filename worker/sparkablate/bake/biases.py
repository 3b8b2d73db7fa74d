"""Biases that a stock model of the same configuration has once a key of it is set."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from functools import cache
from typing import Any

from torch import nn

from sparkablate.anatomy.sites import LayerSites, SiteMap
from sparkablate.anatomy.stock import bias_keys
from sparkablate.loading.configuration import build_empty

#: (layer, name within the layer) → shape.
Added = Mapping[tuple[int, str], tuple[int, ...]]


class StockBiases:
    """What the keys of anatomy/stock.py give this very model, by the one that transformers builds."""

    def __init__(self, model: nn.Module, sites: SiteMap) -> None:
        self._model: Any = model
        self._sites = sites
        self.added = cache(self._added)

    def key(self, layer: LayerSites, write: str, bias: str) -> str:
        """The key that gives the layer's parameter `bias` of that write; empty where none does."""
        key = bias_keys(self._sites.model_type).of(write, layer.heads is None)
        return key if key and (layer.index, bias) in self.added(key) else ""

    def _added(self, key: str) -> Added:
        """Every bias that the key switches on; none where it does anything else besides."""
        config = copy.deepcopy(self._model.config)
        setattr(config.get_text_config(), key, True)
        before = {name: parameter.shape for name, parameter in self._model.named_parameters()}
        after = {name: parameter.shape for name, parameter in build_empty(config).named_parameters()}
        if any(after.get(name) != shape for name, shape in before.items()):
            return {}
        added = {}
        for name in after.keys() - before.keys():
            here = next((one for one in self._sites.layers if name.startswith(f"{one.path}.")), None)
            if here is None:
                return {}
            added[here.index, name.removeprefix(f"{here.path}.")] = tuple(after[name])
        return added
