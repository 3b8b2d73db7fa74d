"""Activations of another forward pass: what `mode="resample"` and `mode="patch"` put in a site's place."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sparkablate.anatomy.sites import SiteMap, Tap, offers, site_row, value_sites
from sparkablate.arguments import as_choice, as_index, described
from sparkablate.catalog import DONOR_MODES, SITES
from sparkablate.edits.hooks import recording
from sparkablate.errors import SparkablateError
from sparkablate.specs import AblationSpec, Spec


class SourceKey(NamedTuple):
    """Whose activation it is.

    Args:
        kind: a site with values of its own, as of a `MeanKey`.
        layer: index from 0.
    """

    kind: str
    layer: int


def donor_key(key: Any) -> SourceKey:
    """Raises "usage" for what is no key, "config_invalid" for what no model has."""
    if isinstance(key, str) or not isinstance(key, Sequence) or len(key) != 2:
        raise SparkablateError("usage", f"a donor's key is SourceKey(kind, layer), not {described(key)}")
    return SourceKey(as_choice("kind of a donor", key[0], value_sites()), as_index("layer", key[1]))


def donor_mode(mode: Any) -> str:
    """Raises "usage" for a mode that has no donor."""
    if not isinstance(mode, str) or mode not in DONOR_MODES:
        raise SparkablateError(
            "usage", f"mode {described(mode)} has no donor; use {' or '.join(DONOR_MODES)}"
        )
    return mode


def offered_donors(sites: SiteMap) -> list[SourceKey]:
    """Every activation that a spec on this model could need."""
    return [
        SourceKey(kind, layer.index)
        for layer in sites.layers
        for kind in value_sites()
        if offers(layer, kind)
    ]


def needed_donors(specs: Iterable[Spec], mode: str) -> list[SourceKey]:
    """What specs of that mode take from the source, each once."""
    keys = [
        SourceKey(site, spec.layer)
        for spec in specs
        if isinstance(spec, AblationSpec)
        and spec.mode == mode
        and (site := SITES[spec.kind].values) is not None
    ]
    return list(dict.fromkeys(keys))


@torch.inference_mode()
def record_activations(
    sites: SiteMap, keys: Sequence[SourceKey], forward: Callable[[], Any]
) -> dict[SourceKey, Tensor]:
    """What passes the keys' sites while `forward()` runs the unedited model: copies  # [batch, pos, width].

    Raises SparkablateError: "site_unsupported", or "hook_failed" where a site was not passed.
    """
    taps = {_tap(sites, key): key for key in keys}
    found: dict[SourceKey, Tensor] = {}

    def keep(tap: Tap, tensor: Tensor) -> None:
        found[taps[tap]] = tensor.clone()

    with recording(list(taps), keep):
        forward()
    if missing := [key for key in keys if key not in found]:
        raise SparkablateError("hook_failed", f"the model ran, but never passed {tuple(missing[0])}")
    return found


def _tap(sites: SiteMap, key: SourceKey) -> Tap:
    if not 0 <= key.layer < sites.n_layers:
        raise SparkablateError("config_invalid", f"{tuple(key)}: the model has {sites.n_layers} layers")
    row = site_row(key.kind)
    tap = None if row is None else row.tap(sites.layers[key.layer])
    if tap is None:
        raise SparkablateError("site_unsupported", f"layer {key.layer} has no {key.kind!r} to record")
    return tap
