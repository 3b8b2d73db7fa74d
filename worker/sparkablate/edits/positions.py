"""Which tokens are a sequence's first: `positions: not_first` leaves those alone."""

from __future__ import annotations

import inspect
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from sparkablate.edits.hooks import Hook
from sparkablate.errors import SparkablateError

#: What a key/value cache is called in the layers and stacks of the architectures we know.
CACHE_ARGUMENTS = ("cache", "past_key_values", "layer_past", "cache_params")


class _Pass(threading.local):
    """One thread's pass in hand: where sequences begin [batch, pos], and how many watched calls it is in."""

    first: Tensor | None = None
    inside: int = 0


class FirstTokens:
    """Watches a model's inputs and knows, for the pass in hand of each thread, where each sequence begins.

    With a cache the tokens of the pass stand behind those in the cache; with a padding mask [batch, pos]
    a sequence begins at its first unmasked token.
    """

    def __init__(self) -> None:
        self._pass = _Pass()

    @contextmanager
    def watching(self, *modules: nn.Module) -> Iterator[FirstTokens]:
        """`modules`: the model and its stack, whichever is called. The outermost call of a pass counts: a
        multimodal wrapper embeds the tokens itself and hands masks of its own making to the stack."""
        with ExitStack() as stack:
            for module in dict.fromkeys(modules):
                stack.callback(Hook(module, self._before, before=True).remove)
                stack.callback(Hook(module, self._after, always_call=True).remove)
            yield self

    def at(self, tensor: Tensor) -> Tensor:
        """True at first tokens, broadcastable to `tensor`: [batch, pos, 1], or [batch · pos, 1]."""
        if self._pass.first is None or not self._pass.inside:
            raise SparkablateError(
                "hook_failed",
                "positions 'not_first': a layer was run outside the model's own forward pass (as gradient "
                "checkpointing does)",
            )
        return first_in(self._pass.first, tensor)

    def _after(self, *_: Any) -> None:
        self._pass.inside = max(0, self._pass.inside - 1)  # watched since the middle of a pass: never entered

    def _before(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._pass.inside += 1
        if self._pass.inside > 1:
            return
        kwargs = named_arguments(module, args, kwargs)
        tokens = kwargs.get("input_ids")
        if tokens is None:
            tokens = kwargs["inputs_embeds"][..., 0]
        batch, length = tokens.shape
        past = tokens_before(cache_of(kwargs))
        index = past + torch.arange(length, device=tokens.device)  # [pos]
        begins = torch.zeros(batch, 1, dtype=torch.long, device=tokens.device)
        mask = kwargs.get("attention_mask")
        if mask is not None:
            if not isinstance(mask, Tensor) or mask.dim() != 2:
                raise SparkablateError(
                    "hook_failed",
                    "positions 'not_first' needs an attention mask of shape [batch, pos], or none",
                )
            begins = mask.to(tokens.device).ne(0).int().argmax(dim=1, keepdim=True)  # [batch, 1]
        self._pass.first = index[None, :] == begins  # [batch, pos]


class BlockStarts(FirstTokens):
    """Of blocks without padding, whose sequences begin where the blocks do: known outside a pass too."""

    def __init__(self, batch: int, length: int) -> None:
        super().__init__()
        self._first = (torch.arange(length) == 0).expand(batch, length)

    def at(self, tensor: Tensor) -> Tensor:
        return first_in(self._first, tensor)


def first_in(first: Tensor, tensor: Tensor) -> Tensor:
    """`first` [batch, pos], true at first tokens, as it is broadcast to a `tensor` of the same pass."""
    first = first.to(tensor.device)
    if tensor.dim() == 2:  # OPT's MLP sees [batch · pos, width]
        return first.reshape(-1, 1)
    if tensor.shape[0] == 1 and first.shape[0] > 1:  # learned positions, one row for all sequences
        if not bool((first == first[:1]).all()):
            raise SparkablateError(
                "hook_failed",
                "positions 'not_first' with padding: give the model position_ids [batch, pos]",
            )
        first = first[:1]
    return first[..., None]


def named_arguments(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """A call's arguments by name, those given by position too."""
    if not args:
        return kwargs
    names = list(inspect.signature(type(module).forward).parameters)[1:]  # without self
    return {**dict(zip(names, args, strict=False)), **kwargs}


def tokens_before(cache: Any) -> int:
    """How many tokens a cache stands for. One of recurrent states alone does not count them, nor does one
    that is a tuple; then 1 says that there were some."""
    if cache is None:
        return 0
    if not hasattr(cache, "get_seq_length"):
        return int(bool(cache))
    if not counts_tokens(cache):
        return int(cache.has_previous_state())
    # MiniMax's linear layers keep their state elsewhere, and layer 0 may be one of them.
    counting = (layer for layer in getattr(cache, "layers", ()) if hasattr(layer, "get_seq_length"))
    length = int(cache.get_seq_length())
    return length or max((int(layer.get_seq_length()) for layer in counting), default=0)


def counts_tokens(cache: Any) -> bool:
    """Whether it knows how many tokens it stands for."""
    if not hasattr(cache, "get_seq_length"):
        return False
    try:
        cache.get_seq_length()
    except ValueError:  # transformers' word for recurrent states alone
        return False
    return True


def shape_of(kwargs: dict[str, Any]) -> tuple[int, int]:
    """[batch, pos] of a call's tokens, or of their embeddings."""
    tokens = kwargs.get("input_ids")
    batch, length = (kwargs["inputs_embeds"] if tokens is None else tokens).shape[:2]
    return batch, length


def cache_of(kwargs: dict[str, Any]) -> Any:
    """The key/value cache among a call's arguments, or None."""
    return next((kwargs[name] for name in CACHE_ARGUMENTS if kwargs.get(name) is not None), None)
