"""First-order effects: A = d/dt at t = 0 of the loss with every edited tensor at x + t(x′ − x).

x′ is what the joint condition makes of the tensor as it comes in the model under the given edits; each place
counts once, and a given edit that the condition replaces from outside stays inside. One pass up and one down
give A of every condition on every block: at each tap the gradient meets the functions that edit there, and
nothing is run a second time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from sparkablate.anatomy.sites import Tap, offers
from sparkablate.catalog import SITES
from sparkablate.edits.bound import edited_columns
from sparkablate.edits.changes import Change, Place, changes, edit_of, every_part, measurable_parts, place_of
from sparkablate.edits.given import joined
from sparkablate.edits.hooks import Edit
from sparkablate.edits.positions import BlockStarts
from sparkablate.errors import SparkablateError
from sparkablate.manager import AblationManager
from sparkablate.measure.backward import Backward, Room
from sparkablate.measure.donors import Donors
from sparkablate.measure.given import Given
from sparkablate.measure.items import Answers
from sparkablate.measure.likelihood import Likelihood
from sparkablate.measure.loss import Loss, loss_of
from sparkablate.measure.passing import Passed, Watched
from sparkablate.measure.walk import Entries
from sparkablate.specs import AblationSpec, Spec, validate


@dataclass(frozen=True)
class WholeSite:
    """Every part of a kind of site, each a condition of its own, in every layer that offers it."""

    kind: str
    mode: str
    positions: str = "all"


@dataclass(frozen=True)
class SiteSums:
    """A of each part of one layer, summed over the blocks, float64 [parts]; of a site without parts [1].
    NaN: it cannot be measured on top of the given edits. `site`: index among those asked for."""

    site: int
    layer: int
    sums: np.ndarray


@dataclass(frozen=True)
class _Columns:
    """An edit of all of a site's parts, which gives those of each of them: a mode puts something in each
    column's place, whatever becomes of the others."""

    kind: str
    mode: str
    positions: str


@dataclass
class _At:
    """What is wanted at one place."""

    watched: Watched
    #: Condition, and what it makes of the tensor.
    changes: list[tuple[int, Change]] = field(default_factory=list)
    edits: dict[_Columns, Edit] = field(default_factory=dict)
    #: Condition, and the columns of an edit that are its own.
    columns: list[tuple[int, _Columns, Tensor]] = field(default_factory=list)
    #: Whole site and layer, and its columns, part by part.
    wholes: list[tuple[tuple[int, int], _Columns, Tensor]] = field(default_factory=list)


@dataclass
class _Sums:
    """float64, on the CPU. `conditions`: [conditions, blocks]."""

    conditions: Tensor
    wholes: dict[tuple[int, int], Tensor]


class Attribution:
    """First-order effects of conditions on `ids` [batch, pos], under `given` edits."""

    def __init__(
        self,
        manager: AblationManager,
        likelihood: Likelihood,
        entries: Entries,
        given: Given,
        donors: Donors,
        room: Room,
    ) -> None:
        self._manager, self._likelihood, self._entries = manager, likelihood, entries
        self._given, self._donors, self._room = given, donors, room
        self._sites = manager.sites

    def run(
        self,
        ids: Tensor,
        conditions: Sequence[Sequence[Spec]],
        wholes: Sequence[WholeSite] = (),
        metric: str = "nll",
        answers: Answers | None = None,
    ) -> tuple[np.ndarray, list[SiteSums]]:
        """A of each condition on each block, float64 [conditions, blocks]: of the metric's sum over a block's
        predicted tokens, with `answers` of its value for an item, as measurements are; and of whole sites.

        Raises SparkablateError: what is wrong with a condition, by its name; "config_invalid" for a metric
        that has no gradient; what `Backward.run` does.
        """
        loss = loss_of(metric, ids, answers)
        joint = [self._joint(specs) for specs in conditions]
        rest: list[tuple[tuple[int, int], int]] = []  # a whole site's layer → its condition
        listed: list[tuple[int, AblationSpec]] = []
        for number, whole in enumerate(wholes):
            for spec in self._every(whole):
                if spec.parts:
                    listed.append((number, spec))
                    continue
                try:
                    joint.append(joined(self._given.specs, [spec], self._sites).specs)
                    rest.append(((number, spec.layer), len(joint) - 1))
                except SparkablateError:
                    rest.append(((number, spec.layer), -1))
        everything = [*self._given.specs, *(spec for specs in joint for spec in specs)]
        self._donors.provide([*everything, *(spec for _, spec in listed)], ())
        try:
            sums = self._sums(loss, joint, listed)
        finally:
            self._donors.forget()
        for key, at in rest:
            alone = (
                torch.full((1,), torch.nan).double() if at < 0 else sums.conditions[at].sum(0, keepdim=True)
            )
            sums.wholes[key] = alone
        found = [SiteSums(*key, sums.wholes[key].numpy()) for key in sorted(sums.wholes)]
        return sums.conditions[: len(conditions)].numpy(), found

    def _joint(self, specs: Sequence[Spec]) -> tuple[Spec, ...]:
        validate(specs, self._sites)
        return joined(self._given.specs, specs, self._sites).specs

    def _every(self, whole: WholeSite) -> list[AblationSpec]:
        """The whole site's edit in each layer that offers it, of all of its parts."""
        parts = SITES[whole.kind].parts
        first = {} if parts is None else {parts.field: (0,)}
        specs = []
        for layer in self._sites.layers:
            if offers(layer, whole.kind):
                spec = AblationSpec(
                    whole.kind, layer.index, mode=whole.mode, positions=whole.positions, **first
                )
                specs.append(spec if parts is None else every_part(spec, layer))
        if not specs:
            raise SparkablateError("site_unsupported", f"no layer of this model offers {whole.kind}")
        return specs

    def _sums(
        self, loss: Loss, joint: Sequence[Sequence[Spec]], listed: Sequence[tuple[int, AblationSpec]]
    ) -> _Sums:
        batch, length = loss.ids.shape
        measurable = [measurable_parts(self._given.specs, spec, self._sites) for _, spec in listed]
        shown = [one for one, some in zip(listed, measurable, strict=True) if bool(some.any())]
        places = self._places(joint, shown, BlockStarts(batch, length))
        wide = torch.float32 if loss.ids.device.type == "mps" else torch.float64
        sums = _Sums(torch.zeros(0), {})

        def begin() -> Callable[[Passed], None]:
            sums.conditions = torch.zeros(len(joint), batch, dtype=torch.float64)
            sums.wholes = {
                (number, spec.layer): torch.zeros(len(spec.parts)).double() for number, spec in listed
            }
            return lambda passed: _add(places[passed.place], passed, sums, wide)

        backward = Backward(self._likelihood, self._entries, self._given, loss.ids, self._room)
        begin()
        backward.run(loss, [at.watched for at in places.values()], begin)
        for (number, spec), some in zip(listed, measurable, strict=True):
            sums.wholes[number, spec.layer][~some] = torch.nan
        return sums

    def _places(
        self,
        joint: Sequence[Sequence[Spec]],
        listed: Sequence[tuple[int, AblationSpec]],
        starts: BlockStarts,
    ) -> dict[Place, _At]:
        base = changes(self._manager, self._given.specs, starts)
        found: dict[Place, _At] = {}

        def at(place: Place, tap: Tap, layer: int) -> _At:
            return found.setdefault(place, _At(Watched(tap, layer, place in base, stream=False)))

        for number, specs in enumerate(joint):
            for place, change in changes(self._manager, specs, starts).items():
                if place in base and base[place].labels == change.labels:
                    continue
                here = at(place, change.tap, change.layer)
                if change.parts is None:
                    here.changes.append((number, change))
                    continue
                for spec in change.parts:
                    key = _Columns(spec.kind, spec.mode, spec.positions)
                    layer = self._sites.layers[spec.layer]
                    if key not in here.edits:
                        here.edits[key] = edit_of(self._manager, every_part(spec, layer), starts)[1]
                    here.columns.append((number, key, edited_columns(spec, layer)))
        for whole, spec in listed:
            tap, edit = edit_of(self._manager, spec, starts)
            here = at(place_of(tap), tap, spec.layer)
            key = _Columns(spec.kind, spec.mode, spec.positions)
            here.edits[key] = edit
            columns = edited_columns(spec, self._sites.layers[spec.layer])
            here.wholes.append(((whole, spec.layer), key, columns))
        for here in found.values():
            if any(change.skips for _, change in here.changes):
                here.watched = replace(here.watched, stream=True)
        return found


@torch.no_grad()
def _add(at: _At, passed: Passed, sums: _Sums, wide: torch.dtype) -> None:
    batch = sums.conditions.shape[1]
    value, gradient = passed.value.to(wide), passed.gradient.to(wide)

    def products(edited: Tensor) -> Tensor:
        """[batch, pos, width]"""
        return ((edited.to(wide) - value) * gradient).reshape(batch, -1, value.shape[-1])

    for number, change in at.changes:
        edited = change.of(passed.before, passed.stream)
        sums.conditions[number] += products(edited).sum(dim=(1, 2)).double().cpu()
    each = {key: products(edit(passed.before)).sum(dim=1).double().cpu() for key, edit in at.edits.items()}
    for number, key, columns in at.columns:
        sums.conditions[number] += each[key][:, columns].sum(dim=1)
    for name, key, columns in at.wholes:
        here = each[key].sum(dim=0)[columns]
        sums.wholes[name] += here.view(len(sums.wholes[name]), -1).sum(dim=1)
