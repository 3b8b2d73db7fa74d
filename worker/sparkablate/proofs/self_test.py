"""Proof at every load that a model's sites are where its row says. Seconds, no tokenizer, no data.

Nothing here is judged by the code it judges: head slices are checked against the value projection and
against attention patterns, writes against the layer's own output.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from sparkablate.anatomy.sites import LayerSites, SiteMap
from sparkablate.errors import SparkablateError
from sparkablate.proofs.additions import embedding_fault, replay_faults
from sparkablate.proofs.effect import ZEROED, but_for, effect_faults
from sparkablate.proofs.entry import entry_faults, reads_others, with_the_same_tokens
from sparkablate.proofs.heads import all_heads_faults
from sparkablate.proofs.logits import logits_fault
from sparkablate.proofs.neurons import neuron_faults
from sparkablate.proofs.once import Concerned, depth_fault, once_faults, shared_elsewhere
from sparkablate.proofs.passes import Faults, Subject, Zeroed
from sparkablate.proofs.skips import skip_fault
from sparkablate.proofs.values import value_faults

Result = dict[str, Any]
HEADS = ("head", "kv_group")


@dataclass(frozen=True)
class Evidence:
    """What was seen of a model, for all proofs."""

    subject: Subject
    values: Faults
    zeroed: Mapping[str, Zeroed]

    @staticmethod
    def of(subject: Subject) -> Evidence:
        values = value_faults(subject)
        zeroed = {kind: subject.zeroed(kind, values if kind == "head" else {}) for kind in ZEROED}
        return Evidence(subject, values, zeroed)


@dataclass(frozen=True)
class Proof:
    """One test: what holds where it passes, and the faults that it finds."""

    name: str
    claim: str
    faults: Callable[[Evidence], Concerned]
    #: Whether a layer is tested; the sites whose absence says why it is not, or why in words.
    tests: Callable[[LayerSites], bool] = lambda layer: True
    of: tuple[str, ...] = ()
    untested: str = ""
    #: What the claim leaves out, in words.
    but: Callable[[Evidence], str] = lambda evidence: ""


def _has_heads(layer: LayerSites) -> bool:
    return layer.heads is not None


PROOFS = (
    Proof(
        "once",
        "each module that is edited acts once a pass, in one layer, and no layers share weights",
        lambda seen: once_faults(seen.subject),
        but=lambda seen: shared_elsewhere(seen.subject),
    ),
    Proof(
        "value_rows",
        "a key/value head's values reach exactly its query heads' slices of the projection's input",
        lambda seen: _all_of(HEADS, seen.values),
        _has_heads,
        HEADS,
    ),
    Proof(
        "embedding",
        "what writes the stream before layer 0 adds up to it, scaled or not",
        lambda seen: _everywhere(seen, "direction", embedding_fault(seen.subject)),
    ),
    Proof(
        "replayed_additions",
        "adding a layer's writes to its input gives its output bit for bit, which the next layer gets",
        lambda seen: _all_of(("attn", "mlp", "direction"), replay_faults(seen.subject)),
    ),
    Proof(
        "entry",
        "a layer's output follows from the stream that enters it, bit for bit, whatever other layers compute",
        lambda seen: entry_faults(seen.subject),
        lambda layer: not reads_others(layer),
        but=lambda seen: with_the_same_tokens(seen.subject),
        untested="which has the keys and values of another layer, as its row says",
    ),
    Proof(
        "skip",
        "with all layers skipped the tail gets the stream that enters the first",
        lambda seen: _everywhere(seen, "layer", skip_fault(seen.subject)),
    ),
    Proof(
        "all_heads_zero",
        "with all heads zero the attention writes its projection's bias, or 0",
        lambda seen: _all_of(HEADS, all_heads_faults(seen.subject, seen.zeroed["head"], seen.values)),
        _has_heads,
        HEADS,
    ),
    Proof(
        "neurons",
        "what reads the neurons ends the MLP, and gives its bias, or 0, where all of them are zero",
        lambda seen: _all_of(("neuron",), neuron_faults(seen.subject, seen.zeroed["neuron"])),
        lambda layer: layer.neurons is not None,
        ("neuron",),
    ),
    Proof(
        "effect",
        "every write writes, and zeroing a site changes what its layer gives",
        lambda seen: effect_faults(seen.subject, seen.zeroed),
        but=lambda seen: but_for(seen.subject),
    ),
)


def run(model: nn.Module, sites: SiteMap) -> list[Result]:
    """Runs the tests and returns a `selfTest` of src/protocol/messages.ts for each.

    A failure is a result, not an exception: it names the layers and the sites to refuse
    (`SiteMap.refusing` takes them out). One that concerns the whole model refuses every site.
    """
    with torch.inference_mode():
        subject = Subject.of(model, sites)
        fault = depth_fault(sites.n_layers, [subject.plain.order, subject.other.order])
        depth = _whole(sites, "depth", "every layer runs once and in order, whatever the tokens", fault)
        if fault is not None:
            return [depth]  # nothing else is to be had of layers that do not run
        fault = logits_fault(subject)
        seen = Evidence.of(subject)
        claim = "body, tail and head, one after the other, give the model's own logits bit for bit"
        return [
            depth,
            _whole(sites, "logits", claim, fault),
            *(_result(sites, proof, seen) for proof in PROOFS),
        ]


def require(model: nn.Module, tests: Sequence[Result]) -> list[str]:
    """The sites that the tests refuse, e.g. "L0.head" (`SiteMap.refusing`).

    Raises ``architecture_unsupported`` for a model of which a test refused every site.
    """
    for test in tests:
        if test["name"] in ("depth", "logits") and not test["passed"]:
            raise SparkablateError(
                "architecture_unsupported", f"{type(model).__name__} cannot be ablated: {test['detail']}"
            )
    return [label for test in tests for label in test["refused"]]


def _all_of(concerned: Sequence[str], faults: Faults) -> Concerned:
    """Faults that concern the same sites wherever they are."""
    return {index: (set(concerned), fault) for index, fault in faults.items()}


def _everywhere(seen: Evidence, concerned: str, fault: str | None) -> Concerned:
    """A fault that concerns a site of all layers."""
    return {} if fault is None else {layer.index: ({concerned}, fault) for layer in seen.subject.sites.layers}


def _result(sites: SiteMap, proof: Proof, seen: Evidence) -> Result:
    faults = proof.faults(seen)
    untested = [layer for layer in sites.layers if not proof.tests(layer)]
    notes = {why for layer in untested for site in proof.of if (why := layer.missing.get(site))}
    notes |= {f"layer {layer.index}, {proof.untested}" for layer in untested if proof.untested}
    skipped = f"; not tested in others: {', '.join(sorted(notes))}" if notes else ""
    tested = sites.n_layers - len(untested)
    detail = f"{proof.claim}: {tested} of {sites.n_layers} layers{proof.but(seen)}{skipped}"
    if faults:
        detail = _words(faults)
    refused = [
        f"L{index}.{site}"
        for index in sorted(faults)
        for site in sites.layers[index].sites
        if site in faults[index][0]
    ]
    return {"name": proof.name, "passed": not faults, "detail": detail[:4096], "refused": refused}


def _words(faults: Mapping[int, tuple[set[str], str]]) -> str:
    """What is wrong, layer by layer; once where it is the same everywhere."""
    said = {why for _, why in faults.values()}
    if len(faults) > 1 and len(said) == 1:
        return f"layers {', '.join(map(str, sorted(faults)))}: {said.pop()}"
    return "; ".join(f"layer {index}: {faults[index][1]}" for index in sorted(faults))


def _whole(sites: SiteMap, name: str, claim: str, fault: str | None) -> Result:
    """Of the model as a whole: a fault refuses every site of every layer."""
    refused = [f"L{layer.index}.{site}" for layer in sites.layers for site in layer.sites]
    return {
        "name": name,
        "passed": fault is None,
        "detail": (claim if fault is None else fault)[:4096],
        "refused": [] if fault is None else refused,
    }
