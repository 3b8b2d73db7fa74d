"""What of a pass with gradients is kept for the way down, and given out as the gradients arrive."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from torch import Tensor

from sparkablate.anatomy.sites import Tap
from sparkablate.edits.changes import Place, place_of
from sparkablate.errors import SparkablateError


@dataclass(frozen=True)
class Watched:
    """A tap whose gradient is wanted. `layer`: the one that it is in, −1: before layer 0."""

    tap: Tap
    layer: int
    #: Whether the tensor from before the given edits is wanted too.
    before: bool
    #: Whether the layer's input is wanted too.
    stream: bool


@dataclass(frozen=True)
class Passed:
    """A tensor [batch, pos, width] or [batch · pos, width] that passed a tap, detached, and d loss / d value.

    `before`: as it came; `value`: with what given edits made of it, one row a block also where the model has
    one for all; `stream`: its layer's input, where that was wanted.
    """

    place: Place
    before: Tensor
    value: Tensor
    gradient: Tensor
    stream: Tensor | None


@dataclass
class Kept:
    """What one span's pass has left for the way down."""

    batch: int
    use: Callable[[Passed], None]
    #: Told each tensor that it keeps.
    count: Callable[[Tensor], Tensor] = lambda tensor: tensor
    left: Tensor | None = None
    _before: dict[Place, Tensor] = field(default_factory=dict)
    _streams: dict[int, Tensor] = field(default_factory=dict)
    _passed: set[Place] = field(default_factory=set)
    _reached: set[Place] = field(default_factory=set)

    def enters(self, one: Watched, stream: Tensor) -> Tensor:
        self._streams[one.layer] = stream.detach().clone()
        return stream

    def comes(self, one: Watched, tensor: Tensor) -> Tensor:
        self._before[place_of(one.tap)] = tensor.detach().clone()
        return tensor

    def leaves(self, stream: Tensor) -> Tensor:
        """What lies above computes without gradients, where it computes at all."""
        self.left = stream
        return stream.detach()

    def passes(self, one: Watched, tensor: Tensor) -> Tensor:
        place = place_of(one.tap)
        self._passed.add(place)
        if tensor.dim() == 3 and tensor.shape[0] == 1 < self.batch:
            tensor = tensor.expand(self.batch, -1, -1)  # positions that all blocks share
        # A copy of its own: the gradient is of what this tap passes on, not of the tensor's other uses.
        node = tensor.clone() if tensor.requires_grad else tensor.detach().clone().requires_grad_()
        value = node.detach()
        self.count(value)
        before, stream = self._before.pop(place, value), self._streams.get(one.layer)

        def arrives(gradient: Tensor) -> None:
            self._reached.add(place)
            self.use(Passed(place, before, value, gradient, stream))

        node.register_hook(arrives)
        return node.clone()  # some layers add to it in place afterwards

    def require(self, watched: Sequence[Watched]) -> None:
        for one in watched:
            if place_of(one.tap) not in self._passed:
                raise SparkablateError("hook_failed", f"the model ran, but never passed {one.tap.path}")

    def require_gradients(self, watched: Sequence[Watched]) -> None:
        for one in watched:
            if place_of(one.tap) not in self._reached:
                raise SparkablateError(
                    "hook_failed",
                    f"no gradient comes to {one.tap.path}: part of the model computes without one, so that "
                    "nothing has a first-order effect there",
                )
