"""Ids read back, as both languages read them: test/contract/README.md."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch

from sparkablate import AblationManager, AblationSpec, Condition, DirectionSpec, parse_condition
from sparkablate.catalog import MODED_SITES, MODES, OPERATIONS, POSITIONS, SITES
from sparkablate.errors import SparkablateError
from sparkablate.specs import Spec, canonical, condition_id, from_wire, spec_id

HERE = Path(__file__).parents[1] / "contract"
CONTRACT = json.loads((HERE / "condition-ids.json").read_text())
CASES = json.loads((HERE / "conditions.json").read_text())["cases"]


@pytest.mark.parametrize("case", CONTRACT["read"], ids=lambda case: case["text"])
def test_what_is_typed(case: dict[str, Any]) -> None:
    assert str(parse_condition(case["text"], case["n_layers"], CONTRACT["directions"])) == case["id"]


@pytest.mark.parametrize("case", CONTRACT["refused"], ids=lambda case: case["text"])
def test_what_is_refused(case: dict[str, Any]) -> None:
    with pytest.raises(SparkablateError) as caught:
        parse_condition(case["text"], case["n_layers"], CONTRACT["directions"])
    assert (caught.value.code, caught.value.message) == (case["code"], case["message"])


def read(text: str, directions: list[str]) -> list[Spec]:
    found = parse_condition(text, None, directions)
    return list(found) if isinstance(found, Condition) else [found]


@pytest.mark.parametrize(
    "case",
    [case for case in CASES if not case["overlap"] and not case["id"].startswith("joint[")],
    ids=lambda case: case["id"],
)
def test_what_is_printed_is_read_back(case: dict[str, Any]) -> None:
    specs = canonical(map(from_wire, case["interventions"]))
    vectors = [spec.sha256 for spec in specs if isinstance(spec, DirectionSpec)]
    assert read(case["id"], vectors) == specs


def test_whatever_is_printed_is_read_back() -> None:
    draw = random.Random(20_261_130)
    for _ in range(2000):
        specs = canonical(_any_specs(draw))
        text = " + ".join(map(spec_id, specs))
        assert read(text, SHAS) == specs
        assert str(Condition(specs)) == condition_id(specs)


SHAS = [str(digit) * 64 for digit in range(4)]


def _some(draw: random.Random, limit: int) -> tuple[int, ...]:
    return tuple(sorted({draw.randrange(limit) for _ in range(draw.randint(1, 5))}))


def _any_specs(draw: random.Random) -> list[Spec]:
    """One edit a layer, so that none overlaps, and directions."""
    specs: list[Spec] = []
    for layer in _some(draw, 90):
        kind = draw.choice([*MODED_SITES, "layer"])
        if kind == "layer":
            specs.append(AblationSpec(kind, layer))
            continue
        parts = SITES[kind].parts
        listed: dict[str, Any] = {} if parts is None else {parts.field: _some(draw, 5000)}
        mode, positions = draw.choice(list(MODES)), draw.choice(POSITIONS)
        specs.append(AblationSpec(kind, layer, mode=mode, positions=positions, **listed))
    for sha256 in SHAS[: draw.randrange(3)]:
        op = draw.choice(list(OPERATIONS))
        coefficient = draw.choice(
            [1, -1.0, 0.1 + 0.2, 1e-7, 1e6, draw.random() * 10 ** draw.randint(-12, 24)]
        )
        layers = draw.choice(["all", _some(draw, 90)])
        at, positions = draw.choice(OPERATIONS[op]), draw.choice(POSITIONS)
        specs.append(
            DirectionSpec(
                op, layers=layers, at=at, coefficient=coefficient, positions=positions, sha256=sha256
            )
        )
    return specs


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0.00001, "0.00001"),
        (1e-6, "0.000001"),
        (1e-7, "1e-7"),
        (1.5e-9, "1.5e-9"),
        (-0.25, "-0.25"),
        (123456.0, "123456"),
        (1e20, "100000000000000000000"),
        (1e21, "1e+21"),
        (1.25e25, "1.25e+25"),
        (10**17, "100000000000000000"),
        (0.1 + 0.2, "0.30000000000000004"),
        (-0.0, "0"),
    ],
)
def test_numbers_are_printed_as_javascript_prints_them(value: float, shown: str) -> None:
    """Each `shown` is what node prints for String(value)."""
    spec = DirectionSpec("add", coefficient=value, sha256="0" * 64)
    assert spec_id(spec) == f"dir[00000000].add(coefficient={shown})"


def test_applied_takes_ids(tiny: Any) -> None:
    model = tiny("llama")
    manager = AblationManager(model)
    ids = torch.arange(6).reshape(1, 6)

    def logits(specs: Any) -> torch.Tensor:
        with manager.applied(specs), torch.no_grad():
            return model(ids).logits

    n_layers = manager.sites.n_layers
    by_hand = [AblationSpec("head", 0, heads=(1, 2)), AblationSpec("mlp", n_layers - 1)]
    assert torch.equal(logits("L0.head[1,2].zero + L-1.mlp.zero"), logits(by_hand))
    assert torch.equal(logits(["L0.head[1..2].zero", "L-1.mlp.zero"]), logits(by_hand))
    assert torch.equal(logits(["L0.head[1..2].zero", by_hand[1]]), logits(by_hand))
    assert torch.equal(logits(parse_condition("L-1.mlp.zero", n_layers)), logits(by_hand[1]))
    skipped = [AblationSpec("layer", layer) for layer in range(n_layers)]
    assert torch.equal(logits(f"L0..{n_layers - 1}.layer.skip"), logits(skipped))


def test_applied_finds_a_direction_by_the_first_digits_of_its_digest(tiny: Any) -> None:
    model = tiny("llama")
    manager = AblationManager(model)
    vector = torch.nn.functional.normalize(torch.arange(1.0, manager.sites.d_model + 1), dim=0)
    spec = DirectionSpec("project_out", vector=vector)
    ids = torch.arange(6).reshape(1, 6)
    with pytest.raises(SparkablateError, match="none of the directions that are given here"):
        manager.applied(str(spec))
    manager.set_direction(spec.sha256, vector)
    with manager.applied(spec), torch.no_grad():
        wanted = model(ids).logits
    with manager.applied(f"dir[{spec.sha256[:6]}].project_out"), torch.no_grad():
        assert torch.equal(model(ids).logits, wanted)


@pytest.mark.parametrize("text", ["L99.mlp.zero", "L0.head[99].zero", "L-99.mlp.zero"])
def test_what_the_model_lacks_is_refused(text: str, tiny: Any) -> None:
    with pytest.raises(SparkablateError) as caught:
        AblationManager(tiny("llama")).applied(text).__enter__()
    assert caught.value.code == "config_invalid"
