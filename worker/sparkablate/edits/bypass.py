"""`layer` skip and mean: the layer's output is its input, or that and its constant write."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from typing import Any

from sparkablate.anatomy.sites import LayerSites
from sparkablate.edits.hooks import Edit, stream_of
from sparkablate.edits.positions import cache_of, named_arguments


class Skip:
    """Stands in for the layer's `forward` until it is removed.

    The layer still runs where it must: with a cache, whose length has to advance for it (transformers
    #30508), and where later layers read its keys and values.

    A deepcopy of the layer skips too, with its own weights and no longer than the original; what is pickled
    has the layer's own forward.
    """

    def __init__(self, layer: LayerSites, passed: Callable[[], None]) -> None:
        """`passed()` is called whenever the layer is skipped."""
        #: Stream → what the layer adds to it, of the same shape; None: nothing.
        self.constant: Edit | None = None
        self._module = layer.module
        self._always_runs, self._returns_tuple = layer.always_runs, layer.returns_tuple
        self._passed = passed
        self._is_open = [True]  # copies share the list
        #: What somebody else had set there (accelerate sets `forward` too).
        self._before: Callable[..., Any] | None = self._module.__dict__.get("forward")
        self._module.__dict__["forward"] = self

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if not self._is_open[0]:
            return self._own()(*args, **kwargs)
        self._passed()
        stream = stream_of(args, kwargs)
        if self.constant is not None:
            stream = stream + self.constant(stream)
        rest: tuple[Any, ...] = (None,)
        if self._always_runs or cache_of(named_arguments(self._module, args, kwargs)) is not None:
            output = self._own()(*args, **kwargs)
            # What later layers get besides the stream.
            rest = output[1:] if isinstance(output, tuple) else rest
        return (stream, *rest) if self._returns_tuple else stream

    def remove(self) -> None:
        """Leaves alone what somebody put around it since; there it does nothing any more."""
        self._is_open[0] = False
        if self._module.__dict__.get("forward") is not self:
            return
        if self._before is None:
            del self._module.__dict__["forward"]
        else:
            self._module.__dict__["forward"] = self._before

    def _own(self) -> Callable[..., Any]:
        if self._before is not None:
            return self._before
        forward: Callable[..., Any] = type(self._module).forward.__get__(self._module)
        return forward

    def __deepcopy__(self, memo: dict[int, Any]) -> Skip:
        twin = copy.copy(self)
        # In a copy of the layer, its copy is there already, and empty; this is one of its attributes.
        twin._module = memo.get(id(self._module), self._module)
        twin._before = copy.deepcopy(self._before, memo)
        return twin

    def __copy__(self) -> Skip:
        twin = object.__new__(Skip)
        twin.__dict__.update(self.__dict__)
        return twin

    def __reduce__(self) -> tuple[Any, ...]:
        if self._before is not None:
            return functools.partial, (self._before,)
        return getattr, (self._module, "forward")
