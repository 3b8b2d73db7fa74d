"""Writes: what a layer adds to its input is its writes, and the stream that it leaves is the next one's."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from sparkablate.anatomy.sites import LayerSites
from sparkablate.proofs.passes import Faults, Recorded, Subject, entry_of

#: Roundings of the largest entry that the embedding's sum may be off, scaled or not.
ROUNDINGS = 16


def replay_faults(subject: Subject) -> Faults:
    recorded = subject.plain.recorded
    faults: Faults = {}
    before: LayerSites | None = None
    for layer in subject.sites.layers:
        fault = _replay_fault(layer, recorded)
        if before is not None:
            left, entered = recorded[before.path, "output"], recorded[layer.path, "input"]
            if not torch.equal(left, entered.to(left.device)):
                fault = f"{layer.path} does not get what {before.path} gives: something acts between them"
        if fault is not None:
            faults[layer.index] = fault
        before = layer
    return faults


def _replay_fault(layer: LayerSites, recorded: Recorded) -> str | None:
    output = recorded[layer.path, "output"]
    entry = recorded[layer.path, "input"].to(output.device)  # from another GPU where a device map says so
    unreached = [name for name, tap in layer.writes.items() if (tap.path, tap.side) not in recorded]
    if unreached:
        return f"the pass never reached its write {', '.join(unreached)}"
    try:
        writes = {
            name: recorded[tap.path, tap.side].reshape(entry.shape) for name, tap in layer.writes.items()
        }
        replayed = layer.additions(layer.module, entry.clone(), writes)
        ignored = [name for name in writes if _same_without(layer, entry, writes, name, replayed)]
    except (KeyError, RuntimeError, AttributeError) as error:
        return f"its additions cannot be replayed from {sorted(layer.writes)}: {error}"
    if ignored:
        return f"its additions leave out {', '.join(layer.writes[name].path for name in ignored)}"
    if replayed.shape == output.shape and torch.equal(replayed, output):
        return None
    off = (replayed.float() - output.float()).abs().max().item()
    return f"its input plus {' and '.join(layer.writes)} is off its output by up to {off:.3g}"


def _same_without(
    layer: LayerSites, entry: Tensor, writes: Mapping[str, Tensor], name: str, replayed: Tensor
) -> bool:
    """Whether a write that is not 0 is not added: a direction would act on it once too often."""
    if not bool(writes[name].any()):
        return False
    without = {**writes, name: torch.zeros_like(writes[name])}
    return torch.equal(layer.additions(layer.module, entry.clone(), without), replayed)


def embedding_fault(subject: Subject) -> str | None:
    """What is wrong with the writers of the stream before layer 0, whose sum may be scaled on its way, each
    token's to a size of its own."""
    sites, recorded = subject.sites, subject.plain.recorded
    entry = entry_of(sites.layers[0])
    stream = recorded[entry.path, entry.side].float()
    unreached = [tap.path for tap in sites.embedding if (tap.path, tap.side) not in recorded]
    if unreached:
        return f"the pass never reached {', '.join(unreached)}"
    names = " + ".join(tap.path for tap in sites.embedding)
    writes = [recorded[tap.path, tap.side].float() for tap in sites.embedding]
    try:
        total = torch.stack([write.expand(stream.shape) for write in writes]).sum(dim=0)
    except RuntimeError as error:
        return f"{names} is not the stream that enters layer 0: {error}"
    size = (total * total).sum(dim=-1, keepdim=True).clamp(min=torch.finfo(torch.float32).tiny)
    off = (stream - (stream * total).sum(dim=-1, keepdim=True) / size * total).abs().max()
    eps = torch.finfo(recorded[entry.path, entry.side].dtype).eps
    if off <= ROUNDINGS * eps * stream.abs().max():
        return None
    return f"the stream that enters layer 0 is not {names}, scaled or not: it is off by up to {off:.3g}"
