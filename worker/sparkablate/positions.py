"""Which tokens are a sequence's first: `positions: not_first` leaves those alone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from .errors import SparkablateError
from .sites import SiteMap

#: What a key/value cache is called in the layers and stacks of the architectures we know.
CACHE_ARGUMENTS = ("cache", "past_key_values", "layer_past", "cache_params")


class FirstTokens:
    """Watches the stack's inputs and knows, for the pass in hand, where each sequence begins.

    With a cache the tokens of the pass stand behind those in the cache; with a padding mask [batch, pos]
    a sequence begins at its first unmasked token.
    """

    def __init__(self) -> None:
        self._first: Tensor | None = None

    @contextmanager
    def watching(self, sites: SiteMap) -> Iterator[FirstTokens]:
        handle = sites.stack.register_forward_pre_hook(self._before, with_kwargs=True)
        try:
            yield self
        finally:
            handle.remove()

    def at(self, tensor: Tensor) -> Tensor:
        """True at first tokens, broadcastable to `tensor` [..., width]: [batch, pos, 1] or [tokens, 1]."""
        if self._first is None:
            raise SparkablateError(
                "hook_failed", "positions 'not_first': the model's own forward pass was not run"
            )
        first = self._first.to(tensor.device)  # [batch, pos]
        if first.shape == tensor.shape[:-1] or tensor.shape[0] == 1:  # [1, pos, d]: learned positions
            return first[..., None]
        # OPT's MLP and some experts see [batch · pos, width]
        return first.reshape(tensor.shape[:-1])[..., None]

    def _before(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        tokens = args[0] if args else kwargs.get("input_ids")
        if tokens is None:
            tokens = kwargs["inputs_embeds"][..., 0]
        batch, length = tokens.shape
        cache = cache_of(kwargs)
        past = 0 if cache is None else int(cache.get_seq_length())
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
        self._first = index[None, :] == begins  # [batch, pos]


def cache_of(kwargs: dict[str, Any]) -> Any:
    """The key/value cache among a call's arguments, or None."""
    return next((kwargs[name] for name in CACHE_ARGUMENTS if kwargs.get(name) is not None), None)
