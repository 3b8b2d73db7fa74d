"""One pass up with gradients and one down: what passes chosen taps, and what the loss's gradient is there.

The weights are frozen, so that only activations are kept. Where those of all layers do not fit the memory,
the pass is made a few layers at a time, from the top: the walk's way of entering a model gives each span its
stream, and what it kept is freed before the span below is run.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from sparkablate.anatomy.sites import Tap
from sparkablate.edits.eager import eagerly
from sparkablate.edits.hooks import Hook, passing
from sparkablate.errors import SparkablateError
from sparkablate.loading import memory
from sparkablate.measure.failures import is_out_of_memory
from sparkablate.measure.given import Given, applied
from sparkablate.measure.likelihood import Likelihood
from sparkablate.measure.loss import Loss
from sparkablate.measure.passing import Kept, Passed, Watched
from sparkablate.measure.walk import Entries, bypassing_above, bypassing_below

#: Of the memory that is free, what activations may take: logits and gradients need some too.
SHARE = 0.5


@dataclass
class Room:
    """How many layers' activations are kept at a time, at most; None: those of all. It shrinks as passes
    show that more do not fit. `free`: bytes of memory; None: what is free when it is asked."""

    layers: int | None = None
    free: int | None = None

    def bytes_for(self, device: torch.device, can_shrink: bool) -> int:
        """What a span of layers may keep; one that cannot be made smaller, all that is free."""
        free = memory.budget(device).usable if self.free is None else self.free
        return int(free * SHARE) if can_shrink else free


_NO_ROOM = "a pass with gradients keeps more activations than there is memory free"


class _TooLarge(Exception):
    """`fit`: how many layers' activations there is room for; 0: not for what is least."""

    def __init__(self, fit: int) -> None:
        self.fit = fit


class Backward:
    """Passes of one model under given edits, over `ids` [batch, pos]."""

    def __init__(
        self, likelihood: Likelihood, entries: Entries, given: Given, ids: Tensor, room: Room
    ) -> None:
        self._likelihood, self._given, self._ids, self._room = likelihood, given, ids, room
        self._sites = likelihood.sites
        self._divides = entries.walkable

    def run(
        self, loss: Loss, watched: Sequence[Watched], begin: Callable[[], Callable[[Passed], None]]
    ) -> None:
        """Gives all that passes the watched taps, the highest first. `begin()` makes what it is given to; it
        is called again where the pass has to be begun anew.

        Raises SparkablateError: "out_of_memory" where not even one layer's activations fit, "hook_failed"
        where a tap is not passed, or no gradient comes to it.
        """
        if not watched:
            return
        with _frozen(self._likelihood.model), torch.enable_grad():
            while True:
                try:
                    self._attempt(loss, watched, begin())
                    return
                except _TooLarge as error:
                    if error.fit == 0:
                        raise SparkablateError("out_of_memory", _NO_ROOM) from None
                    self._room.layers = error.fit
                except Exception as error:
                    size = self._room.layers or self._sites.n_layers
                    if not (is_out_of_memory(error) and self._divides and size > 1):
                        raise _refused(error, type(self._likelihood.model).__name__) from None
                    self._room.layers = size // 2
                if torch.cuda.is_available():
                    torch.cuda.empty_cache()

    def _attempt(self, loss: Loss, watched: Sequence[Watched], use: Callable[[Passed], None]) -> None:
        spans = self._spans(min(one.layer for one in watched))
        streams = self._streams([low for low, _ in spans if low > 0]) if len(spans) > 1 else {}
        gradient: Tensor | None = None
        for low, high in spans:
            here = [one for one in watched if max(one.layer, 0) in range(low, high + 1)]
            span = _Span(low, high, streams.pop(low, None), here)
            gradient = self._pass(span, loss, gradient, use)

    def _spans(self, lowest: int) -> list[tuple[int, int]]:
        """First and last layer of each, from the top down to the one that holds layer `lowest`."""
        n_layers = self._sites.n_layers
        size = (self._room.layers if self._divides else None) or n_layers
        if size >= n_layers:
            return [(0, n_layers - 1)]
        highs = range(n_layers - 1, max(lowest, 0) - 1, -size)
        return [(max(high - size + 1, 0), high) for high in highs]

    def _streams(self, layers: Sequence[int]) -> dict[int, Tensor]:
        """The streams that enter these layers  # [batch, pos, d_model]."""
        found: dict[int, Tensor] = {}

        def keep(layer: int, stream: Tensor) -> Tensor:
            found[layer] = stream.clone()
            return stream

        with ExitStack() as stack, torch.no_grad():
            stack.enter_context(eagerly())
            for index in layers:
                _hook(stack, self._input(index), partial(keep, index))
            stack.enter_context(applied(self._given.manager, self._given.specs))
            self._forward()
        return found

    def _pass(
        self, span: _Span, loss: Loss, gradient: Tensor | None, use: Callable[[Passed], None]
    ) -> Tensor | None:
        """d loss / d stream where it leaves the span → the same where it enters it."""
        is_top = span.high == self._sites.n_layers - 1
        kept = Kept(len(self._ids), use)
        with ExitStack() as stack:
            stack.enter_context(eagerly())
            kept.count = stack.enter_context(self._counting(span))
            if span.stream is not None:
                span.stream.requires_grad_()
                stack.enter_context(bypassing_below(self._sites, span.low, span.stream))
            for one in span.watched:
                if one.stream:
                    _hook(stack, self._input(one.layer), partial(kept.enters, one))
                if one.before:
                    _hook(stack, one.tap, partial(kept.comes, one))
            # An edit of the embedding is one with those of all layers.
            whole = span.low == 0 and self._given.edits_embedding
            if not whole:
                stack.enter_context(bypassing_above(self._sites, span.high))
            top = self._sites.n_layers - 1 if whole else span.high
            stack.enter_context(self._given.edits(span.low, top))
            for one in span.watched:
                _hook(stack, one.tap, partial(kept.passes, one))
            if not is_top:
                _hook(stack, self._sites.layers[span.high].stream, kept.leaves)
            hidden = self._forward()
        left = hidden if is_top else kept.left
        kept.require(span.watched)
        assert left is not None
        if left.requires_grad:
            torch.autograd.backward(left, loss.gradient(self._likelihood, left) if is_top else gradient)
        if not self._given.specs:
            kept.require_gradients(span.watched)
        return None if span.stream is None else span.stream.grad

    def _forward(self) -> Tensor:
        hidden: Tensor = self._sites.stack(input_ids=self._ids, use_cache=False)[0]
        return hidden

    def _input(self, layer: int) -> Tap:
        here = self._sites.layers[layer]
        return Tap(here.path, here.module, "input")

    @contextmanager
    def _counting(self, span: _Span) -> Iterator[Callable[[Tensor], Tensor]]:
        """Counts what autograd keeps, and what the function is told that this gives: raises `_TooLarge` in
        the pass as soon as that is more than there is room for."""
        can_shrink = self._divides and span.low < span.high
        room = self._room.bytes_for(self._ids.device, can_shrink)
        seen = {parameter.untyped_storage().data_ptr() for parameter in self._likelihood.model.parameters()}
        total, layer = 0, span.low

        def enters(index: int, stream: Tensor) -> Tensor:
            nonlocal layer
            layer = index
            return stream

        def keep(tensor: Tensor) -> Tensor:
            nonlocal total
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in seen:
                seen.add(storage.data_ptr())
                total += storage.nbytes()
                if total > room:
                    raise _TooLarge(max(layer - span.low, 1) if can_shrink else 0)
            return tensor

        with ExitStack() as stack:
            for index in range(span.low, span.high + 1):
                _hook(stack, self._input(index), partial(enters, index))
            stack.enter_context(torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor))
            yield keep


@dataclass(frozen=True)
class _Span:
    """Layers `low` to `high`, entered with `stream` [batch, pos, d_model]; None: with the tokens."""

    low: int
    high: int
    stream: Tensor | None
    watched: Sequence[Watched]


def _hook(stack: ExitStack, tap: Tap, function: Callable[[Tensor], Tensor]) -> None:
    hook: Hook = passing(tap, function)
    stack.callback(hook.remove)


def _refused(error: Exception, model: str) -> SparkablateError:
    """Something in a pass with gradients that does not fail without. Call it in an except block."""
    if isinstance(error, SparkablateError):
        return error
    words = f"{type(error).__name__}: {error}"
    if is_out_of_memory(error):
        return SparkablateError("out_of_memory", f"no memory for a pass with gradients: {words}")
    return SparkablateError(
        "hook_failed",
        f"{model} has no backward pass, so that nothing has a first-order effect: {words}",
        traceback.format_exc(),
    )


@contextmanager
def _frozen(model: Any) -> Iterator[None]:
    """No parameter wants a gradient."""
    wanting = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for parameter in wanting:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in wanting:
            parameter.requires_grad_()
