"""Proof at every load that a model's sites are where its row says. Seconds, no tokenizer, no data.

Nothing here is judged by the code it judges: head slices are checked against the value projection and
against attention patterns, writes against the layer's own output.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from sparkablate.anatomy.modules import input_width
from sparkablate.anatomy.sites import LayerSites, SiteMap, Tap
from sparkablate.edits.hooks import Edit, editing, recording
from sparkablate.loading.numerics import device_of
from sparkablate.manager import AblationManager
from sparkablate.specs import AblationSpec

TOKENS = 16
#: Factor on the attention's input that makes near-uniform attention patterns differ.
SHARPEN = 8.0

#: Roundings of the largest value that a sum of a few terms may be off.
LINEAR = 8

#: Layer → what is wrong with it, in words; missing where nothing is.
Faults = dict[int, str]
Recorded = dict[tuple[str, str], Tensor]


def run(model: nn.Module, sites: SiteMap) -> list[dict[str, Any]]:
    """Runs the four tests and returns a `selfTest` of src/protocol/messages.ts for each.

    A failure is a result, not an exception: it names the layers and the sites to refuse
    (`SiteMap.refusing` takes them out).
    """
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(0, sites.vocab_size, (1, TOKENS), generator=generator)
    ids = ids.to(device_of(sites.stack))
    with torch.inference_mode():
        plain = _pass(sites, ids, _all_taps(sites))
        value_faults = _value_faults(sites, ids, plain)
        return [
            _result(
                sites,
                "value_rows",
                "a key/value head's values reach exactly its query heads' slices of the projection's input",
                _with_heads(sites),
                ("head", "kv_group"),
                value_faults,
            ),
            _result(
                sites,
                "replayed_additions",
                "adding a layer's writes to its input gives its output bit for bit",
                sites.layers,
                ("attn", "mlp", "direction"),
                _replay_faults(sites, plain),
            ),
            _result(
                sites,
                "all_heads_zero",
                "with all heads zero the attention writes its projection's bias, or 0",
                _with_heads(sites),
                ("head", "kv_group"),
                _all_heads_faults(model, sites, ids, untested=value_faults),
            ),
            _result(
                sites,
                "neurons",
                "what reads the neurons ends the MLP, and gives its bias, or 0, where all of them are zero",
                tuple(layer for layer in sites.layers if layer.neurons is not None),
                ("neuron",),
                _neuron_faults(sites, ids, plain),
            ),
        ]


def _result(
    sites: SiteMap,
    name: str,
    claim: str,
    tested: Sequence[LayerSites],
    concerned: Sequence[str],
    faults: Faults,
) -> dict[str, Any]:
    untested = [layer for layer in sites.layers if layer not in tested]
    notes = sorted({why for layer in untested for site in concerned if (why := layer.missing.get(site))})
    skipped = f"; not tested in others: {', '.join(notes)}" if notes else ""
    detail = f"{claim}: {len(tested)} of {sites.n_layers} layers{skipped}"
    if faults:
        detail = "; ".join(f"layer {index}: {fault}" for index, fault in sorted(faults.items()))
    refused = [
        f"L{index}.{site}"
        for index in sorted(faults)
        for site in concerned
        if site in sites.layers[index].sites
    ]
    return {"name": name, "passed": not faults, "detail": detail[:4096], "refused": refused}


def _with_heads(sites: SiteMap) -> tuple[LayerSites, ...]:
    return tuple(layer for layer in sites.layers if layer.heads is not None)


def _pass(
    sites: SiteMap, ids: Tensor, taps: Iterable[Tap], edits: Sequence[tuple[Tap, Edit]] = ()
) -> Recorded:
    """One forward pass without the head; copies of what stood at the taps, after the edits."""
    recorded: Recorded = {}

    def keep(tap: Tap, tensor: Tensor) -> None:
        recorded[tap.path, tap.side] = tensor.clone()  # falcon adds to its MLP's output in place

    with editing(edits), recording(list(taps), keep):
        sites.stack(input_ids=ids, use_cache=False)
    return recorded


def _all_taps(sites: SiteMap) -> list[Tap]:
    """Every layer's input, output, writes, head slices and ends of its MLP; what is two of these, once."""
    taps: list[Tap] = []
    for layer in sites.layers:
        taps += [Tap(layer.path, layer.module, "input"), layer.stream, *layer.writes.values()]
        taps += _neuron_taps(layer)
        if layer.heads is not None:
            taps.append(layer.heads)
    return list({(tap.path, tap.side): tap for tap in taps}.values())


# ── 1. Head slices ───────────────────────────────────────────────────────────────────────────
def _value_faults(sites: SiteMap, ids: Tensor, before: Recorded) -> Faults:
    layers = _with_heads(sites)
    faults = {layer.index: fault for layer in layers if (fault := _misfit(layer))}
    sound = [layer for layer in layers if layer.index not in faults]
    taps = [layer.heads for layer in sound if layer.heads is not None]
    for which in (0, -1):  # the first and the last key/value head
        for width in ("head", "feature"):
            edits = [_zero_values(layer, which, width) for layer in sound if layer.values is not None]
            after = _pass(sites, ids, taps, edits)
            for layer in sound:
                fault = _zeroed_fault(layer, which, width, before, after)
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


def _zero_values(layer: LayerSites, which: int, width: str) -> tuple[Tap, Edit]:
    """Zeroes what the rows (and biases) of one key/value head, or of its first feature, produce."""
    assert layer.values is not None
    features = layer.values.features(layer.n_kv_heads, layer.d_head)[which]
    if width == "feature":
        features = features[:1]

    def edit(x: Tensor) -> Tensor:
        return x.index_fill(-1, features.to(x.device), 0)

    return layer.values.tap, edit


def _zeroed_fault(layer: LayerSites, which: int, width: str, before: Recorded, after: Recorded) -> str | None:
    assert layer.heads is not None
    group = which % layer.n_kv_heads
    expected: set[int] = set()
    for head in layer.group_heads(group):
        start = head * layer.d_head
        expected |= set(range(start, start + (1 if width == "feature" else layer.d_head)))
    key = layer.heads.path, layer.heads.side
    found = _zero_columns(after.get(key)) - (_zero_columns(before.get(key)) - expected)
    if found == expected:
        return None
    what = f"key/value head {group}" if width == "head" else f"the first value of key/value head {group}"
    missed, excess = sorted(expected - found), sorted(found - expected)
    return (
        f"zeroing {what} should silence heads {list(layer.group_heads(group))} of width {layer.d_head} at "
        f"{layer.heads.path} ({layer.heads.side}), but {len(missed)} of their columns are not 0 and "
        f"{len(excess)} others are (first: {(missed or excess)[0]})"
    )


def _zero_columns(tensor: Tensor | None) -> set[int]:
    if tensor is None:
        return set()
    flat = tensor.reshape(-1, tensor.shape[-1])
    return set(torch.nonzero((flat == 0).all(dim=0)).flatten().tolist())


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
        recorded = _pass(sites, ids, taps, edits)
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


# ── 2. Writes ────────────────────────────────────────────────────────────────────────────────
def _replay_faults(sites: SiteMap, recorded: Recorded) -> Faults:
    faults: Faults = {}
    for layer in sites.layers:
        entry, output = recorded[layer.path, "input"], recorded[layer.path, "output"]
        unreached = [name for name, tap in layer.writes.items() if (tap.path, tap.side) not in recorded]
        if unreached:
            faults[layer.index] = f"the pass never reached its write {', '.join(unreached)}"
            continue
        try:
            writes = {
                name: recorded[tap.path, tap.side].reshape(entry.shape) for name, tap in layer.writes.items()
            }
            replayed = layer.additions(layer.module, entry, writes)
        except (KeyError, RuntimeError) as error:
            faults[layer.index] = f"its additions cannot be replayed from {sorted(layer.writes)}: {error}"
            continue
        if not torch.equal(replayed, output):
            off = (replayed.float() - output.float()).abs().max().item()
            faults[layer.index] = (
                f"its input plus {' and '.join(layer.writes)} is off its output by up to {off:.3g}"
            )
    return faults


# ── 3. All heads zero ────────────────────────────────────────────────────────────────────────
def _all_heads_faults(model: nn.Module, sites: SiteMap, ids: Tensor, untested: Faults) -> Faults:
    faults: Faults = dict.fromkeys(untested, "not tested, since its head slices are wrong")
    layers = [layer for layer in _with_heads(sites) if layer.index not in untested]
    outputs: dict[int, Tap] = {}
    for layer in layers:
        assert layer.attention_output is not None
        outputs[layer.index] = Tap(f"{layer.path} attention output", layer.attention_output, "output")
    recorded: Recorded = {}

    def keep(tap: Tap, tensor: Tensor) -> None:
        recorded[tap.path, tap.side] = tensor.clone()

    specs = [AblationSpec("head", layer.index, heads=tuple(range(layer.n_heads))) for layer in layers]
    taps = list(outputs.values())
    if not sites.norm_after_write:
        taps += [layer.attention_write for layer in layers if layer.attention_write is not None]
    manager = AblationManager(model, sites)
    with manager.applied(specs), recording(taps, keep):
        sites.stack(input_ids=ids, use_cache=False)
    for layer in layers:
        bias = _bias(layer.attention_output)
        written = [outputs[layer.index]]
        if not sites.norm_after_write and layer.attention_write is not None:
            written.append(layer.attention_write)
        for tap in written:
            fault = _bias_fault(tap, recorded[tap.path, tap.side], bias)
            if fault is not None:
                faults.setdefault(layer.index, fault)
    return faults


# ── 4. Neurons ───────────────────────────────────────────────────────────────────────────────
def _neuron_taps(layer: LayerSites) -> list[Tap]:
    """What reads the neurons, then the ends of the MLP: its own output, and its write."""
    taps = []
    if layer.neurons is not None:
        taps.append(Tap(f"{layer.neurons.path} output", layer.neurons.module, "output"))
        if layer.mlp is not None:
            taps.append(Tap(f"{layer.path} MLP", layer.mlp, "output"))
        if layer.mlp_write is not None:
            taps.append(layer.mlp_write)
    return taps


def _neuron_faults(sites: SiteMap, ids: Tensor, plain: Recorded) -> Faults:
    """What reads the neurons must be the last thing that the MLP does; where routed experts write too, the
    write must be linear in the neurons instead."""
    layers = [layer for layer in sites.layers if layer.neurons is not None]
    taps = [tap for layer in layers for tap in _neuron_taps(layer)]

    def scaled(factor: float) -> Recorded:
        """Every layer on its own input, whatever those below write."""
        entries = [Tap(layer.path, layer.module, "input") for layer in sites.layers]
        kept = [(entry, lambda _, entry=entry: plain[entry.path, entry.side].clone()) for entry in entries]
        scaling = [(layer.neurons, lambda x: x * factor) for layer in layers if layer.neurons is not None]
        return _pass(sites, ids, taps, [*kept, *scaling])

    zeroed = scaled(0)
    routed = {layer.index for layer in layers if layer.has_experts and not sites.norm_after_write}
    doubled = scaled(2) if routed else {}
    faults: Faults = {}
    for layer in layers:
        reader, *ends = _neuron_taps(layer)
        unreached = [tap.path for tap in (reader, *ends) if (tap.path, tap.side) not in zeroed]
        if unreached:
            faults[layer.index] = f"the pass never reached {', '.join(unreached)}"
            continue
        fault = _bias_fault(reader, zeroed[reader.path, reader.side], _bias(reader.module))
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


def _bias_fault(tap: Tap, tensor: Tensor, bias: Tensor | None) -> str | None:
    """What is wrong with what stands at the tap where a projection of this bias had an input of 0."""
    expected = torch.zeros_like(tensor) if bias is None else bias.to(tensor.dtype).expand_as(tensor)
    return (
        None if torch.equal(tensor, expected) else f"{tap.path} is not {'0' if bias is None else 'its bias'}"
    )


def _bias(module: Any) -> Tensor | None:
    """Of a projection; one that lies on disk tells it as its output for an input of 0."""
    bias = getattr(module, "bias", None)
    if bias is None or bias.device.type != "meta":
        return bias
    return module(torch.zeros(1, input_width(module), dtype=bias.dtype))[0]
