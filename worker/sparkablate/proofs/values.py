"""Head slices: a key/value head's values reach exactly its query heads' columns of the projection's input."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import combinations, count
from math import comb

import torch
from torch import Tensor

from sparkablate.anatomy.modules import input_width
from sparkablate.anatomy.sites import LayerSites, SiteMap, Tap
from sparkablate.edits.hooks import Edit
from sparkablate.proofs.passes import TOKENS, Faults, Recorded, Subject, forward

#: Factor on the attention's input that makes near-uniform attention patterns differ.
SHARPEN = 8.0
#: Key/value heads of one layer that a pass zeroes.
Chosen = tuple[int, ...]


def value_faults(subject: Subject) -> Faults:
    sites, ids, before = subject.sites, subject.ids, subject.plain.recorded
    faults: Faults = {}
    for layer in subject.with_heads:
        assert layer.heads is not None
        fault = _misfit(layer)
        if fault is None and not subject.reached(layer.heads):
            fault = f"the pass never reached {layer.heads.path}"
        if fault is not None:
            faults[layer.index] = fault
    sound = [layer for layer in subject.with_heads if layer.index not in faults]
    taps = [layer.heads for layer in sound if layer.heads is not None]
    everything = {layer.index: tuple(range(layer.n_kv_heads)) for layer in sound}
    # Which columns are a key/value head's, then where the slices begin: of all of them at once.
    passes = [*((chosen, "head") for chosen in _choices(sound)), (everything, "feature")]
    for chosen, width in passes if sound else []:
        edits = [
            _zero_values(layer, chosen[layer.index], width)
            for layer in sound
            if layer.values is not None  # gemma4's late layers have those of the last of their kind
        ]
        after = forward(sites, ids, taps, edits)
        for layer in sound:
            fault = _zeroed_fault(layer, chosen[layer.index], width, before, after)
            if fault:
                faults.setdefault(layer.index, fault)
    for index, fault in _pattern_faults(sites, ids, [layer for layer in sound if not layer.gated]).items():
        faults.setdefault(index, fault)
    return faults


def _misfit(layer: LayerSites) -> str | None:
    """What does not add up before anything is run."""
    assert layer.heads is not None
    if layer.heads.side == "input":
        width = input_width(layer.heads.module)
        if width != layer.n_heads * layer.d_head:
            return f"{layer.n_heads} heads of {layer.d_head} are not the {width} inputs of {layer.heads.path}"
    if layer.n_heads % layer.n_kv_heads:
        return f"{layer.n_heads} heads cannot share {layer.n_kv_heads} key/value heads"
    if layer.values is not None:
        try:
            layer.values.features(layer.n_kv_heads, layer.d_head)
        except ValueError as error:
            return f"{layer.values.tap.path}: {error}"
    return None


def _choices(layers: Sequence[LayerSites]) -> Iterator[dict[int, Chosen]]:
    """For each pass the key/value heads that each layer zeroes in it. Over all passes no head is zeroed
    wherever another one is (Sperner), so that each shows which columns are its own, in a few passes for all:
    5 for 8 heads, 7 for 32."""
    most = max((layer.n_kv_heads for layer in layers), default=0)
    if not most:
        return
    passes = next(size for size in count(1) if comb(size, size // 2) >= most)
    codes = list(combinations(range(passes), max(1, passes // 2)))
    for number in range(passes):
        yield {
            layer.index: tuple(head for head in range(layer.n_kv_heads) if number in codes[head])
            for layer in layers
        }


def _zero_values(layer: LayerSites, chosen: Chosen, width: str) -> tuple[Tap, Edit]:
    """Zeroes what the rows (and biases) of these key/value heads, or of their first features, produce."""
    assert layer.values is not None
    features = layer.values.features(layer.n_kv_heads, layer.d_head)[list(chosen)]
    if width == "feature":
        features = features[:, :1]

    def edit(x: Tensor) -> Tensor:
        return x.index_fill(-1, features.flatten().to(x.device), 0)

    return layer.values.tap, edit


def _zeroed_fault(
    layer: LayerSites, chosen: Chosen, width: str, before: Recorded, after: Recorded
) -> str | None:
    assert layer.heads is not None
    key = layer.heads.path, layer.heads.side
    heads = [head for group in chosen for head in layer.group_heads(group)]
    silent = _zero_columns(after[key])
    expected = torch.zeros_like(silent)
    for head in heads:
        start = head * layer.d_head
        expected[start : start + (1 if width == "feature" else layer.d_head)] = True
    found = silent & ~(_zero_columns(before[key]) & ~expected)
    if torch.equal(found, expected):
        return None
    what = "key/value heads" if width == "head" else "the first value of key/value heads"
    missed, excess = (mask.nonzero().flatten().tolist() for mask in (expected & ~found, found & ~expected))
    return (
        f"zeroing {what} {list(chosen)} should silence heads {heads} of width {layer.d_head} at "
        f"{layer.heads.path} ({layer.heads.side}), but {len(missed)} of their columns are not 0 and "
        f"{len(excess)} others are (first: {(missed or excess)[0]})"
    )


def _zero_columns(tensor: Tensor) -> Tensor:
    """bool [columns]"""
    return (tensor.flatten(0, -2) == 0).all(dim=0).cpu()


def _pattern_faults(sites: SiteMap, ids: Tensor, layers: Sequence[LayerSites]) -> Faults:
    """Where each head has values of its own, zeroing values cannot show how wide a head is; attention can.

    All values of a token are set to the same sign, so the projection's input is constant over a head's
    columns (its attention pattern summed with those signs) and changes from head to head.
    """
    judged = [layer for layer in layers if layer.values is not None and 1 < layer.n_heads == layer.n_kv_heads]
    if not judged:
        return {}
    signs = torch.randint(0, 2, (1, TOKENS, 1), generator=torch.Generator().manual_seed(1)) * 2 - 1
    taps = [layer.heads for layer in judged if layer.heads is not None]
    faults: Faults = {}
    seen: dict[tuple[int, int], set[int]] = defaultdict(set)
    for scale in (1.0, SHARPEN):
        edits = [edit for layer in judged for edit in _signed_values(layer, signs, scale)]
        recorded = forward(sites, ids, taps, edits)
        for layer in judged:
            assert layer.heads is not None
            tensor = recorded[layer.heads.path, layer.heads.side]
            tolerance = 2 * torch.finfo(tensor.dtype).eps
            steps = tensor.float().diff(dim=-1).abs().amax(dim=(0, 1))  # [columns - 1]
            changed = set((1 + torch.nonzero(steps > tolerance).flatten()).tolist())
            boundaries = set(range(layer.d_head, layer.n_heads * layer.d_head, layer.d_head))
            seen[layer.n_heads, layer.d_head] |= changed & boundaries
            inside = sorted(changed - boundaries)
            if inside:
                faults.setdefault(
                    layer.index,
                    f"the attention pattern changes at column {inside[0]} of {layer.heads.path}, "
                    f"inside a head of width {layer.d_head}",
                )
    for layer in judged:
        unseen = sorted(
            set(range(layer.d_head, layer.n_heads * layer.d_head, layer.d_head))
            - seen[layer.n_heads, layer.d_head]
        )
        if unseen:
            faults.setdefault(
                layer.index,
                f"the attention pattern never changes at column {unseen[0]}, where a head of width "
                f"{layer.d_head} should begin",
            )
    return faults


def _signed_values(layer: LayerSites, signs: Tensor, scale: float) -> list[tuple[Tap, Edit]]:
    assert layer.values is not None
    assert layer.attention is not None
    features = layer.values.features(layer.n_kv_heads, layer.d_head).reshape(-1)

    def values(x: Tensor) -> Tensor:
        out = x.clone()
        # latent attention expands [batch, 1, pos, latent]; all others project [batch, pos, d_model]
        here = signs.to(device=x.device, dtype=x.dtype).reshape(*[1] * (x.dim() - 2), TOKENS, 1)
        out[..., features.to(x.device)] = here.expand(*x.shape[:-1], len(features))
        return out

    def sharpen(x: Tensor) -> Tensor:
        return x * scale

    return [(Tap(layer.path, layer.attention, "input"), sharpen), (layer.values.tap, values)]
