"""With all heads zero nothing but the output projection's bias is left of the attention."""

from __future__ import annotations

from sparkablate.proofs.passes import Faults, Subject, Zeroed, attention_end, bias_fault, bias_of


def all_heads_faults(subject: Subject, zeroed: Zeroed, untested: Faults) -> Faults:
    faults: Faults = dict.fromkeys(untested, "not tested, since its head slices are wrong")
    for layer in subject.with_heads:
        if layer.index not in zeroed.layers:
            continue
        written = [attention_end(layer)]
        if not subject.sites.norm_after_write and layer.attention_write is not None:
            written.append(layer.attention_write)
        bias = bias_of(layer.attention_output)
        for tap in written:
            there = zeroed.recorded.get((tap.path, tap.side))
            fault = f"the pass never reached {tap.path}" if there is None else bias_fault(tap, there, bias)
            if fault is not None:
                faults.setdefault(layer.index, fault)
    return faults
