"""Mean activations of the unedited model: what `mode="mean"` puts in a site's place."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from sparkablate.anatomy.sites import SiteMap, Tap, offers, site_row, value_sites
from sparkablate.arguments import as_choice, as_index, described
from sparkablate.catalog import POSITIONS
from sparkablate.edits.hooks import recording
from sparkablate.edits.positions import FirstTokens
from sparkablate.errors import SparkablateError


class MeanKey(NamedTuple):
    """Whose mean it is.

    Args:
        kind: a site with values of its own, e.g. "mlp"; of "head" it is the whole input of the attention's
            output projection, which heads and groups share.
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
    as_choice("kind of a mean", kind, value_sites())
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
    ]


def mean_width(sites: SiteMap, key: MeanKey) -> int:
    """Width of the tensor whose mean it is: of a head, the whole input of the output projection."""
    _tap(sites, key)
    row = site_row(key.kind)
    assert row is not None
    width = row.width
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
    by_tap: dict[tuple[str, str], list[MeanKey]] = defaultdict(list)
    for key in keys:
        tap = _tap(sites, key)
        taps[tap.path, tap.side] = tap
        by_tap[tap.path, tap.side].append(key)
    sums: dict[MeanKey, Tensor] = {}
    counts: dict[MeanKey, int] = defaultdict(int)
    first_tokens = FirstTokens()

    def accumulate(tap: Tap, tensor: Tensor) -> None:
        for key in by_tap[tap.path, tap.side]:
            values = tensor
            if key.positions == "not_first":
                values = values[~first_tokens.at(tensor).squeeze(-1)]
            if values.device.type == "mps":  # which has no float64
                values = values.cpu()
            values = values.reshape(-1, tensor.shape[-1])
            total = values.sum(dim=0, dtype=torch.float64)
            sums[key] = sums[key] + total if key in sums else total
            counts[key] += values.shape[0]

    with first_tokens.watching(model, sites.stack), recording(list(taps.values()), accumulate):
        for ids in batches:
            if ids.numel() > 0:
                sites.stack(input_ids=ids, use_cache=False)
    missing = [key for key in keys if not counts[key]]
    if missing:
        raise SparkablateError(
            "means_missing", f"the batches hold no tokens to average over for {tuple(missing[0])}"
        )
    return {key: (sums[key] / counts[key]).float().cpu() for key in keys}


def _tap(sites: SiteMap, key: MeanKey) -> Tap:
    if key.layer >= sites.n_layers:
        raise SparkablateError("config_invalid", f"{tuple(key)}: the model has {sites.n_layers} layers")
    row = site_row(key.kind)
    tap = None if row is None else row.tap(sites.layers[key.layer])
    if tap is None:
        raise SparkablateError("site_unsupported", f"layer {key.layer} has no {key.kind!r} to average")
    return tap
