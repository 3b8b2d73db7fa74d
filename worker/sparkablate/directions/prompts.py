"""Prompts of different lengths in one batch, each read at its own end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

#: Prompts that go through the model together.
BATCH_PROMPTS = 16


@dataclass(frozen=True)
class Batch:
    """`indices`: which prompts; `ids` [prompts, longest]; `lengths` [prompts].

    Shorter prompts are filled up at their *end*, with their last token again: a causal model computes the
    same before it, whatever follows, and needs no mask.
    """

    indices: list[int]
    ids: Tensor
    lengths: Tensor

    def at_end(self, x: Tensor, position: int = 1) -> Tensor:
        """x [prompts, longest, width] at each prompt's token, counted from its end: 1 is the last.
        Returns [prompts, width]."""
        rows = torch.arange(len(self.indices), device=x.device)
        return x[rows, (self.lengths - position).to(x.device)]


def batches(prompts: Sequence[Sequence[int]]) -> list[Batch]:
    """All prompts, those of similar length together."""
    order = sorted(range(len(prompts)), key=lambda index: len(prompts[index]))
    made = []
    for begin in range(0, len(order), BATCH_PROMPTS):
        indices = order[begin : begin + BATCH_PROMPTS]
        rows = [list(prompts[index]) for index in indices]
        longest = len(rows[-1])
        ids = torch.tensor([row + row[-1:] * (longest - len(row)) for row in rows])
        made.append(Batch(indices, ids, torch.tensor([len(row) for row in rows])))
    return made
