"""Mean activations of the unedited model: what `mode="mean"` puts in a site's place."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from sparkablate.anatomy.sites import SiteMap, Tap, offers, site_row, value_sites
from sparkablate.arguments import as_choice, as_index, described
from sparkablate.catalog import POSITIONS
from sparkablate.edits.hooks import recording
from sparkablate.edits.positions import FirstTokens
from sparkablate.errors import SparkablateError

#: The site whose mean is made of several tensors'.
LAYER = "layer"


class MeanKey(NamedTuple):
    """Whose mean it is.

    Args:
        kind: a site with values of its own, e.g. "mlp"; of "head" it is the whole input of the attention's
            output projection, which heads and groups share; of "layer" the sum of its writes as added.
        layer: index from 0.
        positions: "all", or "not_first": over all tokens but each sequence's first.
    """

    kind: str
    layer: int
    positions: str = "all"


def mean_key(key: Any) -> MeanKey:
    """Raises "usage" for what is no key, "config_invalid" for what no model has."""
    if isinstance(key, str) or not isinstance(key, Sequence) or not 2 <= len(key) <= 3:
        raise SparkablateError(
            "usage", f"a mean's key is MeanKey(kind, layer, positions), not {described(key)}"
        )
    kind, layer, positions = MeanKey(*key)
    as_choice("kind of a mean", kind, (*value_sites(), LAYER))
    as_choice("positions of a mean", positions, POSITIONS)
    return MeanKey(kind, as_index("layer", layer), positions)


def offered_means(sites: SiteMap) -> list[MeanKey]:
    """Every mean that a spec on this model could need."""
    return [
        MeanKey(kind, layer.index, positions)
        for layer in sites.layers
        for kind in value_sites()
        if offers(layer, kind)
        for positions in POSITIONS
    ] + [
        MeanKey(LAYER, layer.index)
        for layer in sites.layers
        if LAYER in layer.sites and not layer.no_constant
    ]


def mean_width(sites: SiteMap, key: MeanKey) -> int:
    """Width of the tensor whose mean it is: of a head, the whole input of the output projection."""
    _taps(sites, key)
    row = site_row(key.kind)
    width = None if row is None else row.width
    return sites.d_model if width is None else width(sites.layers[key.layer])


@torch.inference_mode()
def measure_means(
    model: nn.Module, sites: SiteMap, batches: Iterable[Tensor], keys: Sequence[MeanKey]
) -> dict[MeanKey, Tensor]:
    """Means over all tokens of `batches` (each int [batch, pos]), or over all but each row's first.

    Returns: float32 [width] on the CPU, from sums in float64. Raises SparkablateError: "site_unsupported",
    or "means_missing" where no token is left to average over.
    """
    taps: dict[tuple[str, str], Tap] = {}
    by_tap: dict[tuple[str, str], list[tuple[MeanKey, str]]] = defaultdict(list)
    for key in keys:
        for name, tap in _taps(sites, key).items():
            taps[tap.path, tap.side] = tap
            by_tap[tap.path, tap.side].append((key, name))
    sums: dict[tuple[MeanKey, str], Tensor] = {}
    counts: dict[tuple[MeanKey, str], int] = defaultdict(int)
    first_tokens = FirstTokens()

    def accumulate(tap: Tap, tensor: Tensor) -> None:
        for one in by_tap[tap.path, tap.side]:
            values = tensor
            if one[0].positions == "not_first":
                values = values[~first_tokens.at(tensor).squeeze(-1)]
            if values.device.type == "mps":  # which has no float64
                values = values.cpu()
            values = values.reshape(-1, tensor.shape[-1])
            total = values.sum(dim=0, dtype=torch.float64)
            sums[one] = sums[one] + total if one in sums else total
            counts[one] += values.shape[0]

    with first_tokens.watching(model, sites.stack), recording(list(taps.values()), accumulate):
        for ids in batches:
            if ids.numel() > 0:
                sites.stack(input_ids=ids, use_cache=False)
    missing = [key for key in keys if not all(counts[key, name] for name in _taps(sites, key))]
    if missing:
        raise SparkablateError(
            "means_missing", f"the batches hold no tokens to average over for {tuple(missing[0])}"
        )
    found = {}
    for key in keys:
        means = {name: sums[key, name] / counts[key, name] for name in _taps(sites, key)}
        mean = sites.layers[key.layer].added(means) if key.kind == LAYER else means[key.kind]
        found[key] = mean.float().cpu()
    return found


def _taps(sites: SiteMap, key: MeanKey) -> Mapping[str, Tap]:
    """The tensors that its mean is made of: one, under its kind; of a layer its writes."""
    if key.layer >= sites.n_layers:
        raise SparkablateError("config_invalid", f"{tuple(key)}: the model has {sites.n_layers} layers")
    if key.kind == LAYER:
        layer = sites.layers[key.layer]
        if layer.no_constant:
            raise SparkablateError("site_unsupported", f"L{key.layer}.layer.mean: {layer.no_constant}")
        return layer.writes
    row = site_row(key.kind)
    tap = None if row is None else row.tap(sites.layers[key.layer])
    if tap is None:
        raise SparkablateError("site_unsupported", f"layer {key.layer} has no {key.kind!r} to average")
    return {key.kind: tap}
