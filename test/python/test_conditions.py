"""Ids, order and overlap of 400 conditions, as 0.1.0 gave them: test/contract/README.md."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sparkablate.anatomy.architectures import locate
from sparkablate.catalog import PART_COUNTS
from sparkablate.errors import SparkablateError
from sparkablate.specs import canonical, check_overlaps, condition_id, from_wire, spec_id

CONTRACT = json.loads((Path(__file__).parents[1] / "contract" / "conditions.json").read_text())


def test_the_tiny_model_has_the_layers_that_the_file_speaks_of(tiny: Any) -> None:
    layers = [tuple(layer[name] for name in PART_COUNTS) for layer in CONTRACT["layers"]]
    assert [
        tuple(getattr(layer, name) for name in PART_COUNTS) for layer in locate(tiny("llama")).layers
    ] == layers


@pytest.mark.parametrize("case", CONTRACT["cases"], ids=lambda case: case["id"])
def test_conditions(case: dict[str, Any], tiny: Any) -> None:
    sites = locate(tiny("llama"))
    specs = [from_wire(wire) for wire in case["interventions"]]
    if case["overlap"]:  # and so it has no id
        for order in (specs, specs[::-1]):
            with pytest.raises(SparkablateError) as caught:
                check_overlaps(order, sites)
            assert caught.value.code == "conditions_overlap"
        return
    check_overlaps(specs, sites)
    assert [spec_id(spec) for spec in canonical(specs)] == case["order"]
    assert condition_id(specs[::-1]) == case["id"]
