"""The passes that the proofs share: what stood at every tap, how often it was passed, which layers ran.

Sixteen tokens show structure. What may depend on the text's length is proved at the run's own: causality.py.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from sparkablate.anatomy.modules import input_width
from sparkablate.anatomy.sites import SITE_ROWS, LayerSites, SiteMap, Tap
from sparkablate.edits.hooks import Edit, editing, recording
from sparkablate.loading.numerics import device_of
from sparkablate.manager import AblationManager
from sparkablate.specs import AblationSpec

TOKENS = 16

#: Path and side of a tap.
Place = tuple[str, str]
Recorded = dict[Place, Tensor]
#: Layer → what is wrong with it, in words; missing where nothing is.
Faults = dict[int, str]


@dataclass(frozen=True)
class Trace:
    """An unedited pass without the head."""

    recorded: Recorded
    #: How often each tap was passed.
    calls: Mapping[Place, int]
    #: Layers in the order in which they ran.
    order: tuple[int, ...]
    #: What the stack returned.
    hidden: Tensor


@dataclass(frozen=True)
class Zeroed:
    """A pass in which a kind of site is zero; every layer has its own input of the plain pass."""

    layers: frozenset[int]
    recorded: Recorded


@dataclass(frozen=True)
class Subject:
    """The model under proof, with its unedited passes over two texts that agree in no token."""

    model: nn.Module
    sites: SiteMap
    ids: Tensor
    other_ids: Tensor
    plain: Trace
    other: Trace
    manager: AblationManager = field(repr=False)

    @staticmethod
    def of(model: nn.Module, sites: SiteMap) -> Subject:
        ids, other_ids = unlike(model, sites, TOKENS)
        plain, other = trace(sites, ids), trace(sites, other_ids)
        return Subject(model, sites, ids, other_ids, plain, other, AblationManager(model, sites))

    @cached_property
    def with_heads(self) -> tuple[LayerSites, ...]:
        return tuple(layer for layer in self.sites.layers if layer.heads is not None)

    def reached(self, tap: Tap | None) -> bool:
        return tap is not None and (tap.path, tap.side) in self.plain.recorded

    def kept_inputs(self) -> list[tuple[Tap, Edit]]:
        """Edits by which every layer has its own input of the plain pass, whatever those below write."""
        return [put(entry_of(layer), self.plain.recorded) for layer in self.sites.layers]

    def zeroed(self, kind: str, untested: Faults) -> Zeroed:
        """What stands at the taps where all of a kind of site is zero, in every layer at once that offers it
        and is not among the untested."""
        specs = [
            spec
            for layer in self.sites.layers
            if layer.index not in untested and self.reached(tap_of(kind, layer))
            if (spec := zero(kind, layer)) is not None
        ]
        recorded: Recorded = {}
        if specs:
            with ExitStack() as stack:
                stack.enter_context(self.manager.applied(specs))
                stack.enter_context(editing(self.kept_inputs()))
                stack.enter_context(recording(ends(self.sites), _keeping(recorded)))
                self.sites.stack(input_ids=self.ids, use_cache=False)
        return Zeroed(frozenset(spec.layer for spec in specs), recorded)


def unlike(model: nn.Module, sites: SiteMap, length: int) -> tuple[Tensor, Tensor]:
    """Two rows of random ids [1, pos] that agree nowhere."""
    ids = text_ids(model, sites.vocab_size)
    generator = torch.Generator().manual_seed(0)
    first = torch.randint(0, len(ids), (1, length), generator=generator)
    moved = 1 + torch.randint(max(len(ids) - 1, 1), (1, length), generator=generator)
    device = device_of(sites.stack)
    return ids[first].to(device), ids[(first + moved) % len(ids)].to(device)


def text_ids(model: nn.Module, vocabulary: int) -> Tensor:
    """The ids of so many tokens without those at which a wrapper puts in an image, a sound or a video."""
    ids = torch.arange(vocabulary)
    config: Any = model.config
    if config is config.get_text_config():
        return ids
    named = [value for key, value in vars(config).items() if key.endswith(("_token_id", "_token_index"))]
    held = torch.tensor([value for value in named if isinstance(value, int)])
    return ids[~torch.isin(ids, held)]


def entry_of(layer: LayerSites) -> Tap:
    return Tap(layer.path, layer.module, "input")


def attention_end(layer: LayerSites) -> Tap:
    """What the attention's output projection gives."""
    assert layer.attention_output is not None
    return Tap(f"{layer.path} attention output", layer.attention_output, "output")


def neuron_taps(layer: LayerSites) -> list[Tap]:
    """What reads the neurons, then the ends of the MLP: its own output, and its write."""
    taps = []
    if layer.neurons is not None:
        taps.append(Tap(f"{layer.neurons.path} output", layer.neurons.module, "output"))
        if layer.mlp is not None:
            taps.append(Tap(f"{layer.path} MLP", layer.mlp, "output"))
        if layer.mlp_write is not None:
            taps.append(layer.mlp_write)
    return taps


def tap_of(kind: str, layer: LayerSites) -> Tap | None:
    return SITE_ROWS[kind].tap(layer)


def zero(kind: str, layer: LayerSites) -> AblationSpec | None:
    """All of this kind of site, where the layer offers it."""
    if kind not in layer.sites:
        return None
    if kind == "head":
        return AblationSpec(kind, layer.index, heads=tuple(range(layer.n_heads)))
    if kind == "neuron":
        return AblationSpec(kind, layer.index, neurons=tuple(range(layer.n_neurons)))
    return AblationSpec(kind, layer.index)


def every_tap(sites: SiteMap) -> list[Tap]:
    """The embedding's writes; of every layer its input, head slices and neurons, and where they end."""
    taps: list[Tap] = list(sites.embedding)
    for layer in sites.layers:
        taps += [entry_of(layer), *(tap for tap in (layer.heads, layer.neurons) if tap is not None)]
    return _each_once([*taps, *ends(sites)])


def ends(sites: SiteMap) -> list[Tap]:
    """Of every layer its output, its writes, what the attention's projection gives, the ends of the MLP."""
    taps: list[Tap] = []
    for layer in sites.layers:
        taps += [layer.stream, *layer.writes.values(), *neuron_taps(layer)]
        if layer.heads is not None:
            taps.append(attention_end(layer))
    return _each_once(taps)


def _each_once(taps: Iterable[Tap]) -> list[Tap]:
    return list({(tap.path, tap.side): tap for tap in taps}.values())


def put(tap: Tap, recorded: Recorded) -> tuple[Tap, Edit]:
    """The edit that puts back what was recorded at a tap: a copy, since gemma4 scales its stream in place."""
    there = recorded[tap.path, tap.side]
    return tap, lambda _: there.clone()


def forward(
    sites: SiteMap, ids: Tensor, taps: Iterable[Tap], edits: Sequence[tuple[Tap, Edit]] = ()
) -> Recorded:
    """One forward pass without the head; copies of what stood at the taps, after the edits."""
    recorded: Recorded = {}
    with editing(edits), recording(list(taps), _keeping(recorded)):
        sites.stack(input_ids=ids, use_cache=False)
    return recorded


def trace(sites: SiteMap, ids: Tensor) -> Trace:
    recorded: Recorded = {}
    calls: Counter[Place] = Counter()
    order: list[int] = []
    numbers = {(layer.path, "input"): layer.index for layer in sites.layers}

    def keep(tap: Tap, tensor: Tensor) -> None:
        place = tap.path, tap.side
        calls[place] += 1
        recorded[place] = tensor.clone()
        if place in numbers:
            order.append(numbers[place])

    with recording(every_tap(sites), keep):
        hidden = sites.stack(input_ids=ids, use_cache=False)[0]
    return Trace(recorded, calls, tuple(order), hidden)


def _keeping(recorded: Recorded) -> Any:
    def keep(tap: Tap, tensor: Tensor) -> None:
        recorded[tap.path, tap.side] = tensor.clone()  # falcon adds to its MLP's output in place

    return keep


def bias_fault(tap: Tap, tensor: Tensor, bias: Tensor | None) -> str | None:
    """What is wrong with what stands at the tap where a projection of this bias had an input of 0."""
    expected = torch.zeros_like(tensor) if bias is None else bias.to(tensor.dtype).expand_as(tensor)
    return (
        None if torch.equal(tensor, expected) else f"{tap.path} is not {'0' if bias is None else 'its bias'}"
    )


def bias_of(module: Any) -> Tensor | None:
    """Of a projection; one that lies on disk tells it as its output for an input of 0."""
    bias = getattr(module, "bias", None)
    if bias is None or bias.device.type != "meta":
        return bias
    return module(torch.zeros(1, input_width(module), dtype=bias.dtype))[0]
