"""Each tapped module acts once a pass and in one layer; no two layers share weights; depth is no matter of
tokens."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from torch import nn
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from sparkablate.anatomy.sites import SITE_ROWS, LayerSites, SiteMap, Tap
from sparkablate.edits.hooks import Hook
from sparkablate.proofs.passes import Subject, entry_of

#: Layer → its sites that are concerned, and why.
Concerned = dict[int, tuple[set[str], str]]


@contextmanager
def watching_layers(sites: SiteMap) -> Iterator[list[int]]:
    """The list holds the layers in the order in which they run inside the block."""
    order: list[int] = []

    def passed(index: int) -> Callable[..., None]:
        return lambda *_: order.append(index)

    hooks = [Hook(layer.module, passed(layer.index), before=True) for layer in sites.layers]
    try:
        yield order
    finally:
        for hook in hooks:
            hook.remove()


def depth_fault(n_layers: int, orders: Sequence[Sequence[int]]) -> str | None:
    """What is wrong with the layers that ran on texts without a token in common."""
    for order in orders:
        if list(order) != list(orders[0]):
            return (
                f"on one text layers {_few(orders[0])} run, on another {_few(order)}: depth depends on tokens"
            )
    if list(orders[0]) != list(range(n_layers)):
        ran = _few(orders[0])
        return f"its {n_layers} layers should run once each and in order, and those that run are {ran}"
    return None


def _few(order: Sequence[int]) -> str:
    if not order:
        return "none"
    words = [str(index) for index in order]
    return ", ".join(words if len(words) <= 16 else [*words[:16], "…"])


def once_faults(subject: Subject) -> Concerned:
    faults: Concerned = {}

    def found(layer: LayerSites, concerned: set[str], why: str) -> None:
        sites, before = faults.get(layer.index, (set(), ""))
        faults[layer.index] = (sites | concerned, before or why)

    tapped: dict[tuple[int, str], list[tuple[LayerSites, Tap, set[str]]]] = defaultdict(list)
    for layer in subject.sites.layers:
        for tap, concerned in _taps_of(layer):
            tapped[id(tap.module), tap.side].append((layer, tap, concerned))
    for here in tapped.values():
        layers = sorted({layer.index for layer, _, _ in here})
        for layer, tap, concerned in here:
            times = subject.plain.calls.get((tap.path, tap.side), 0)
            if len(layers) > 1:
                found(layer, concerned, f"{tap.path} is one module in layers {_few(layers)}")
            elif times != 1:
                found(layer, concerned, f"{tap.path} {_acts(times)} in a pass")
    for first, name, layer, other in _shared(subject.sites):
        for one in (first, layer):
            if concerned := _sites_with(one, name, other):
                found(one, concerned, f"{name} and {other} are the same weights")
    return faults


def _acts(times: int) -> str:
    return "never acts" if times == 0 else f"acts {times} times"


def _taps_of(layer: LayerSites) -> Iterator[tuple[Tap, set[str]]]:
    """Each place of a layer that edits act at, once, with the sites that are edited there."""
    places: dict[tuple[int, str], tuple[Tap, set[str]]] = {}
    wanted = [(row.tap(layer), kind) for kind, row in SITE_ROWS.items()]
    wanted += [(tap, "direction") for tap in layer.writes.values()]
    wanted += [(tap, kind) for tap in (entry_of(layer), layer.stream) for kind in ("layer", "direction")]
    for tap, kind in wanted:
        if tap is not None:
            places.setdefault((id(tap.module), tap.side), (tap, set()))[1].add(kind)
    yield from places.values()


# ── Weights ──────────────────────────────────────────────────────────────────────────────────
def _shared(sites: SiteMap) -> Iterator[tuple[LayerSites, str, LayerSites, str]]:
    """Parameters of two layers that lie in the same memory, or are the same object where they lie nowhere."""
    spans: list[tuple[str, int, int, LayerSites, str]] = []
    seen: dict[int, tuple[LayerSites, str]] = {}
    for layer in sites.layers:
        for name, parameter in layer.module.named_parameters():
            path = f"{layer.path}.{name}"
            other = seen.setdefault(id(parameter), (layer, path))
            if other[0] is not layer:
                yield *other, layer, path
            elif _has_memory(parameter):
                spans.append((str(parameter.device), *_span(parameter), layer, path))
    spans.sort(key=lambda span: span[:2])
    furthest = None
    for span in spans:
        device, begin, end, layer, path = span
        overlaps = furthest is not None and device == furthest[0] and begin < furthest[2]
        if furthest is not None and overlaps and layer is not furthest[3]:
            yield furthest[3], furthest[4], layer, path
        if furthest is None or not overlaps or end > furthest[2]:
            furthest = span


def _has_memory(parameter: nn.Parameter) -> bool:
    """Not what lies on disk, nor a packed tensor that is made of others."""
    return (
        parameter.device.type != "meta"
        and parameter.numel() > 0
        and not is_traceable_wrapper_subclass(parameter)
    )


def _span(parameter: nn.Parameter) -> tuple[int, int]:
    """First byte, and that behind the last."""
    begin = parameter.data_ptr()
    reach = sum((size - 1) * stride for size, stride in zip(parameter.shape, parameter.stride(), strict=True))
    return begin, begin + (reach + 1) * parameter.element_size()


def shared_elsewhere(subject: Subject) -> str:
    """Layers that share weights of which no site is a part, in words."""
    layers = {
        one.index
        for first, name, layer, other in _shared(subject.sites)
        for one in (first, layer)
        if not _sites_with(one, name, other)
    }
    return f"; layers {_few(sorted(layers))} share weights that no site is made of" if layers else ""


def _sites_with(layer: LayerSites, *paths: str) -> set[str]:
    """Sites that are made by what holds one of these parameters: attention, MLP, or another writer."""
    named = dict(layer.module.named_parameters())
    inside = {id(named[name]) for path in paths if (name := path.removeprefix(f"{layer.path}.")) in named}
    makers: list[tuple[nn.Module | None, set[str]]] = [
        (layer.attention, {"head", "kv_group", "attn"}),
        (layer.mlp, {"neuron", "mlp"}),
        *((tap.module, {"layer", "direction"}) for tap in layer.writes.values()),
    ]
    for maker, kinds in makers:
        if maker is not None and inside & {id(parameter) for parameter in maker.parameters()}:
            return kinds
    return set()
