"""Edits of a site: what a spec does to the tensor that passes its tap."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sparkablate.anatomy.sites import SITE_ROWS, LayerSites
from sparkablate.edits.functions import MODES
from sparkablate.edits.hooks import Edit
from sparkablate.edits.positions import FirstTokens
from sparkablate.edits.prompts import Prompts
from sparkablate.specs import AblationSpec, Spec, spec_id


@dataclass(frozen=True)
class Bound:
    """A spec and what it puts in, if anything: a mean [width], or another activation [batch, pos, width]."""

    spec: Spec
    given: Tensor | None = None


def site_edit(
    spec: AblationSpec, layer: LayerSites, given: Tensor | None, first_tokens: FirstTokens, prompts: Prompts
) -> Edit:
    """The spec's mode on its columns and at its positions.

    Args: given, the site's mean [width] or its activation elsewhere [batch, pos, width], if the mode has one.
    """
    mode = MODES[spec.mode]
    columns = edited_columns(spec, layer) if spec.parts else None
    shape = given.shape if given is not None and mode.needs == "donor" else None
    if given is not None and columns is not None:
        given = given[..., columns.to(given.device)]

    def edit(x: Tensor) -> Tensor:
        span = None if shape is None else prompts.span(x, shape, spec_id(spec))
        values = x if columns is None else x[..., columns.to(x.device)]
        local = None if given is None else given.to(device=x.device, dtype=x.dtype)
        if local is None or span is None or span.is_whole(x.shape[:-1]):
            edited = mode.function(values, local)
        else:
            edited = span.apply(mode.function, values, local)
        if spec.positions == "not_first":
            edited = torch.where(first_tokens.at(x), values, edited)
        if columns is None:
            return edited
        out = x.clone()
        out[..., columns.to(x.device)] = edited
        return out

    return edit


def edited_columns(spec: AblationSpec, layer: LayerSites) -> Tensor:
    """Of the tensor that holds its site's values, those of the parts that it lists, in their order."""
    width = SITE_ROWS[spec.kind].parts_width(spec.kind, layer)
    parts = torch.tensor(spec.parts)
    return (parts[:, None] * width + torch.arange(width)).reshape(-1)


def is_constant(one: Bound) -> bool:
    """Whether a layer adds its mean instead of its writes."""
    return isinstance(one.spec, AblationSpec) and one.spec.kind == "layer" and one.given is not None


def constant_write(constant: Tensor, edits: Sequence[Edit]) -> Edit:
    """Stream [batch, pos, d_model] → `constant` [d_model] at every position, edited."""

    def write(stream: Tensor) -> Tensor:
        added = constant.to(device=stream.device, dtype=stream.dtype).expand_as(stream)
        for edit in edits:
            added = edit(added)
        return added

    return write


def elsewhere(edit: Edit, first_tokens: FirstTokens) -> Edit:
    """The edit everywhere but at first tokens."""
    return lambda x: torch.where(first_tokens.at(x), x, edit(x))
