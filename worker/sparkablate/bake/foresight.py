"""What can be refused before any weight is read: from the configuration, and the model built from it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from sparkablate.anatomy.architectures import Architecture, locate, row_of
from sparkablate.anatomy.modules import resolve
from sparkablate.anatomy.sites import SITE_ROWS, LayerSites, SiteMap
from sparkablate.bake.biases import StockBiases
from sparkablate.bake.checkpoint import check_plain
from sparkablate.bake.cuts import NOTHING, Wish, removals
from sparkablate.bake.place import check_target, resolve_target
from sparkablate.bake.prune import Renumbering, mend_config
from sparkablate.bake.rules import (
    NO_LAYER_BELOW,
    check,
    constant_receiver,
    deleted,
    mean_refusal,
    no_one_mlp,
)
from sparkablate.bake.sizes import parameters_after
from sparkablate.edits.functions import MODES, SKIP
from sparkablate.errors import SparkablateError
from sparkablate.loading import numerics
from sparkablate.loading.configuration import build_empty, declared_dtype, load_config, resolve_source
from sparkablate.specs import AblationSpec, DirectionSpec, Spec, canonical, spec_id, validate
from sparkablate.wording import flag


@dataclass(frozen=True)
class Wanted:
    """A bake as it was asked for: see `sparkablate.bake.bake`."""

    specs: Sequence[Spec]
    out: Path
    dtype: str
    prune: bool
    force: bool
    wish: Wish = NOTHING


@dataclass(frozen=True)
class Size:
    """Parameters, tied ones once, and the bytes that they take on disk."""

    parameters: int
    bytes: int


@dataclass(frozen=True)
class Foreseen:
    """What a bake would write: its form, and how large source and result are."""

    form: Form
    before: Size
    after: Size


def foresee(name: str, revision: str | None, trust_remote_code: bool, wanted: Wanted) -> Foreseen:
    """Raises what a bake would: "bake_refused" with the reason, "usage" for the target, and what
    `load_config` and `validate` do. What only the checkpoint knows is left to the bake."""
    source = resolve_source(name)
    config = load_config(source, revision=revision, trust_remote_code=trust_remote_code)
    check_plain(config, {})
    form = form_of(wanted.dtype, wanted.specs, config)
    directory = Path(os.path.realpath(source)) if Path(source).is_dir() else None
    check_target(resolve_target(wanted.out), directory, wanted.force)
    empty = build_empty(config, trust_remote_code=trust_remote_code)
    sites = locate(empty)
    specs, prune = canonical(wanted.specs), wanted.prune
    validate(specs, sites)
    text_config = config.get_text_config()
    row = row_of(text_config)
    assert row is not None
    check(specs, row, prune)
    biases, pruned, keys = StockBiases(empty, sites), deleted(specs, prune), set[str]()
    reasons = [
        f"{spec_id(spec)}: {why}"
        for spec in specs
        if isinstance(spec, AblationSpec)
        and (why := _mean(spec, row, sites, biases, pruned, keys)) is not None
    ]
    if reasons:
        raise SparkablateError("bake_refused", "\n".join(reasons))
    if prune:
        mend_config({}, text_config, Renumbering(pruned, sites.n_layers))
    after = parameters_after(
        empty,
        sites,
        pruned=pruned,
        removed=removals(specs, wanted.wish, sites, pruned),
        bias_keys=keys,
        untied=_unties(specs, empty),
    )
    kept = numerics.DTYPES.get(declared_dtype(config) or "", torch.float32)
    written = torch.float32 if form.written == "float32" else kept
    return Foreseen(
        form,
        Size(sites.parameters, sites.parameters * kept.itemsize),
        Size(after, after * written.itemsize),
    )


def _unties(specs: Sequence[Spec], model: Any) -> bool:
    """Whether the embedding alone of a tied pair is edited."""
    if not any(isinstance(spec, DirectionSpec) and spec.edits_embedding for spec in specs):
        return False
    head, embedding = model.get_output_embeddings(), model.get_input_embeddings()
    return head is not None and embedding is not None and head.weight is embedding.weight


def source_dtype(config: Any) -> str:
    """The dtype that a configuration declares. Raises "bake_refused" where it declares none."""
    declared = declared_dtype(config)
    if declared is None:
        raise SparkablateError(
            "bake_refused", f"config.json declares no dtype to keep; bake with {flag('dtype', 'float32')}"
        )
    return declared


@dataclass(frozen=True)
class Form:
    """The dtype of a checkpoint, that of the live side (as `load_model` calls it), and why.

    ``written``: "source" keeps every tensor's own.
    """

    written: Literal["source", "float32"]
    live: str
    why: str


def form_of(dtype: str, specs: Sequence[Spec], config: Any) -> Form:
    """Raises "usage" for another dtype, "bake_refused" for "source" where config.json declares none."""
    if dtype == "float32":
        return Form("float32", "float32", "asked for")
    if dtype == "source":
        return Form("source", source_dtype(config), "asked for")
    if dtype != "auto":
        raise SparkablateError("usage", f"{flag('dtype')} {dtype!r}: use auto, float32 or source")
    if any(map(computes, specs)):
        return Form("float32", "float32", "a direction or a mean is computed into the weights")
    declared = declared_dtype(config)
    if declared is None or declared not in numerics.DTYPES:
        return Form("float32", "float32", f"config.json declares {declared or 'no dtype'}")
    return Form("source", declared, "the edit is exact in the source's own dtype")


def computes(spec: Spec) -> bool:
    """Whether baking it is arithmetic on weights, not zeros and deletions."""
    if isinstance(spec, DirectionSpec):
        return True
    return spec.mode != SKIP and MODES[spec.mode].needs is not None


def _mean(
    spec: AblationSpec,
    row: Architecture,
    sites: SiteMap,
    biases: StockBiases,
    pruned: frozenset[int],
    keys: set[str],
) -> str | None:
    """Why this mean does not bake; None where it may: the checkpoint has the last word.

    The configuration's `keys` that have to switch a bias on are added.
    """
    if spec.mode == SKIP or MODES[spec.mode].needs != "mean":
        return None
    if spec.kind == "layer":
        receiver = constant_receiver(spec, pruned)
        if receiver is None:
            return NO_LAYER_BELOW
        if "mlp" not in sites.layers[receiver].writes:
            return no_one_mlp(receiver)
        held = _mean(AblationSpec("mlp", receiver, mode="mean"), row, sites, biases, pruned, keys)
        return held and f"{held} (layer {receiver})"
    layer = sites.layers[spec.layer]
    write = SITE_ROWS[spec.kind].write

    def has_bias(module: Any, path: str) -> bool:
        if getattr(module, "bias", None) is not None:
            return True
        key = biases.key(layer, write, f"{path}.bias")
        keys.update([key] if key else [])
        return bool(key)

    if write == "attn" and layer.heads is not None:
        return mean_refusal(row, 1, False, has_bias(layer.attention_output, row.attention_output))
    if spec.parts and (tap := SITE_ROWS[spec.kind].tap(layer)) is not None:
        path = tap.path.removeprefix(f"{layer.path}.")
        return mean_refusal(row, 1, False, has_bias(tap.module, path))
    made = [one for one in dict(row.outputs)[write] if _holder(layer, one.weight) is not None]
    if not made:  # other names on disk than in memory
        return None
    weight = made[0].weight
    bias = has_bias(_holder(layer, weight), weight.removesuffix(".weight"))
    return mean_refusal(row, len(made), made[0].experts, bias)


def _holder(layer: LayerSites, weight: str) -> Any:
    """What of the layer holds the weight: a Linear, or stacked experts; None where there is none."""
    found = resolve(layer.module, weight.removesuffix(".weight"))
    return found if isinstance(found, nn.Module | Tensor) else None
