"""Blocks are drawn as the controller draws them."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sparkablate.errors import SparkablateError
from sparkablate.study.sampling import Block, Shape, Text, Wanted, choose_blocks, shuffled

CONTRACT = json.loads((Path(__file__).parents[2] / "contract" / "sampling.json").read_text())


def test_orders() -> None:
    for case in CONTRACT["orders"]:
        assert shuffled(case["total"], case["seed"]) == case["order"]


@pytest.mark.parametrize("case", CONTRACT["choices"], ids=lambda case: f"seed {case['seed']}")
def test_choices(case: dict[str, Any]) -> None:
    at = np.arange(case["tokens"], dtype=np.int64)
    ids = (at * at % 7919 + at % 100).astype(np.int32)
    shape = Shape(case["seq_len"], case["bos"])
    wanted = Wanted(case["wanted"], case["calibration"], case["batch_size"], case["seed"], case["resample"])
    found = choose_blocks(Text("text.txt", ids), None, shape, wanted)

    def digest(blocks: list[Block]) -> str:
        return hashlib.sha256("\n".join(block.sha256 for block in blocks).encode()).hexdigest()

    kinds = (found.evaluation, found.calibration, found.donors)
    listed = [case["evaluation"], case["calibrated"], case["donors"]]
    assert [[block.index for block in blocks] for blocks in kinds] == listed
    assert list(map(digest, kinds)) == case["digests"]
    assert found.notices == case["notices"]


def test_a_text_that_holds_no_block() -> None:
    with pytest.raises(SparkablateError, match=r"has 5 tokens, and a block of seq_len 8 takes 8"):
        choose_blocks(Text("t", np.arange(5)), None, Shape(8, None), Wanted(4, 0, 4, 0, False))
