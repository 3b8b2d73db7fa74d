"""Every write writes, and zeroing a site changes what its layer gives. What shows nothing is unproved.

By algebra an edit may rightly do nothing: a projection whose weights are zero (a model of attention alone, a
baked one) writes nothing. Such a projection gives the same for any input.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from sparkablate.anatomy.modules import input_width
from sparkablate.anatomy.sites import LayerSites
from sparkablate.proofs.once import Concerned
from sparkablate.proofs.passes import Subject, Zeroed, tap_of

#: Kinds of site that are zeroed to see what they do. Key/value groups are heads; layers add their writes.
ZEROED = ("head", "attn", "neuron", "mlp")
#: Write → the sites that make it.
MAKERS = {"attn": ("head", "kv_group", "attn"), "mlp": ("neuron", "mlp")}


def effect_faults(subject: Subject, zeroed: Mapping[str, Zeroed]) -> Concerned:
    faults: Concerned = {}
    for layer in subject.sites.layers:
        concerned: set[str] = set()
        said: list[str] = []
        for write, why in _silent_writes(subject, layer).items():
            if why is not None:
                concerned |= {*MAKERS.get(write, ()), "layer", "direction"}
                said.append(why)
        for kind in ZEROED:
            if layer.index in zeroed[kind].layers and (why := _no_effect(subject, layer, kind, zeroed[kind])):
                concerned |= {kind, "kv_group"} if kind == "head" else {kind}
                said.append(why)
        if said:
            faults[layer.index] = concerned, " and ".join(said)
    return faults


def but_for(subject: Subject) -> str:
    """The writes that are nothing because their weights are zero, in words."""
    where: dict[str, list[str]] = {}
    for layer in subject.sites.layers:
        for write, why in _silent_writes(subject, layer).items():
            if why is None:
                where.setdefault(write, []).append(str(layer.index))
    words = [f"{write} of layers {', '.join(layers)}" for write, layers in where.items()]
    return f", but for {' and '.join(words)}, whose weights are 0" if words else ""


def _silent_writes(subject: Subject, layer: LayerSites) -> dict[str, str | None]:
    """Writes that are 0 at every token → why that proves nothing; None where the weights say so."""
    recorded = subject.plain.recorded
    found: dict[str, str | None] = {}
    for write, tap in layer.writes.items():
        there = recorded.get((tap.path, tap.side))
        if there is None or bool(there.any()):
            continue
        found[write] = (
            None if _ignores_input(_projection(layer, write)) else f"{tap.path} is 0 at every token"
        )
    return found


def _no_effect(subject: Subject, layer: LayerSites, kind: str, zeroed: Zeroed) -> str | None:
    tap, place = tap_of(kind, layer), (layer.path, "output")
    assert tap is not None
    if not torch.equal(zeroed.recorded[place], subject.plain.recorded[place]):
        return None
    write = "attn" if kind in MAKERS["attn"] else "mlp"
    if _ignores_input(_projection(layer, write)):
        return None
    return f"zeroing its {kind} at {tap.path} ({tap.side}) changes nothing that {layer.path} gives"


def _projection(layer: LayerSites, write: str) -> Any:
    """The one projection that makes a write, or None."""
    if write == "attn":
        return layer.attention_output
    if write == "mlp" and layer.neurons is not None and not layer.has_experts:
        return layer.neurons.module
    return None


def _ignores_input(projection: Any) -> bool:
    """Whether all its weights are zero: asked of the module itself, which may be packed or lie on disk."""
    if projection is None:
        return False
    some = next(projection.parameters())
    device = some.device if some.device.type != "meta" else torch.device("cpu")
    dtype = some.dtype if some.dtype.is_floating_point else torch.float32
    generator = torch.Generator().manual_seed(0)
    given = torch.randn(1, 2, input_width(projection), generator=generator).to(device, dtype)
    return torch.equal(projection(given), projection(torch.zeros_like(given)))
