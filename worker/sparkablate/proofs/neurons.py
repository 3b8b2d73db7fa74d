"""What reads the neurons ends the MLP; where routed experts write too, the write is linear in the neurons."""

from __future__ import annotations

import torch

from sparkablate.anatomy.sites import Tap
from sparkablate.proofs.passes import (
    Faults,
    Recorded,
    Subject,
    Zeroed,
    bias_fault,
    bias_of,
    forward,
    neuron_taps,
)

#: Roundings of the largest value that a sum of a few terms may be off.
LINEAR = 8


def neuron_faults(subject: Subject, zeroed_neurons: Zeroed) -> Faults:
    zeroed = zeroed_neurons.recorded
    sites, plain = subject.sites, subject.plain.recorded
    layers = [layer for layer in sites.layers if layer.neurons is not None]
    routed = {layer.index for layer in layers if layer.has_experts and not sites.norm_after_write}
    doubled: Recorded = {}
    if routed:
        doubling = [(layer.neurons, lambda x: x * 2) for layer in layers if layer.neurons is not None]
        taps = [tap for layer in layers for tap in neuron_taps(layer)]
        doubled = forward(sites, subject.ids, taps, [*subject.kept_inputs(), *doubling])
    faults: Faults = {}
    for layer in layers:
        reader, *ends = neuron_taps(layer)
        unreached = [tap.path for tap in (reader, *ends) if (tap.path, tap.side) not in zeroed]
        if unreached or not subject.reached(reader):
            faults[layer.index] = f"the pass never reached {', '.join(unreached or [reader.path])}"
            continue
        fault = bias_fault(reader, zeroed[reader.path, reader.side], bias_of(reader.module))
        if fault is None and layer.index in routed:
            fault = _linear_fault(ends[-1], zeroed, plain, doubled)
        elif fault is None:
            output = plain[reader.path, reader.side].flatten()
            if not any(torch.equal(output, plain[end.path, end.side].flatten()) for end in ends):
                fault = f"{reader.path} is not what the MLP gives"
        if fault is not None:
            faults[layer.index] = fault
    return faults


def _linear_fault(tap: Tap, zeroed: Recorded, plain: Recorded, doubled: Recorded) -> str | None:
    none, once, twice = (one[tap.path, tap.side].float() for one in (zeroed, plain, doubled))
    error, size = ((twice - once) - (once - none)).abs().max(), twice.abs().max()
    if torch.equal(none, once):
        return f"{tap.path} does not depend on them"
    eps = torch.finfo(plain[tap.path, tap.side].dtype).eps
    return None if error <= LINEAR * eps * size else f"{tap.path} is not linear in them, by {error:.3g}"
