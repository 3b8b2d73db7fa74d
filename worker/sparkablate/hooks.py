"""The hook engine: edits or records tensors of a forward pass, and always cleans up."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import Tensor, nn

from .errors import SparkablateError
from .sites import Tap

#: A tensor of the forward pass → its replacement: same shape and dtype, and never edited in place.
Edit = Callable[[Tensor], Tensor]


@contextmanager
def editing(edits: Sequence[tuple[Tap, Edit]]) -> Iterator[None]:
    """Applies the edits, those at one tap in the order given, until the block ends, however it ends."""
    with ExitStack() as stack:
        for tap, edit in edits:
            stack.callback(_register(tap, edit).remove)
        yield


@contextmanager
def recording(taps: Sequence[Tap], into: Callable[[Tap, Tensor], None]) -> Iterator[None]:
    """Calls `into(tap, tensor)` whenever one of the taps is passed. The tensor is the model's own: some
    layers add to it in place afterwards, so whoever keeps it must copy it."""

    def watch(tap: Tap) -> Edit:
        def edit(tensor: Tensor) -> Tensor:
            into(tap, tensor)
            return tensor

        return edit

    with editing([(tap, watch(tap)) for tap in taps]):
        yield


def stream_of(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    """The hidden states that a module was called with."""
    return args[0] if args else kwargs["hidden_states"]


def _register(tap: Tap, edit: Edit) -> Any:
    def before(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        edited = _checked(tap, edit, stream_of(args, kwargs))
        if args:
            return (edited, *args[1:]), kwargs
        return args, {**kwargs, "hidden_states": edited}

    def after(module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        if isinstance(output, tuple):
            return (_checked(tap, edit, output[0]), *output[1:])
        return _checked(tap, edit, output)

    if tap.side == "input":
        return tap.module.register_forward_pre_hook(before, with_kwargs=True)
    return tap.module.register_forward_hook(after)


def _checked(tap: Tap, edit: Edit, tensor: Tensor) -> Tensor:
    edited = edit(tensor)
    if edited.shape != tensor.shape or edited.dtype != tensor.dtype:
        raise SparkablateError(
            "hook_failed",
            f"the edit at {tap.path} ({tap.side}) returned {list(edited.shape)} {edited.dtype} "
            f"for {list(tensor.shape)} {tensor.dtype}",
        )
    return edited
