"""One ulp, everywhere, at random: exactly the neighbouring numbers, and the same ones every time."""

from __future__ import annotations

import pytest
import torch

from sparkablate.edits.rounding import one_ulp


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_every_value_moves_to_a_neighbour(dtype: torch.dtype) -> None:
    x = torch.randn(4, 16, 8, generator=torch.Generator().manual_seed(1)).to(dtype)
    x[0, 0, :2] = 0
    kept = x.clone()
    moved = one_ulp(3)(x)
    assert torch.equal(x, kept)
    assert torch.equal(moved[0, 0, :2], x[0, 0, :2])
    rest = x != 0
    step = (moved.double() - x.double()).abs()[rest]
    # One unit in the last place is between 2^-(bits) and 2^-(bits - 1) of the value.
    ulp = torch.finfo(dtype).eps * x.double().abs()[rest]
    assert (step > 0).all()
    assert (step <= ulp).all()
    assert ((moved > x) & rest).any()
    assert ((moved < x) & rest).any()


def test_the_seed_decides() -> None:
    x = torch.randn(2, 8, 8)
    assert torch.equal(one_ulp(1)(x), one_ulp(1)(x))
    assert not torch.equal(one_ulp(1)(x), one_ulp(2)(x))


def test_what_would_become_infinite_stays() -> None:
    x = torch.full((64,), torch.finfo(torch.float16).max, dtype=torch.float16)
    assert torch.isfinite(one_ulp(0)(x)).all()
