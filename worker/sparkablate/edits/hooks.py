"""The hook engine: edits or records tensors of a forward pass, and always cleans up."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from typing import Any

from torch import Tensor, nn

from sparkablate.anatomy.sites import Tap
from sparkablate.edits.eager import eagerly
from sparkablate.errors import SparkablateError

#: A tensor of the forward pass → its replacement: same shape and dtype, and never edited in place.
Edit = Callable[[Tensor], Tensor]


class Hook:
    """A function on a module until it is removed.

    A deepcopy of the module shares the hook: it acts on the copy too, and no longer than on the original.
    What is pickled holds a built-in that does nothing in its place, so that loading needs nothing of ours.
    """

    def __init__(
        self, module: nn.Module, function: Callable[..., Any], before: bool = False, **options: bool
    ) -> None:
        """`function`: as torch wants it, of (module, args, kwargs) if `before` the module's forward."""
        self._module, self._before = module, before
        self._function: Callable[..., Any] | None = function
        if before:
            self._handle = module.register_forward_pre_hook(self, with_kwargs=True)
        else:
            self._handle = module.register_forward_hook(self, **options)

    def __call__(self, *arguments: Any) -> Any:
        return None if self._function is None else self._function(*arguments)

    @property
    def in_place(self) -> bool:
        """False where somebody else has taken it off."""
        hooks = self._module._forward_pre_hooks if self._before else self._module._forward_hooks
        return self._handle.id in hooks

    def remove(self) -> None:
        self._function = None
        self._handle.remove()

    def __deepcopy__(self, memo: dict[int, Any]) -> Hook:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return getattr, (nullcontext(), "__exit__")


@contextmanager
def editing(edits: Sequence[tuple[Tap, Edit]]) -> Iterator[None]:
    """Applies the edits, those at one tap in the order given, until the block ends, however it ends."""
    with ExitStack() as stack:
        stack.enter_context(eagerly())
        for tap, edit in edits:
            stack.callback(on_tap(tap, edit).remove)
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


def on_tap(tap: Tap, edit: Edit) -> Hook:
    """Until it is removed, the tap's tensor is what `edit` makes of it, of the same shape and dtype."""
    return passing(tap, lambda tensor: checked(tap, edit, tensor))


def passing(tap: Tap, function: Callable[[Any], Any]) -> Hook:
    """Until it is removed, what passes the tap goes through `function`."""

    def before(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if not args and "hidden_states" not in kwargs:
            raise SparkablateError(
                "hook_failed",
                f"{tap.path} is called with {', '.join(kwargs) or 'nothing'}, and without an input to edit",
            )
        edited = function(stream_of(args, kwargs))
        if args:
            return (edited, *args[1:]), kwargs
        return args, {**kwargs, "hidden_states": edited}

    def after(module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        if isinstance(output, tuple):
            return (function(output[0]), *output[1:])
        return function(output)

    if tap.side == "input":
        return Hook(tap.module, before, before=True)
    return Hook(tap.module, after)


def checked(tap: Tap, edit: Edit, tensor: Tensor) -> Tensor:
    """The edited tensor. Raises SparkablateError("hook_failed") where its shape or dtype is another."""
    if not isinstance(tensor, Tensor):
        raise SparkablateError(
            "hook_failed", f"the {tap.side} of {tap.path} is a {type(tensor).__name__}, not a tensor"
        )
    edited = edit(tensor)
    if edited.shape != tensor.shape or edited.dtype != tensor.dtype:
        raise SparkablateError(
            "hook_failed",
            f"the edit at {tap.path} ({tap.side}) returned {list(edited.shape)} {edited.dtype} "
            f"for {list(tensor.shape)} {tensor.dtype}",
        )
    return edited
