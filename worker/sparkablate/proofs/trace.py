"""One pass of a model, module by module: what each was given and gave, and what it does with it again."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from sparkablate.anatomy.modules import input_width
from sparkablate.anatomy.sites import Tap, Values
from sparkablate.edits.hooks import Hook, editing, recording

#: Of the largest number that a module gives: what other tokens change at least where it looks at them.
#: Experts round otherwise beside other tokens, by far less.
MIXED = 1e-3


@dataclass(frozen=True)
class Call:
    """A module's one call in a pass."""

    path: str
    module: nn.Module
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    #: Its first argument, where that is a tensor.
    entry: Tensor | None
    output: Tensor
    is_tuple: bool

    @torch.inference_mode()
    def again(self) -> Tensor:
        """What it gives for the same arguments, under whatever hooks are on it now."""
        output = self.module(*self.args, **self.kwargs)
        return output[0] if isinstance(output, tuple) else output

    def gives(self, other: Tensor) -> bool:
        """Whether its output holds the same numbers."""
        flat = self.output.flatten()
        return flat.shape[0] == other.numel() and torch.equal(flat, other.flatten())


class Trace:
    """The modules that one pass went through once, in the order in which they ended."""

    def __init__(self, model: nn.Module, ids: Tensor) -> None:
        """`ids`: [1, pos]."""
        found: dict[str, list[Call]] = {}
        with ExitStack() as stack, torch.inference_mode():
            for path, module in model.named_modules():
                stack.callback(Hook(module, _keeping(path, found), with_kwargs=True).remove)
            self.logits: Tensor = model(input_ids=ids, use_cache=False).logits
        self.calls = {path: calls[0] for path, calls in found.items() if len(calls) == 1}

    def below(self, path: str) -> Iterator[Call]:
        """What ran inside a module, its path relative to it."""
        for name, call in self.calls.items():
            if name.startswith(f"{path}."):
                yield replace(call, path=name.removeprefix(f"{path}."))


def _keeping(path: str, into: dict[str, list[Call]]) -> Callable[..., None]:
    def keep(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        given = output[0] if isinstance(output, tuple) and output else output
        if not isinstance(given, Tensor):
            given = getattr(output, "last_hidden_state", None)
        if not isinstance(given, Tensor):
            return
        first = args[0] if args else kwargs.get("hidden_states")
        entry = first.clone() if isinstance(first, Tensor) else None
        call = Call(path, module, args, kwargs, entry, given.clone(), isinstance(output, tuple))
        into.setdefault(path, []).append(call)

    return keep


def same(left: Tensor | None, right: Tensor | None) -> bool:
    return left is not None and right is not None and left.shape == right.shape and torch.equal(left, right)


def is_linear(module: nn.Module) -> bool:
    return hasattr(module, "weight") and (hasattr(module, "in_features") or hasattr(module, "nx"))


def mixes(call: Call, tokens: int) -> bool:
    """Whether what a module gives at the last of so many positions depends on what it is given before it."""

    def moved(x: Tensor) -> Tensor:
        other = x.clone()
        other.view(-1, tokens, x.shape[-1])[:, :-1] += x.abs().amax()
        return other

    def last(output: Tensor) -> Tensor:
        return output.reshape(-1, tokens, output.shape[-1])[:, -1].float()

    with editing([(Tap(call.path, call.module, "input"), moved)]):
        now = last(call.again())
    then = last(call.output)
    return float((now - then).abs().max()) > MIXED * float(then.abs().max())


def reaches(mixer: Call, values: Values, output: nn.Module, heads: tuple[int, int]) -> bool:
    """Whether silencing the values of each of the key/value heads silences exactly its query heads' slices of
    what the output projection is given. ``heads``: how many query heads, how many key/value heads."""
    n_heads, n_kv = heads
    width = input_width(output)
    d_head = width // n_heads
    try:
        features: Sequence[Tensor] = tuple(values.features(n_kv, d_head))
    except ValueError:
        return False
    size = n_heads // n_kv * d_head
    for group, silenced in enumerate(features):
        expected = torch.zeros(width, dtype=torch.bool)
        expected[group * size : (group + 1) * size] = True
        zero = _silenced_columns(mixer, values.tap, silenced, output)
        if zero is None or not torch.equal(zero, expected):
            return False
    return True


def _silenced_columns(mixer: Call, tap: Tap, features: Tensor, output: nn.Module) -> Tensor | None:
    """Which columns of a projection's input are 0 where these features of the tap are; None where it is not
    called once with such an input."""
    seen: list[Tensor] = []

    def silence(x: Tensor) -> Tensor:
        return x.index_fill(-1, features.to(x.device), 0)

    def keep(_: Tap, x: Tensor) -> None:
        seen.append(x)

    with editing([(tap, silence)]), recording([Tap("", output, "input")], keep):
        mixer.again()
    width = input_width(output)
    if len(seen) != 1 or seen[0].shape[-1] != width:
        return None
    return (seen[0].reshape(-1, width) == 0).all(dim=0).cpu()
