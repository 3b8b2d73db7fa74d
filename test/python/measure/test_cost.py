"""The timed pass: its values are the plain pass's, and its peak sees what was held for a moment only."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch

from sparkablate.manager import AblationManager
from sparkablate.measure.cost import _peak_memory, measured_nll
from sparkablate.measure.likelihood import Likelihood
from tiny_models import tokens

MIB = 1 << 20
CPU = torch.device("cpu")


def test_it_is_the_plain_pass(tiny: Callable[..., Any]) -> None:
    model, ids = tiny("llama"), tokens(batch=3, length=20)
    nll, cost = measured_nll(Likelihood(model, AblationManager(model).sites), ids)
    with torch.inference_mode():
        log_p = model(input_ids=ids, use_cache=False).logits[:, :-1].log_softmax(dim=-1)
    torch.testing.assert_close(nll, -log_p.gather(-1, ids[:, 1:, None])[..., 0])
    assert cost.stack_seconds > 0
    assert cost.head_seconds > 0
    assert cost.peak_bytes > 0


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux sets a process's peak back")
def test_the_peak_sees_what_was_freed_again_and_forgets_what_came_before() -> None:
    def held_for_a_moment(mib: int) -> int:
        with _peak_memory(CPU) as peak:
            torch.ones(mib * MIB, dtype=torch.uint8)
        return peak[0]

    small = held_for_a_moment(8)
    large = held_for_a_moment(256)
    assert large - small > 200 * MIB
    assert large - held_for_a_moment(8) > 200 * MIB
