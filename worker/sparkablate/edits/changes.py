"""What a condition makes of each tensor that it edits, outside a pass: the same functions as in `applied`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from sparkablate.anatomy.sites import LayerSites, SiteMap, Tap
from sparkablate.catalog import SITES, is_within
from sparkablate.edits.blocks import Editor, skipped
from sparkablate.edits.given import joined
from sparkablate.edits.hooks import Edit
from sparkablate.edits.positions import FirstTokens
from sparkablate.edits.prompts import Prompts
from sparkablate.errors import SparkablateError
from sparkablate.specs import (
    EMBEDDING,
    AblationSpec,
    DirectionSpec,
    Spec,
    canonical,
    layers_of,
    spec_id,
    units,
    with_parts,
)

#: One tensor of the pass: a module's id, and "input" or "output".
Place = tuple[int, str]


@dataclass
class Change:
    """What becomes of the tensor at one tap."""

    tap: Tap
    #: Of the layer that it is in; `EMBEDDING`: before layer 0.
    layer: int
    #: Ids of what acts there, in order: equal where the change is.
    labels: list[str] = field(default_factory=list)
    edits: list[Edit] = field(default_factory=list)
    #: Where nothing but these acts: specs that list parts of a site.
    parts: list[AblationSpec] | None = field(default_factory=list)
    #: The layer's output is its input.
    skips: bool = False

    def of(self, value: Tensor, stream: Tensor | None) -> Tensor:
        """What stands in the place of `value`. `stream`: the layer's input, where it skips the layer."""
        if self.skips:
            assert stream is not None
            value = stream
        for edit in self.edits:
            value = edit(value)
        return value


def place_of(tap: Tap) -> Place:
    return id(tap.module), tap.side


def changes(manager: Editor, specs: Sequence[Spec], first_tokens: FirstTokens) -> dict[Place, Change]:
    """Every place that the specs edit jointly, with the means and donors that the manager has now."""
    if not specs:
        return {}
    union = manager._bind(canonical(specs))
    sites = manager.sites
    found: dict[Place, Change] = {}
    constants = manager._constants(union, first_tokens)
    for index, skip in skipped(union).items():
        tap = sites.layers[index].stream
        change = found[place_of(tap)] = Change(tap, index, [spec_id(skip)], parts=None, skips=True)
        if index in constants:
            change.labels += map(spec_id, _writing(specs, index, sites.n_layers))
            change.edits.append(_added(constants[index]))
    listing = {spec_id(one.spec): one.spec for one in union if isinstance(one.spec, AblationSpec)}
    for tap, label, edit in manager._compile(union, first_tokens, Prompts()):
        change = found.setdefault(place_of(tap), Change(tap, _layer(sites, tap)))
        change.labels.append(label)
        change.edits.append(edit)
        spec = listing.get(label)
        if spec is None or not spec.parts:
            change.parts = None
        elif change.parts is not None:
            change.parts.append(spec)
    return found


def every_part(spec: AblationSpec, layer: LayerSites) -> AblationSpec:
    """The same edit of all parts that the layer has of its kind."""
    parts = SITES[spec.kind].parts
    assert parts is not None
    return with_parts(spec, tuple(range(getattr(layer, parts.count))))


def edit_of(manager: Editor, spec: AblationSpec, first_tokens: FirstTokens) -> tuple[Tap, Edit]:
    """The spec's own edit, and where."""
    [(tap, _, edit)] = manager._compile(manager._bind([spec]), first_tokens, Prompts())
    return tap, edit


def measurable_parts(given: Sequence[Spec], every: AblationSpec, sites: SiteMap) -> Tensor:
    """Whether each part alone can be measured on top of `given`, bool [parts]. `every`: of all parts."""
    layer = sites.layers[every.layer]
    here = [spec for spec in given if isinstance(spec, AblationSpec) and spec.layer == every.layer]
    if any(is_within(every.kind, below.kind) and not below.parts for below in here):
        return torch.zeros(len(every.parts), dtype=torch.bool)
    held = {unit for below in here for unit in units(below, layer)}
    all_units = list(units(every, layer))
    size = len(all_units) // len(every.parts)

    def stands(part: int) -> bool:
        own = set(all_units[part * size : (part + 1) * size])
        if not own & held:
            return True
        if own <= held:
            return False
        try:
            joined(given, [with_parts(every, (part,))], sites)
        except SparkablateError:
            return False
        return True

    return torch.tensor([stands(part) for part in every.parts])


def _writing(specs: Sequence[Spec], layer: int, n_layers: int) -> list[Spec]:
    """The directions that the layer's writes lack."""
    return [
        spec
        for spec in canonical(specs)
        if isinstance(spec, DirectionSpec) and spec.at == "writes" and layer in layers_of(spec, n_layers)
    ]


def _added(constant: Edit) -> Edit:
    return lambda stream: stream + constant(stream)


def _layer(sites: SiteMap, tap: Tap) -> int:
    named = {layer.path: layer.index for layer in sites.layers}
    path = tap.path
    while path not in named and "." in path:
        path = path.rpartition(".")[0]
    return named.get(path, EMBEDDING)
