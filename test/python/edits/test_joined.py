"""A condition on top of given edits: which stand together, and what they are, as in TypeScript
(test/contract/given.json)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sparkablate.anatomy.architectures import locate
from sparkablate.edits.given import joined
from sparkablate.errors import SparkablateError
from sparkablate.specs import check_overlaps, condition_id, from_wire

CASES = json.loads((Path(__file__).parents[2] / "contract" / "given.json").read_text())["cases"]


@pytest.mark.parametrize("case", CASES, ids=range(len(CASES)))
def test_a_condition_on_top_of_given_edits(case: dict[str, Any], tiny: Any) -> None:
    sites = locate(tiny("llama"))
    given, condition = (list(map(from_wire, case[key])) for key in ("given", "condition"))
    if "refusal" in case:
        with pytest.raises(SparkablateError) as caught:
            joined(given, condition, sites)
        assert caught.value.code == "conditions_overlap"
        # Python's argument has no section; why two directions do not meet is said in each language's words.
        wanted = case["refusal"].replace("ablation.given", "given")
        if "lies in" not in wanted and "a part of it" not in wanted:
            wanted = wanted.partition(" of given: ")[0]
        assert caught.value.message.startswith(wanted)
        return
    found = joined(given, condition, sites)
    assert condition_id(found.specs) == case["id"]
    check_overlaps(found.specs, sites)
    assert joined((), condition, sites).replaced == ()
