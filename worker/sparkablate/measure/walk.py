"""The walk: the baseline's stream goes up layer by layer; conditions branch off where they first edit.

A condition whose first edit is in layer L changes nothing below L, so it runs from the baseline's stream at
L, through the model's own forward pass with the layers below bypassed in place (never a slice of the list of
layers: decoder loops choose masks by index). One layer's stream, attention output and projection input are
all that is kept. ``prove_entries`` compares every way in with the plain pass, bit for bit, before any of them
is used.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sparkablate.anatomy.sites import LayerSites, SiteMap, Stage, Tap, site_row
from sparkablate.catalog import OPERATIONS, complete
from sparkablate.edits.hooks import recording, stream_of
from sparkablate.measure.given import Given
from sparkablate.measure.likelihood import Likelihood
from sparkablate.specs import EMBEDDING, DirectionSpec, Spec, first_layer, layers_of

#: Positions of the one block that proves the entries: what it shows is structure, not arithmetic.
PROOF_POSITIONS = 16


DIRECTION_STAGES = {"writes": Stage.ATTENTION, "stream": Stage.OUTPUT}
complete("DIRECTION_STAGES", DIRECTION_STAGES, {place for places in OPERATIONS.values() for place in places})


@dataclass(frozen=True, order=True)
class Start:
    """Where a condition leaves the baseline. Layer ``EMBEDDING`` (−1): before layer 0, nothing is reused."""

    layer: int
    stage: Stage


def first_edit(specs: Sequence[Spec], sites: SiteMap) -> Start:
    """The lowest place that a condition edits. ``specs`` must not be empty."""
    layer = first_layer(specs)
    if layer == EMBEDDING:
        return Start(EMBEDDING, Stage.ATTENTION)
    here = [spec for spec in specs if layer in layers_of(spec, sites.n_layers)]
    return Start(layer, min(map(_stage, here)))


def _stage(spec: Spec) -> Stage:
    if isinstance(spec, DirectionSpec):
        return DIRECTION_STAGES[spec.at]
    row = site_row(spec.kind)
    return Stage.SKIP if row is None else row.stage


@contextmanager
def replaced_forward(module: nn.Module, forward: Callable[..., Any]) -> Iterator[None]:
    """``module`` computes ``forward`` instead of its own; its hooks still run. Restores what was there."""
    own = module.__dict__.get("forward")
    module.forward = forward
    try:
        yield
    finally:
        if own is None:
            del module.forward
        else:
            module.forward = own


def _bypass(layer: LayerSites, stream: Tensor | None) -> Callable[..., Any]:
    """A forward that returns ``stream``, or the layer's input where that is None."""

    def forward(*args: Any, **kwargs: Any) -> Any:
        hidden = stream_of(args, kwargs) if stream is None else stream.clone()
        return (hidden, None) if layer.returns_tuple else hidden

    return forward


@contextmanager
def bypassing_above(sites: SiteMap, layer: int) -> Iterator[None]:
    """The layers above ``layer`` compute nothing."""
    with ExitStack() as stack:
        for above in sites.layers[layer + 1 :]:
            stack.enter_context(replaced_forward(above.module, _bypass(above, None)))
        yield


@contextmanager
def bypassing_below(sites: SiteMap, layer: int, stream: Tensor | None) -> Iterator[None]:
    """The layers below ``layer`` compute nothing, and the last of them returns ``stream``."""
    with ExitStack() as stack:
        for below in sites.layers[:layer]:
            put_in = stream if below.index == layer - 1 else None
            stack.enter_context(replaced_forward(below.module, _bypass(below, put_in)))
        yield


@dataclass(frozen=True)
class Entries:
    """What of the walk gives the plain pass's bits on this model."""

    #: False: every condition takes the plain pass. ``reason`` says why.
    walkable: bool
    #: Layers whose attention module returns just its projection's output, so that edits start at its input.
    attention: frozenset[int] = frozenset()
    #: Layers whose attention output can be put back, so that edits of the MLP start after it.
    mlp: frozenset[int] = frozenset()
    reason: str = ""


@dataclass(frozen=True)
class LayerState:
    """What the baseline left behind at one layer: tensors [batch, pos, width], copied."""

    index: int
    stream: Tensor
    #: Before edits of it, like all that stands here: a condition's own edits act on it again.
    output: Tensor
    #: What the layer above gets.
    left: Tensor
    #: As the attention module returned it; None where the layer has none.
    attention: Any
    projection_input: Tensor | None


class Walk:
    """The baseline's way up through one batch of blocks. ``ids`` [batch, pos]. ``given``: edits that are part
    of the baseline."""

    def __init__(
        self, likelihood: Likelihood, entries: Entries, ids: Tensor, given: Given | None = None
    ) -> None:
        self.likelihood = likelihood
        self.given = given if given is not None and given.specs else None
        self.sites = likelihood.sites
        self.entries = entries
        self.ids = ids
        self.state: LayerState | None = None

    @torch.inference_mode()
    def final_hidden(self, start: Start, edits: Callable[[], Any]) -> Tensor:
        """Final hidden states [batch, pos, d_model] of a condition that leaves the baseline at ``start``.

        ``edits()`` is the context manager that applies its interventions.
        """
        if not self.enters(start):
            with edits():
                return self.likelihood.final_hidden(self.ids)
        state = self.advance(start.layer)
        with ExitStack() as stack:
            self._enter(stack, state, start.stage)
            stack.enter_context(edits())
            return self.likelihood.final_hidden(self.ids)

    def enters(self, start: Start) -> bool:
        """Whether what lies below ``start`` is reused."""
        return start.layer != EMBEDDING and self.entries.walkable

    @torch.inference_mode()
    def advance(self, layer: int) -> LayerState:
        """Moves the baseline to ``layer`` and keeps what it leaves there; starts over where it is past it."""
        if self.state is not None and self.state.index == layer:
            return self.state
        ahead = self.state is not None and self.state.index < layer
        begin = self.state.index + 1 if self.state is not None and ahead else 0
        stream = self.state.left if self.state is not None and ahead else None
        top = layer
        if self.given is not None and begin == 0 and self.given.edits_embedding:
            top = self.sites.n_layers - 1  # an edit of the embedding is one with those of all layers
        with ExitStack() as stack:
            stack.enter_context(bypassing_below(self.sites, begin, stream))
            stack.enter_context(bypassing_above(self.sites, top))
            given = None if self.given is None else self.given.edits(begin, top)
            record = stack.enter_context(_recording_layer(self.sites.layers[layer], given))
            self.likelihood.final_hidden(self.ids)
        self.state = LayerState(index=layer, **record)
        return self.state

    def _enter(self, stack: ExitStack, state: LayerState, stage: Stage) -> None:
        """Makes the next forward pass begin at ``stage`` of the state's layer."""
        layer = self.sites.layers[state.index]
        stack.enter_context(bypassing_below(self.sites, state.index, state.stream))
        if stage in (Stage.OUTPUT, Stage.LEFT):
            output = state.output if stage is Stage.OUTPUT else state.left
            stack.enter_context(replaced_forward(layer.module, _bypass(layer, output)))
        elif stage is Stage.SKIP:
            stack.enter_context(replaced_forward(layer.module, _bypass(layer, None)))
        elif layer.attention is None or state.attention is None:
            return  # what is given has it replaced by a constant: the layer makes nothing to begin at
        elif stage is Stage.MLP and layer.index in self.entries.mlp:
            stack.enter_context(
                replaced_forward(layer.attention, lambda *args, **kwargs: _copied(state.attention))
            )
        elif stage is Stage.ATTENTION and layer.index in self.entries.attention:
            projection, source = layer.attention_output, state.projection_input
            assert projection is not None
            assert source is not None

            def project(*args: Any, **kwargs: Any) -> Any:
                output = projection(source.clone())
                return (output, *state.attention[1:]) if isinstance(state.attention, tuple) else output

            stack.enter_context(replaced_forward(layer.attention, project))


@contextmanager
def _recording_layer(
    layer: LayerSites, given: AbstractContextManager[Any] | None = None
) -> Iterator[dict[str, Any]]:
    """Fills a dict with the fields of ``LayerState`` while the block runs a forward pass, under ``given``."""
    record: dict[str, Any] = {"attention": None, "projection_input": None}
    taps = {Tap(layer.path, layer.module, "input"): "stream", layer.stream: "output"}
    if layer.attention_output is not None:
        taps[Tap(f"{layer.path} output projection", layer.attention_output, "input")] = "projection_input"

    def keep(tap: Tap, tensor: Tensor) -> None:
        record[taps[tap]] = tensor.clone()

    with ExitStack() as stack:
        stack.enter_context(recording(list(taps), keep))
        if layer.attention is not None:
            handle = layer.attention.register_forward_hook(
                lambda module, args, output: record.update(attention=_copied(output))
            )
            stack.callback(handle.remove)
        if given is not None:  # what is recorded at a tensor comes before its edits
            stack.enter_context(given)
            stack.enter_context(recording([layer.stream], lambda tap, x: record.update(left=x.clone())))
        yield record
        record.setdefault("left", record.get("output"))


def _copied(output: Any) -> Any:
    """The same structure with its first tensor copied: later additions in place must not reach it."""
    return (output[0].clone(), *output[1:]) if isinstance(output, tuple) else output.clone()


@torch.inference_mode()
def prove_entries(likelihood: Likelihood, ids: Tensor) -> Entries:
    """Compares the walk with the plain pass on ``ids`` [batch, pos], layer by layer and bit for bit.

    The baseline must arrive at every layer with the plain pass's stream (it would not where a layer reads
    another one's keys and values); then each layer is left from its two inner entries, and its output
    compared.
    """
    sites = likelihood.sites
    shared = [layer.index for layer in sites.layers if layer.always_runs]
    if shared:
        return Entries(False, reason=f"later layers read the keys and values of layers {shared}")
    plain: dict[int, Tensor] = {}  # layer → its output
    with recording(
        [layer.stream for layer in sites.layers], lambda tap, x: plain.update({len(plain): x.clone()})
    ):
        likelihood.final_hidden(ids)
    inner: dict[Stage, set[int]] = {Stage.ATTENTION: set(), Stage.MLP: set()}
    every = frozenset(range(sites.n_layers))
    walk = Walk(likelihood, Entries(True, every, every), ids)
    try:
        for layer in sites.layers:
            state = walk.advance(layer.index)
            if not torch.equal(state.output, plain[layer.index]):
                return Entries(
                    False, reason=f"entering at layer {layer.index} does not give the plain pass's bits"
                )
            for stage, layers in inner.items():
                if state.attention is not None and _leaves_equal(walk, state, stage):
                    layers.add(layer.index)
    except (
        Exception
    ):  # a model that cannot be entered says so in its own way; the plain pass needs none of this
        return Entries(
            False, reason=f"the model cannot be entered above its first layer:\n{traceback.format_exc()}"
        )
    return Entries(True, frozenset(inner[Stage.ATTENTION]), frozenset(inner[Stage.MLP]))


def _leaves_equal(walk: Walk, state: LayerState, stage: Stage) -> bool:
    """Whether entering the state's layer at ``stage`` gives the layer's output."""
    layer = walk.sites.layers[state.index]
    if stage is Stage.ATTENTION and (layer.heads is None or layer.heads.side != "input"):
        return False
    outputs: list[Tensor] = []
    with ExitStack() as stack:
        walk._enter(stack, state, stage)
        stack.enter_context(bypassing_above(walk.sites, layer.index))
        stack.enter_context(recording([layer.stream], lambda tap, x: outputs.append(x.clone())))
        walk.likelihood.final_hidden(walk.ids)
    return torch.equal(outputs[0], state.output)
