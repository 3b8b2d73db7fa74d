"""What leaves a layer follows from the stream that enters it, and from nothing that other layers or tokens
did: no keys and values of other layers, no embedding that is put in again.

In each pass some layers get the stream that one text had there and the others that of another text; each must
give what it gave for that text. Over the passes every two layers differ once.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from sparkablate.anatomy.sites import LayerSites, SiteMap
from sparkablate.edits.hooks import editing
from sparkablate.errors import SparkablateError
from sparkablate.measure.likelihood import Likelihood
from sparkablate.proofs.once import Concerned
from sparkablate.proofs.passes import Recorded, Subject, entry_of, forward, put

#: The write that a row names where a layer reads the tokens again: gemma4's per-layer embeddings.
PER_LAYER = "per_layer"
#: Times what differs between two passes alike, on a machine whose kernels do not repeat their bits.
NOISE = 10


def reads_others(layer: LayerSites) -> bool:
    """Whether its row says that it has the keys and values of another layer."""
    return layer.heads is not None and layer.values is None


def reads_tokens(sites: SiteMap) -> bool:
    """Whether the row says that layers read tokens besides the stream, which entering leaves as they are."""
    return sites.reads_tokens or any(PER_LAYER in layer.writes for layer in sites.layers)


def with_the_same_tokens(subject: Subject) -> str:
    """What the proof leaves out, in words."""
    return " (with the same tokens, which they read again)" if reads_tokens(subject.sites) else ""


def entry_faults(subject: Subject) -> Concerned:
    sites = subject.sites
    tested = [layer for layer in sites.layers if not reads_others(layer)]
    off: dict[int, float] = {}
    again = reads_tokens(sites)
    for second in _assignments(sites.n_layers, both=again):
        # of tokens that are read again there is one text a pass: only its layers are compared
        ids = subject.ids if again else (subject.ids + 1) % sites.vocab_size
        recorded = _mixed(subject, ids, second)
        for layer in tested:
            if layer.index in second and again:
                continue
            source = subject.other if layer.index in second else subject.plain
            difference = _difference(layer, recorded, source.recorded)
            if difference > 0:
                off[layer.index] = max(off.get(layer.index, 0.0), difference)
    if off:
        noise = _noise(subject)
        off = {index: found for index, found in off.items() if not found <= noise[index]}
    return _explained(subject, off) if off else {}


def _assignments(n_layers: int, both: bool) -> Iterator[set[int]]:
    """The layers that get the other text's stream, by the digits of their numbers; `both` ways round."""
    for digit in range(max(1, (n_layers - 1).bit_length())):
        ones = {index for index in range(n_layers) if index >> digit & 1}
        yield ones
        if both or n_layers == 1:
            yield set(range(n_layers)) - ones


def _mixed(subject: Subject, ids: Tensor, second: set[int]) -> Recorded:
    layers = subject.sites.layers
    texts: tuple[Mapping, Mapping] = (subject.plain.recorded, subject.other.recorded)
    edits = [put(entry_of(layer), dict(texts[layer.index in second])) for layer in layers]
    return forward(subject.sites, ids, [layer.stream for layer in layers], edits)


def _difference(layer: LayerSites, left: Recorded, right: Recorded) -> float:
    place = layer.path, "output"
    return _off(left[place], right[place])


def _off(left: Tensor, right: Tensor) -> float:
    """NaN counts as infinite."""
    return float((left.float() - right.to(left.device).float()).abs().max().nan_to_num(nan=torch.inf))


def _noise(subject: Subject) -> dict[int, float]:
    """By how much a layer's output may differ where nothing does: 0 where kernels repeat their bits."""
    again = _mixed(subject, subject.ids, set())
    once_more = _mixed(subject, subject.ids, set())
    return {layer.index: NOISE * _difference(layer, again, once_more) for layer in subject.sites.layers}


def _explained(subject: Subject, off: Mapping[int, float]) -> Concerned:
    """Which layers' work, or that it is the tokens', besides the stream decides what these layers give."""
    sites = subject.sites
    faults: Concerned = {}
    sources: dict[int, list[int]] = {index: [] for index in off}
    for source in range(sites.n_layers):
        recorded = _mixed(subject, subject.ids, {source})
        for index in off:
            layer = sites.layers[index]
            if index != source and _difference(layer, recorded, subject.plain.recorded) > 0:
                sources[index].append(source)
    for index, found in off.items():
        what = (
            f"what layers {', '.join(map(str, sources[index]))} compute" if sources[index] else "the tokens"
        )
        path = sites.layers[index].path
        faults[index] = (
            {"layer", "direction"},
            f"{path} reads more than the stream that enters it: with the same stream its output changes by "
            f"up to {found:.3g} with {what}",
        )
        for source in sources[index]:
            why = f"layer {index} reads what it computes, past the stream"
            faults.setdefault(source, ({"layer", "direction"}, why))
    return faults


# ── At the run's own length ──────────────────────────────────────────────────────────────────
def prove_entered(
    likelihood: Likelihood, tokens: Tensor, other: Tensor, entered: Tensor, hidden: Tensor
) -> None:
    """Raises ``architecture_unsupported`` where the upper half of the layers, given the stream ``entered`` of
    ``tokens``, does not give their final hidden states over tokens ``other``. Skipped where a row says that
    layers read tokens, or one another's keys and values."""
    sites = likelihood.sites
    if reads_tokens(sites) or any(map(reads_others, sites.layers)):
        return
    middle = middle_of(sites)
    with editing([(entry_of(middle), lambda _: entered.clone())]):
        found = likelihood.final_hidden(other)
    off = _off(found, hidden)
    if off == 0 or off <= NOISE * _off(likelihood.final_hidden(tokens), hidden):
        return
    raise SparkablateError(
        "architecture_unsupported",
        f"{type(likelihood.model).__name__}: layers from {middle.path} on read more than the stream that "
        f"enters them: over {other.shape[1]} tokens the final hidden states change by up to {off:.3g} with "
        "the tokens below",
    )


def middle_of(sites: SiteMap) -> LayerSites:
    return sites.layers[sites.n_layers // 2]
