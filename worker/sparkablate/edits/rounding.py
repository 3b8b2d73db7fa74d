"""Null conditions: the residual stream moved by one unit in the last place, at random.

What that does to the loss is what rounding alone can do, so an effect of that size says nothing
(``spec.md`` 5, numeric floor).
"""

from __future__ import annotations

import torch
from torch import Tensor

from sparkablate.edits.hooks import Edit

_BITS = {2: torch.int16, 4: torch.int32, 8: torch.int64}


def one_ulp(seed: int) -> Edit:
    """Every value moves to its neighbour of larger or smaller magnitude; zeros stay. The same seed and shape
    give the same moves."""

    def edit(x: Tensor) -> Tensor:
        bits = _BITS[x.element_size()]
        generator = torch.Generator().manual_seed(seed)
        steps = torch.randint(0, 2, x.shape, generator=generator, dtype=bits) * 2 - 1
        moved = (x.contiguous().view(bits) + steps.to(x.device)).view(x.dtype)
        return torch.where((x == 0) | ~torch.isfinite(moved), x, moved)

    return edit
