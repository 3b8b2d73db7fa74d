"""Edits that everything is measured on top of, and a condition with them: one joint condition, never nested
hooks. src/conditions/given.ts is the same in TypeScript, message for message."""

from __future__ import annotations

from collections.abc import Sequence, Set
from dataclasses import dataclass, replace
from typing import Any, Literal

from sparkablate.anatomy.sites import SiteMap
from sparkablate.catalog import SITES, is_within
from sparkablate.edits.functions import SKIP
from sparkablate.errors import SparkablateError
from sparkablate.specs import (
    EMBEDDING,
    AblationSpec,
    DirectionSpec,
    Spec,
    canonical,
    condition_id,
    direction_conflict,
    layers_of,
    spec_id,
    units,
)
from sparkablate.wording import setting

#: Of the sites that one edit acts at, those that another acts at too.
Shared = Literal["none", "some", "all"]


@dataclass(frozen=True)
class Joined:
    """``specs``: the joint condition, canonical. ``replaced``: what of the given edits it leaves out, since
    the condition acts at all of their sites and at more."""

    specs: tuple[Spec, ...]
    replaced: tuple[Spec, ...] = ()


def joined(given: Sequence[Spec], condition: Sequence[Spec], sites: SiteMap) -> Joined:
    """Raises ``conditions_overlap`` where the condition acts at given sites and does not contain them."""
    own, base = canonical(condition), canonical(given)
    replaced: list[Spec] = []
    for spec in own:
        if _covers(base, spec, sites):
            held = f"{setting('ablation.given')} edits ({condition_id(base)})"
            raise _refused(own, f"{spec_id(spec)} lies in what {held}")
    for below in base:
        for spec in own:
            shared = _shared(below, spec, sites)
            why = "a part of it" if shared == "some" else None
            if shared == "none":
                why = _conflict(below, spec, sites)
            if why is not None:
                where = f"{spec_id(below)} of {setting('ablation.given')}"
                raise _refused(own, f"{spec_id(spec)} overlaps {where}: {why}")
            if shared == "all":
                replaced.append(below)
    kept = [below for below in base if below not in replaced]
    return Joined(tuple(canonical([*kept, *own])), tuple(replaced))


def between(specs: Sequence[Spec], first: int, last: int, sites: SiteMap) -> list[Spec]:
    """What of the specs acts in the layers ``first`` to ``last``; from layer 0 on, at the embedding too."""
    if first == 0 and last == sites.n_layers - 1:
        return list(specs)
    kept: list[Spec] = []
    for spec in specs:
        here = tuple(index for index in layers_of(spec, sites.n_layers) if first <= index <= last)
        if here:
            kept.append(spec if isinstance(spec, AblationSpec) else replace(spec, layers=here))
    return kept


def _shared(below: Spec, spec: Spec, sites: SiteMap) -> Shared:
    """How much of where ``below`` acts ``spec`` edits as well, and so would edit twice."""
    if isinstance(below, AblationSpec) and isinstance(spec, AblationSpec):
        if below.layer != spec.layer:
            return "none"
        if is_within(below.kind, spec.kind) and not spec.parts:
            return "all"
        return _share(_units(below, sites), _units(spec, sites))
    if isinstance(below, DirectionSpec) and isinstance(spec, DirectionSpec):
        if (below.op, below.sha256, below.at) != (spec.op, spec.sha256, spec.at):
            return "none"
        return _share(_places(below, sites), _places(spec, sites))
    skip, direction = (below, spec) if isinstance(spec, DirectionSpec) else (spec, below)
    assert isinstance(skip, AblationSpec)
    assert isinstance(direction, DirectionSpec)
    if not _skips(skip) or skip.layer not in direction.indices(sites.n_layers):
        return "none"
    return "all" if skip is spec and _places(direction, sites) == {skip.layer} else "some"


def _skips(spec: AblationSpec) -> bool:
    """Whether nothing is left of the layer; of its mean, a direction is taken out as it is of its writes."""
    return SITES[spec.kind].edit == "skip" and spec.mode == SKIP


def _share(theirs: Set[Any], mine: Set[Any]) -> Shared:
    return "none" if not mine & theirs else "all" if theirs <= mine else "some"


def _units(spec: AblationSpec, sites: SiteMap) -> set[tuple[str, int]]:
    """Its smallest parts; what is edited whole is one of its own."""
    return set(units(spec, sites.layers[spec.layer])) or {(spec.kind, 0)}


def _places(spec: DirectionSpec, sites: SiteMap) -> set[int]:
    return {*spec.indices(sites.n_layers), *((EMBEDDING,) if spec.edits_embedding else ())}


def _covers(given: Sequence[Spec], spec: Spec, sites: SiteMap) -> bool:
    """Whether all that the spec edits is edited by them: by one as a whole, or by several part by part."""
    if isinstance(spec, DirectionSpec):
        alike = [
            below
            for below in given
            if isinstance(below, DirectionSpec) and _shared(below, spec, sites) != "none"
        ]
        skipped = {below.layer for below in given if isinstance(below, AblationSpec) and _skips(below)}
        held = {place for below in alike for place in _places(below, sites)} | skipped
        return _places(spec, sites) <= held
    here = [below for below in given if isinstance(below, AblationSpec) and below.layer == spec.layer]
    if any(is_within(spec.kind, below.kind) and not below.parts for below in here):
        return True
    held_units = {unit for below in here for unit in _units(below, sites)}
    return _units(spec, sites) <= held_units


def _conflict(below: Spec, spec: Spec, sites: SiteMap) -> str | None:
    """Why two different directions cannot act at one place."""
    if not (isinstance(below, DirectionSpec) and isinstance(spec, DirectionSpec)) or below.at != spec.at:
        return None
    return direction_conflict(below, spec) if _places(below, sites) & _places(spec, sites) else None


def _refused(condition: Sequence[Spec], reason: str) -> SparkablateError:
    return SparkablateError("conditions_overlap", f"{condition_id(condition)} cannot be measured: {reason}")
