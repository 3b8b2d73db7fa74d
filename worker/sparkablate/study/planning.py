"""What is asked for → the conditions of a run in canonical order, as src/plan/conditions.ts has them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sparkablate.anatomy.sites import SiteMap, offers
from sparkablate.arguments import described
from sparkablate.catalog import MODES, PART_FIELDS, POSITIONS, SITES, is_own
from sparkablate.condition_ids import with_ids_read
from sparkablate.edits.given import joined
from sparkablate.errors import SparkablateError
from sparkablate.specs import (
    AblationSpec,
    DirectionSpec,
    Spec,
    as_specs,
    canonical,
    condition_id,
    from_wire,
    validate,
)

_DEFAULTS: dict[str, Any] = json.loads((Path(__file__).parent / "defaults.json").read_bytes())

#: What a config is where nothing is said: src/config/schema.ts.
DEFAULT_CONFIG: Mapping[str, Any] = _DEFAULTS["config"]
#: Name of a sweep → its site.
SWEEPS: Mapping[str, str] = _DEFAULTS["sweeps"]
#: Format and tables of results.sqlite: src/store/schema.sql.ts.
STORE: Mapping[str, Any] = _DEFAULTS["store"]
#: What only the controller does.
OF_CONTROLLER = ("pairs",)
#: How many null conditions measure the numeric floor below float32.
NULL_CONDITIONS = 8
#: Conditions that a notice names.
NAMED = 8


@dataclass(frozen=True)
class Condition:
    """``nudge``: layer and seed of a null condition."""

    id: str
    specs: tuple[Spec, ...] = ()
    nudge: tuple[int, int] | None = None

    @property
    def interventions(self) -> list[dict[str, Any]]:
        return [to_wire(spec) for spec in self.specs]

    def to_wire(self) -> dict[str, Any]:
        wire: dict[str, Any] = {"id": self.id, "interventions": self.interventions}
        if self.nudge is not None:
            wire["nudge"] = {"layer": self.nudge[0], "seed": self.nudge[1]}
        return wire

    @property
    def columns(self) -> tuple[str, int | None, str | None, str | None]:
        """kind, layer, heads, mode: null where there is not exactly one edit."""
        if len(self.specs) != 1:
            return ("joint" if self.specs else "baseline"), None, None, None
        (only,) = self.specs
        if isinstance(only, AblationSpec):
            listed = " ".join(map(str, only.parts)) if only.parts else None
            return only.kind, only.layer, listed, only.mode
        single = only.layers[0] if only.layers != "all" and len(only.layers) == 1 else None
        return "direction", single, None, only.op


def condition_of(name: str, interventions: Iterable[Mapping[str, Any]]) -> Condition:
    """As it is stored."""
    return Condition(name, tuple(map(from_wire, interventions)))


@dataclass(frozen=True)
class Plan:
    """``sweep``: of the config, "custom" where conditions are listed; ``modes``: as it lists them."""

    conditions: tuple[Condition, ...]
    sweep: str
    ablation: dict[str, Any]
    notices: tuple[str, ...] = ()
    #: What all of them are measured on top of, canonical.
    given: tuple[Spec, ...] = ()

    @property
    def edits(self) -> list[Spec]:
        return [*(spec for condition in self.conditions for spec in condition.specs), *self.given]

    @property
    def modes_used(self) -> set[str]:
        return {spec.mode for spec in self.edits if isinstance(spec, AblationSpec)}


def plan(
    wanted: Any, sites: SiteMap, *, mode: Any, layers: Any, positions: str, nulls: bool, given: Any = ()
) -> Plan:
    """``nulls``: whether the numeric floor is measured. Raises ``usage``, ``config_invalid``,
    ``site_unsupported``, ``conditions_overlap``."""
    modes = [mode] if isinstance(mode, str) else list(mode)
    for one in modes:
        if one not in MODES:
            raise SparkablateError("usage", f"mode={one!r}: allowed: {', '.join(MODES)}")
    if positions not in POSITIONS:
        raise SparkablateError("usage", f"positions={positions!r}: allowed: {', '.join(POSITIONS)}")
    notices: list[str] = []
    entries = _given(given, sites)
    ground = tuple(canonical(spec for entry in entries for spec in entry))
    if ground:
        notices.append(f"given {condition_id(ground)}: it acts in every condition, and in the baseline")
    ablation = {"mode": modes[0] if isinstance(mode, str) else modes, "positions": positions}
    if isinstance(wanted, str) and (wanted in SWEEPS or (is_own(wanted) and wanted in SITES)):
        listed = _layers(layers, sites)
        wishes = _swept(wanted, sites, listed, modes, positions, notices)
        wishes = _beside(ground, wanted, wishes, sites, notices)
        if not wishes:
            raise SparkablateError("site_unsupported", f"{wanted!r} finds nothing to edit in this model")
        sweep, targets = wanted, []
        ablation["layers"] = "all" if isinstance(layers, str) else list(listed)
    else:
        wishes = _listed(wanted, sites)
        for wish in wishes:
            joined(ground, wish, sites)
        sweep, targets, ablation["layers"] = "custom", [list(map(_as_target, wish)) for wish in wishes], "all"
    ablation |= {"sweep": sweep, "targets": targets}
    if entries:
        ablation["given"] = [list(map(_as_target, entry)) for entry in entries]
    conditions = {"baseline": Condition("baseline")}
    for wish in wishes:
        specs = tuple(canonical(wish))
        name = condition_id(specs)
        if name in conditions:
            notices.append(f"{name} is asked for again; it is measured once")
        conditions.setdefault(name, Condition(name, specs))
    rounding = [
        Condition(f"null[{seed}]", nudge=(0 if seed % 2 == 0 else sites.n_layers // 2, seed))
        for seed in range(NULL_CONDITIONS if nulls else 0)
    ]
    return Plan((*conditions.values(), *rounding), sweep, ablation, tuple(notices), ground)


def _several(written: Any, wanted: str) -> Iterable[Any]:
    """One edit, or those of a list. Raises "usage" with what is wanted."""
    if isinstance(written, str | AblationSpec | DirectionSpec):
        return [written]
    if not isinstance(written, Iterable) or isinstance(written, Mapping):
        raise SparkablateError("usage", f"{wanted}, not {described(written)}")
    return written


def _given(given: Any, sites: SiteMap) -> list[list[Spec]]:
    """Entries of `given`: all of them act together."""
    if given is None:
        return []
    wanted = "given: edits that all is measured on top of are wanted, like 'L3.head[2].zero'"
    entries = [as_specs(with_ids_read(entry, sites.n_layers, ())) for entry in _several(given, wanted)]
    validate([spec for entry in entries for spec in entry], sites)
    return [entry for entry in entries if entry]


def _beside(
    given: Sequence[Spec], sweep: str, wishes: list[list[Spec]], sites: SiteMap, notices: list[str]
) -> list[list[Spec]]:
    """Those that can stand on what is given; what is left out is said."""
    kept, out = [], []
    for wish in wishes:
        try:
            joined(given, wish, sites)
            kept.append(wish)
        except SparkablateError as error:
            if error.code != "conditions_overlap":
                raise
            out.append(condition_id(wish))
    if out:
        more = f", and {len(out) - NAMED} more" if len(out) > NAMED else ""
        notices.append(
            f"sweep: {sweep} leaves out {', '.join(out[:NAMED])}{more}: given edits these already, in whole "
            "or in part"
        )
    return kept


def _layers(layers: Any, sites: SiteMap) -> Sequence[int]:
    if isinstance(layers, str):
        if layers != "all":
            raise SparkablateError("usage", f"layers={layers!r}: give 'all', or a list of layer numbers")
        return range(sites.n_layers)
    if not isinstance(layers, Iterable):
        layers = [layers]
    found = []
    for layer in layers:
        whole = isinstance(layer, int) and not isinstance(layer, bool)
        if not whole or not -sites.n_layers <= layer < sites.n_layers:
            raise SparkablateError(
                "config_invalid",
                f"layers: the model has layers 0 to {sites.n_layers - 1}, and no {described(layer)}",
            )
        found.append(layer % sites.n_layers)
    return sorted(set(found))


def _swept(
    sweep: str,
    sites: SiteMap,
    layers: Sequence[int],
    modes: Sequence[str],
    positions: str,
    notices: list[str],
) -> list[list[Spec]]:
    kind = SWEEPS.get(sweep, sweep)
    site = SITES[kind]
    wishes: list[list[Spec]] = []
    lacking = []
    for index in layers:
        layer = sites.layers[index]
        if not offers(layer, kind):
            lacking.append(index)
        elif site.edit == "skip":
            wishes.append([AblationSpec(kind, index, mode="mean" if modes == ["mean"] else "skip")])
        else:
            parts: list[dict[str, Any]] = [{}]
            if site.parts is not None:
                parts = [{site.parts.field: (part,)} for part in range(getattr(layer, site.parts.count))]
            wishes += [
                [AblationSpec(kind=kind, layer=index, mode=mode, positions=positions, **part)]
                for mode in modes
                for part in parts
            ]
    if lacking:
        where = ", ".join(map(str, lacking))
        notices.append(
            f"sweep: {sweep} has nothing to edit in layer {where}: the model has no such site there"
        )
    return wishes


def _listed(wanted: Any, sites: SiteMap) -> list[list[Spec]]:
    if isinstance(wanted, str) and wanted in OF_CONTROLLER:
        raise SparkablateError(
            "usage", f"{wanted!r} is a sweep of the command line: write it as ablation.sweep in a config"
        )
    said = f"conditions: give one of {', '.join(map(repr, SWEEPS))}, or a list of conditions"
    wishes = []
    for entry in _several(wanted, said):
        if isinstance(entry, str) and "[" not in entry and "." not in entry:
            raise SparkablateError(
                "usage",
                f"conditions: {entry!r} is neither a sweep ({', '.join(SWEEPS)}) nor a condition's id, like "
                "'L14.head[3,7].zero'",
            )
        specs = as_specs(with_ids_read(entry, sites.n_layers, ()))
        if not specs:
            continue  # the baseline is measured anyway
        validate(specs, sites)
        wishes.append(specs)
    if not wishes:
        raise SparkablateError("usage", "conditions: the list is empty, so nothing would be measured")
    return wishes


def to_wire(spec: Spec) -> dict[str, Any]:
    """The ``intervention`` of src/protocol/messages.ts."""
    if isinstance(spec, AblationSpec):
        parts = {name: list(getattr(spec, name)) for name in PART_FIELDS if getattr(spec, name)}
        where = {} if SITES[spec.kind].edit == "skip" else {"positions": spec.positions}
        return {"kind": spec.kind, **parts, "layer": spec.layer, "mode": spec.mode, **where}
    return {**_direction(spec), "sha256": spec.sha256}


def _direction(spec: DirectionSpec) -> dict[str, Any]:
    layers = "all" if spec.layers == "all" else list(spec.layers)
    return {
        "kind": "direction",
        "op": spec.op,
        "at": spec.at,
        "layers": layers,
        "coefficient": plain(spec.coefficient),
        "positions": spec.positions,
    }


def _as_target(spec: Spec) -> dict[str, Any]:
    """A target of a config, complete, without the path of a direction's file."""
    return to_wire(spec) if isinstance(spec, AblationSpec) else _direction(spec)


def plain(value: float) -> float | int:
    """As JavaScript's JSON has it: 1, not 1.0."""
    return int(value) if value == int(value) else value
