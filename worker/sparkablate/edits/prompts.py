"""Which positions of a pass a donor stands for: in `generate` those of the prompt."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sparkablate.edits.positions import shape_of
from sparkablate.errors import SparkablateError


class _Pass(threading.local):
    """One thread's pass in hand, if any, and the tokens of its last one that had a donor's shape."""

    running = False
    #: [batch, pos]
    shape = (1, 1)
    before: int | None = 0
    tokens: Tensor | None = None
    prompt: Tensor | None = None


class Span(NamedTuple):
    """A pass of `batch` sequences begins with a donor's positions from `begin` to before `end`."""

    batch: int
    begin: int
    end: int

    def is_whole(self, positions: torch.Size) -> bool:
        """Whether a pass of [batch, pos], or [batch · pos], is at the donor's positions and at no others."""
        return self.begin == 0 and positions.numel() == self.batch * self.end

    def apply(self, function: Callable[[Tensor, Tensor], Tensor], values: Tensor, donor: Tensor) -> Tensor:
        """`function` where the donor is aligned; the rest of `values` as it is."""
        count = self.end - self.begin
        if count == 0:
            return values
        rows = values.reshape(self.batch, -1, values.shape[-1])  # [batch, pos, width]
        given = donor.reshape(self.batch, -1, values.shape[-1])[:, self.begin : self.end]
        edited = torch.cat([function(rows[:, :count], given), rows[:, count:]], dim=1)
        return edited.reshape(values.shape)


class Prompts:
    """Knows of each thread's pass in hand how it goes on from the one that had the donor's shape: with that
    one's cache, or with all of its tokens again."""

    def __init__(self) -> None:
        self._pass = _Pass()

    def begins(self, kwargs: dict[str, Any], before: int | None) -> None:
        """`before`: tokens in the pass's cache that were run under the same edits; None: others are there."""
        here = self._pass
        here.running, here.shape, here.before = True, shape_of(kwargs), before
        here.tokens = kwargs.get("input_ids")

    def ends(self) -> int:
        """How many tokens the pass's cache stands for now."""
        here = self._pass
        seen = (here.before or 0) + here.shape[1]
        here.running, here.before, here.tokens = False, 0, None
        return seen

    def span(self, values: Tensor, donor: torch.Size, label: str) -> Span:
        """The donor's positions with which `values` begins: [batch, pos, width], or [batch · pos, width].

        Raises SparkablateError("hook_failed") where it is not aligned with the pass.
        """
        here = self._pass
        if here.before is None:
            raise SparkablateError(
                "hook_failed",
                f"{label}: the key/value cache holds tokens that were run without these edits, so that its "
                "donor is aligned with none of this pass; start from an empty cache",
            )
        if here.before == 0 and values.shape == donor:
            here.prompt = here.tokens
            return Span(1, 0, donor[:-1].numel())
        batch = here.shape[0]
        positions = donor[:-1].numel() // batch
        alike = here.running and values.dim() == len(donor) and values.shape[-1] == donor[-1]
        if alike and (donor[0] == batch if len(donor) == 3 else donor[0] % batch == 0):
            if here.before:
                end = min(here.before + here.shape[1], positions)
                return Span(batch, min(here.before, positions), end)
            if self._goes_on(positions):
                return Span(batch, 0, positions)
        raise SparkablateError(
            "hook_failed",
            f"{label}: its donor is {list(donor)}, this pass {list(values.shape)}; the first pass must have "
            "the donor's shape",
        )

    def _goes_on(self, positions: int) -> bool:
        """Whether the pass holds the tokens that had the donor's shape, and more behind them."""
        here = self._pass
        if here.prompt is None or here.tokens is None or here.shape[1] <= positions:
            return False
        return torch.equal(here.tokens[:, :positions], here.prompt)
