"""What to edit: frozen specifications, their ids, and which may stand together in one condition."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from decimal import Decimal
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor

from sparkablate.anatomy.sites import LayerSites, SiteMap, offers
from sparkablate.arguments import as_choice, as_index, as_indices, as_number, described, numbers, or_default
from sparkablate.catalog import (
    LAYER_MODES,
    LIMITS,
    OPERATIONS,
    PART_FIELDS,
    POSITIONS,
    SITES,
    complete,
    is_within,
)
from sparkablate.edits.functions import DEFAULT_MODE, MODES, SKIP, UNIT_TOLERANCE
from sparkablate.errors import SparkablateError

#: Fields of an `AblationSpec` of any kind.
COMMON_FIELDS = {"kind", "layer", "mode", "positions"}
#: What `first_layer` returns for an edit before layer 0.
EMBEDDING = -1


@dataclass(frozen=True)
class AblationSpec:
    """Zero one site of one layer, skip it, or replace it by its mean or by its activation elsewhere.

    Args:
        kind: "head", "kv_group", "attn", "neuron", "mlp" or "layer".
        layer: index from 0.
        heads, groups, neurons: which query heads ("head"), key/value heads ("kv_group"), or inputs of the
            MLP's output projection ("neuron"; of the shared expert in a mixture of experts).
        mode: "zero" (default), "mean", "resample" or "patch" (the site's activation on other tokens:
            `AblationManager.record_sources`); "layer" knows "skip", with "zero" as another word for it, and
            "mean": its output is its input and the mean of the sum of its writes, as they are added.
        positions: "all", or "not_first" to leave each sequence's first token alone.

    Raises SparkablateError("config_invalid") for what no model could offer.
    """

    kind: str
    layer: int
    heads: tuple[int, ...] = ()
    groups: tuple[int, ...] = ()
    mode: str = ""
    positions: str = "all"
    neurons: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        as_choice("kind", self.kind, [name for name, site in SITES.items() if site.edit != "direction"])
        modes = (*LAYER_MODES, DEFAULT_MODE) if self.kind == "layer" else tuple(MODES)
        mode = or_default(self.mode, DEFAULT_MODE)
        as_choice(f"mode of kind {self.kind!r}:", mode, modes)
        object.__setattr__(self, "mode", SKIP if self.kind == "layer" and mode == DEFAULT_MODE else mode)
        as_choice("positions", self.positions, POSITIONS)
        if self.kind == "layer" and self.positions != "all":
            raise _invalid("a skipped layer has no positions: a layer is skipped at all of them")
        object.__setattr__(self, "layer", as_index("layer", self.layer))
        parts = SITES[self.kind].parts
        for name in PART_FIELDS:
            given = getattr(self, name)
            listed = () if given is None else as_indices(name, given)
            wanted = parts is not None and parts.field == name
            if listed and not wanted:
                raise _invalid(f"kind {self.kind!r} takes no {name}")
            if wanted and not listed:
                raise _invalid(f"kind {self.kind!r} needs {name}, e.g. {name}=(0,)")
            object.__setattr__(self, name, listed)

    def __str__(self) -> str:
        """Its canonical id."""
        return spec_id(self)

    @property
    def parts(self) -> tuple[int, ...]:
        """What it lists of its site's parts, e.g. heads; empty where the site is edited whole."""
        parts = SITES[self.kind].parts
        return () if parts is None else getattr(self, parts.field)

    @classmethod
    def from_wire(cls, wire: Mapping[str, Any]) -> AblationSpec:
        """From an `intervention` of src/protocol/messages.ts (any kind but direction)."""
        fields: dict[str, Any] = dict(wire)
        return cls(**fields)


complete("AblationSpec", {one.name for one in fields(AblationSpec)} - COMMON_FIELDS, PART_FIELDS)


@dataclass(frozen=True)
class DirectionSpec:
    """Remove a direction from what the layers write, or change it in the residual stream.

    Args:
        op: "project_out" (x ← x − c·(x·v̂)v̂) or "add" (x ← x + c·s·v̂, at the stream only).
        vector: float32 [d_model] of unit length; or leave it out and name a vector that the manager was
            given (`AblationManager.set_direction`) by its `sha256`.
        at: "writes" (every write of the layers; "all" adds the embedding) or "stream" (where it leaves
            each of the layers). Default: "writes" for project_out, "stream" for add.
        layers: "all" or indices from 0.
        coefficient: c.
        positions: "all", or "not_first" to leave each sequence's first token alone.
        norm: s, the norm recorded with the direction.
        sha256: of the vector's bytes (little-endian float32); computed where `vector` is given.

    Raises SparkablateError("config_invalid"), for a vector that is not of unit length among others.
    """

    op: str
    vector: Tensor | None = field(default=None, compare=False, repr=False)
    layers: Literal["all"] | tuple[int, ...] = "all"
    at: str = ""
    coefficient: float = 1.0
    positions: str = "all"
    norm: float = 1.0
    sha256: str = ""

    def __post_init__(self) -> None:
        as_choice("op", self.op, OPERATIONS)
        at = or_default(self.at, OPERATIONS[self.op][0])
        if not isinstance(at, str) or at not in OPERATIONS[self.op]:
            places = " and ".join(OPERATIONS[self.op])
            raise _invalid(f"{self.op} exists at {places}, not at {described(at)}")
        object.__setattr__(self, "at", at)
        as_choice("positions", self.positions, POSITIONS)
        for name in ("coefficient", "norm"):
            object.__setattr__(self, name, as_number(f"{name} of a direction", getattr(self, name)))
        if not (isinstance(self.layers, str) and self.layers == "all"):
            layers = as_indices("layers", self.layers)
            if not layers:
                raise _invalid("layers of a direction must be 'all', or one or more different indices")
            object.__setattr__(self, "layers", layers)
        if not isinstance(self.sha256, str):
            raise _invalid(f"sha256 is a text of hexadecimal digits, not {described(self.sha256)}")
        if self.vector is not None:
            vector = check_direction(self.vector)
            object.__setattr__(self, "vector", vector)
            if not self.sha256:
                object.__setattr__(self, "sha256", hashlib.sha256(vector.numpy().tobytes()).hexdigest())
        elif not self.sha256:
            raise _invalid("a direction needs a vector, or the sha256 of one that the manager was given")

    def __str__(self) -> str:
        """Its canonical id."""
        return spec_id(self)

    def indices(self, n_layers: int) -> tuple[int, ...]:
        """The layers it acts in, from 0, in a model of `n_layers`."""
        return tuple(range(n_layers)) if self.layers == "all" else self.layers

    @property
    def edits_embedding(self) -> bool:
        """Whether it also acts on what the embedding writes."""
        return self.at == "writes" and self.layers == "all"

    @classmethod
    def from_wire(cls, wire: Mapping[str, Any]) -> DirectionSpec:
        """From an `intervention` of kind "direction" of src/protocol/messages.ts."""
        fields = {key: value for key, value in wire.items() if key != "kind"}
        if isinstance(fields["layers"], list):
            fields["layers"] = tuple(fields["layers"])
        return cls(**fields)


Spec: TypeAlias = AblationSpec | DirectionSpec


def as_specs(specs: Spec | Iterable[Spec]) -> list[Spec]:
    """One spec or several as a list. Raises SparkablateError("config_invalid") for what is none."""
    if isinstance(specs, AblationSpec | DirectionSpec):
        return [specs]
    found: list[Any] = [specs]
    if isinstance(specs, Iterable) and not isinstance(specs, str | Mapping):
        found = list(specs)
    for spec in found:
        if not isinstance(spec, AblationSpec | DirectionSpec):
            raise _invalid(f"an AblationSpec or a DirectionSpec is wanted, not {spec!r:.200}")
    return found


def from_wire(wire: Mapping[str, Any]) -> Spec:
    """From an `intervention` of src/protocol/messages.ts."""
    return DirectionSpec.from_wire(wire) if wire["kind"] == "direction" else AblationSpec.from_wire(wire)


def check_direction(vector: Any) -> Tensor:
    """The vector as contiguous float32 on the CPU; refused where it is no unit vector."""
    found = numbers(vector)
    vector = vector if found is None else found
    if (
        found is None
        or found.dtype == torch.bool
        or vector.layout != torch.strided
        or vector.is_complex()
        or vector.is_meta
    ):
        raise _invalid(
            f"a direction's vector is a tensor, an array or a list of real numbers, not {described(vector)}"
        )
    vector = vector.detach().to(device="cpu", dtype=torch.float32).contiguous()
    norm = vector.double().norm().item()
    if vector.dim() != 1 or not abs(norm - 1) <= UNIT_TOLERANCE:
        raise _invalid(
            f"a direction is one vector of length 1, not shape {list(vector.shape)} of norm {norm:.4g}; "
            "divide it by its norm and give that as `norm`"
        )
    return vector


def first_layer(specs: Iterable[Spec]) -> int:
    """Lowest layer whose output the condition changes; −1 where it edits the embedding.

    A condition without specs (the baseline) changes nothing: ValueError.
    """
    return min(
        EMBEDDING
        if isinstance(spec, DirectionSpec) and spec.edits_embedding
        else (spec.layer if isinstance(spec, AblationSpec) else spec.indices(1)[0])
        for spec in specs
    )


def layers_of(spec: Spec, n_layers: int) -> tuple[int, ...]:
    """The layers that it edits, in a model of `n_layers`."""
    return spec.indices(n_layers) if isinstance(spec, DirectionSpec) else (spec.layer,)


def spec_id(spec: Spec) -> str:
    """`L14.head[3,7].zero`, `L5.mlp.mean@not_first`, `dir[1a2b3c4d].project_out(at=stream)`: the ids of
    src/conditions/ids.ts."""
    if isinstance(spec, AblationSpec):
        parts = f"[{','.join(map(str, spec.parts))}]" if spec.parts else ""
        text = f"L{spec.layer}.{spec.kind}{parts}.{spec.mode}"
    else:
        details = []
        if spec.at != OPERATIONS[spec.op][0]:
            details.append(f"at={spec.at}")
        if spec.layers != "all":
            details.append(f"layers=[{','.join(map(str, spec.layers))}]")
        if spec.coefficient != 1:
            details.append(f"coefficient={_number(spec.coefficient)}")
        shown = f"({','.join(details)})" if details else ""
        text = f"dir[{spec.sha256[:8]}].{spec.op}{shown}"
    return text if spec.positions == "all" else f"{text}@{spec.positions}"


def _number(value: float) -> str:
    """As JavaScript prints it, so that both languages give one id: 2, 0.00001, 1e-7, 1e+21."""
    if value == 0:
        return "0"  # −0 too
    sign, digits, exponent = Decimal(repr(float(value))).normalize().as_tuple()
    shown = "".join(map(str, digits))
    assert isinstance(exponent, int)
    point = len(shown) + exponent
    if point > 21 or point <= -6:
        fraction = f".{shown[1:]}" if len(shown) > 1 else ""
        text = f"{shown[0]}{fraction}e{point - 1:+d}"
    elif point <= 0:
        text = f"0.{'0' * -point}{shown}"
    elif point >= len(shown):
        text = shown + "0" * (point - len(shown))
    else:
        text = f"{shown[:point]}.{shown[point:]}"
    return f"-{text}" if sign else text


def canonical(specs: Iterable[Spec]) -> list[Spec]:
    """Equal edits in equal order: heads of one layer, mode and positions become one spec; layers rise;
    directions stand last."""
    merged: dict[tuple[Any, ...], Spec] = {}
    for number, spec in enumerate(specs):
        key: tuple[Any, ...] = (number,)
        if isinstance(spec, AblationSpec) and spec.parts:
            key = (spec.kind, spec.layer, spec.mode, spec.positions)
            before = merged.get(key)
            if isinstance(before, AblationSpec):
                spec = with_parts(spec, before.parts + spec.parts)
        merged[key] = spec
    return sorted(merged.values(), key=canonical_order)


def with_parts(spec: AblationSpec, listed: tuple[int, ...]) -> AblationSpec:
    """The same edit of other parts."""
    parts = SITES[spec.kind].parts
    assert parts is not None
    changes: dict[str, Any] = {parts.field: listed}
    return replace(spec, **changes)


def canonical_order(spec: Spec) -> tuple[Any, ...]:
    if isinstance(spec, AblationSpec):
        return (0, spec.layer, list(SITES).index(spec.kind), spec_id(spec))
    return (1, spec_id(spec))


def condition_id(specs: Iterable[Spec]) -> str:
    """Id of a joint condition; "baseline" where nothing is edited. Specs that overlap have no id."""
    ordered = canonical(specs)
    text = " + ".join(map(spec_id, ordered)) or "baseline"
    if len(text) <= LIMITS["id_length"]:
        return text
    digest = hashlib.sha256(text.encode()).hexdigest()[:16]
    return f"joint[{len(ordered)} interventions, {digest}]"


def validate(specs: Sequence[Spec], sites: SiteMap) -> None:
    """Refuses what the model does not offer ("site_unsupported") and what does not go together
    ("conditions_overlap"); says so for every intervention concerned, never skips one."""
    for spec in specs:
        _check_offered(spec, sites)
    check_overlaps(specs, sites)


def check_overlaps(specs: Sequence[Spec], sites: SiteMap) -> None:
    """Refuses what does not go together ("conditions_overlap")."""
    _check_overlaps([spec for spec in specs if isinstance(spec, AblationSpec)], sites)
    _check_directions(specs, sites)


def _check_offered(spec: Spec, sites: SiteMap) -> None:
    kind = spec.kind if isinstance(spec, AblationSpec) else "direction"
    for index in layers_of(spec, sites.n_layers):
        if index >= sites.n_layers:
            raise SparkablateError(
                "config_invalid",
                f"{spec_id(spec)}: the model has layers 0 to {sites.n_layers - 1}",
            )
        layer = sites.layers[index]
        if not offers(layer, kind):
            reason = f"; {layer.missing[kind]}" if kind in layer.missing else ""
            raise SparkablateError(
                "site_unsupported",
                f"{spec_id(spec)}: layer {index} offers {', '.join(layer.sites)}{reason}",
            )
    if isinstance(spec, AblationSpec) and spec.kind == "layer" and spec.mode != SKIP:
        why = sites.layers[spec.layer].no_constant
        if why:
            raise SparkablateError("site_unsupported", f"{spec_id(spec)}: {why}")
    if isinstance(spec, AblationSpec) and spec.parts:
        parts = SITES[spec.kind].parts
        assert parts is not None
        count = getattr(sites.layers[spec.layer], parts.count)
        if spec.parts[-1] >= count:
            raise SparkablateError(
                "config_invalid", f"{spec_id(spec)}: layer {spec.layer} has {parts.field} 0 to {count - 1}"
            )


def _check_overlaps(specs: Sequence[AblationSpec], sites: SiteMap) -> None:
    """One rule: one contains the other, or both are the same kind and share a part."""
    by_layer: dict[int, list[AblationSpec]] = defaultdict(list)
    for spec in specs:
        by_layer[spec.layer].append(spec)
    for index, here in by_layer.items():
        layer = sites.layers[index]
        counted = Counter(unit for spec in here for unit in units(spec, layer))
        twice = sorted(unit for unit, times in counted.items() if times > 1)
        if twice:
            listed = ", ".join(str(part) for _, part in twice)
            raise _overlap(here, f"{twice[0][0]} {listed} of layer {index} is edited twice")
        whole = Counter(spec.kind for spec in here if not spec.parts)
        for kind, times in whole.items():
            if times > 1:
                raise _overlap(here, f"{kind} of layer {index} is edited twice")
            if SITES[kind].edit == "skip" and len(here) > 1:
                raise _overlap(here, f"layer {index} is skipped and edited")
            inside = [spec.kind for spec in here if is_within(spec.kind, kind)]
            if inside:
                raise _overlap(here, f"layer {index}'s {kind} is edited both by {inside[0]} and as a whole")


def units(spec: AblationSpec, layer: LayerSites) -> Iterable[tuple[str, int]]:
    """The smallest parts that the spec edits: of a key/value group its heads."""
    parts = SITES[spec.kind].parts
    if parts is None:
        return
    if parts.holds is None:
        yield from ((parts.one, part) for part in spec.parts)
        return
    finer = next(site.parts for site in SITES.values() if site.parts and site.parts.count == parts.holds)
    size = getattr(layer, parts.holds) // getattr(layer, parts.count)
    for part in spec.parts:
        yield from ((finer.one, unit) for unit in range(part * size, (part + 1) * size))


def _check_directions(specs: Sequence[Spec], sites: SiteMap) -> None:
    skipped = {
        spec.layer
        for spec in specs
        if isinstance(spec, AblationSpec) and spec.kind == "layer" and spec.mode == SKIP
    }
    places: dict[tuple[str, int], list[DirectionSpec]] = defaultdict(list)
    for spec in specs:
        if not isinstance(spec, DirectionSpec):
            continue
        for index in spec.indices(sites.n_layers):
            if index in skipped:
                raise _overlap(specs, f"layer {index} is skipped, and {spec_id(spec)} edits it")
            places[spec.at, index].append(spec)
    for (_, index), here in places.items():
        for number, first in enumerate(here):
            for second in here[number + 1 :]:
                why = direction_conflict(first, second)
                if why:
                    raise _overlap([first, second], f"at layer {index}, {why}")


def direction_conflict(first: DirectionSpec, second: DirectionSpec) -> str | None:
    """A condition has no order: two directions at one place must give the same in either."""
    if (first.op, first.sha256) == (second.op, second.sha256):
        return "the same direction acts twice"
    if first.op != second.op:
        return "the order of add and project_out would matter"
    if first.op == "project_out" and (first.coefficient != 1 or second.coefficient != 1):
        return "several project_out need the coefficient 1"
    if first.op == "project_out" and first.positions != second.positions:
        return "several project_out need the same positions"
    return None


def _overlap(specs: Sequence[Spec], reason: str) -> SparkablateError:
    return SparkablateError("conditions_overlap", f"{' + '.join(map(spec_id, specs))}: {reason}")


def _invalid(message: str) -> SparkablateError:
    return SparkablateError("config_invalid", message)
