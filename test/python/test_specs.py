"""Specifications: what is refused, what overlaps, and the ids that follow from what is edited."""

from __future__ import annotations

import math
import subprocess
import sys
from typing import Any

import pytest
import torch

from sparkablate import AblationSpec, DirectionSpec
from sparkablate.anatomy.architectures import locate
from sparkablate.edits.functions import MODES, orthonormal_basis
from sparkablate.errors import SparkablateError
from sparkablate.specs import EMBEDDING, canonical, condition_id, first_layer, from_wire, spec_id, validate

A, B = "a" * 64, "b" * 64


def direction(**fields: Any) -> DirectionSpec:
    return DirectionSpec(**{"op": "project_out", "sha256": A, **fields})


class TestFields:
    @pytest.mark.parametrize(
        ("fields", "said"),
        [
            ({"kind": "heads", "layer": 0}, "none of head, kv_group, attn, neuron, mlp, layer"),
            ({"kind": "head", "layer": 0}, "needs heads"),
            ({"kind": "kv_group", "layer": 0, "heads": (1,)}, "takes no heads"),
            ({"kind": "mlp", "layer": 0, "heads": (1,)}, "takes no heads"),
            ({"kind": "head", "layer": 0, "heads": (1, 1)}, "different"),
            ({"kind": "head", "layer": 0, "heads": (-1,)}, "not negative"),
            ({"kind": "mlp", "layer": -1}, "count from 0"),
            ({"kind": "mlp", "layer": 0, "mode": "skip"}, "none of zero, mean"),
            ({"kind": "layer", "layer": 0, "mode": "patch"}, "none of skip, mean, zero"),
            ({"kind": "layer", "layer": 0, "positions": "not_first"}, "no positions"),
            ({"kind": "mlp", "layer": 0, "positions": "last"}, "none of all, not_first"),
        ],
    )
    def test_site_refusals(self, fields: dict[str, Any], said: str) -> None:
        with pytest.raises(SparkablateError, match=said) as caught:
            AblationSpec(**fields)
        assert caught.value.code == "config_invalid"

    @pytest.mark.parametrize(
        ("fields", "said"),
        [
            ({"op": "remove"}, "none of project_out, add"),
            ({"op": "add", "at": "writes"}, "at stream, not at 'writes'"),
            ({"layers": ()}, "one or more different indices"),
            ({"layers": (1, 1)}, "different"),
            ({"coefficient": math.nan}, "finite"),
            ({"sha256": ""}, "needs a vector"),
            ({"sha256": "", "vector": torch.ones(4)}, "length 1"),
            ({"sha256": "", "vector": torch.full((4,), math.nan)}, "length 1"),
            ({"sha256": "", "vector": torch.eye(4)}, "one vector"),
        ],
    )
    def test_direction_refusals(self, fields: dict[str, Any], said: str) -> None:
        with pytest.raises(SparkablateError, match=said) as caught:
            direction(**fields)
        assert caught.value.code == "config_invalid"

    def test_defaults(self) -> None:
        assert AblationSpec("head", 1, heads=(7, 3)).heads == (3, 7)
        assert AblationSpec("mlp", 1).mode == "zero"
        assert AblationSpec("layer", 1).mode == "skip"
        assert AblationSpec("layer", 1, mode="zero") == AblationSpec("layer", 1)
        assert spec_id(AblationSpec("layer", 1, mode="zero")) == "L1.layer.skip"
        assert direction().at == "writes"
        assert direction(op="add").at == "stream"

    def test_a_vector_is_named_by_its_bytes(self) -> None:
        vector = torch.nn.functional.normalize(
            torch.randn(8, generator=torch.Generator().manual_seed(0)), dim=0
        )
        first, same = DirectionSpec("project_out", vector), DirectionSpec("project_out", vector.clone())
        assert first == same
        assert first != DirectionSpec("project_out", -vector)

    def test_wire(self) -> None:
        wire = {"kind": "head", "layer": 14, "heads": [3, 7], "mode": "mean", "positions": "not_first"}
        assert from_wire(wire) == AblationSpec("head", 14, heads=(3, 7), mode="mean", positions="not_first")
        assert from_wire({"kind": "layer", "layer": 2, "mode": "skip"}) == AblationSpec("layer", 2)
        shared = {"op": "project_out", "at": "stream", "coefficient": 0.5, "positions": "all", "sha256": A}
        assert from_wire({"kind": "direction", "layers": [2, 1], **shared}) == direction(
            at="stream", coefficient=0.5, layers=(1, 2)
        )
        assert from_wire({"kind": "direction", "layers": "all", **shared}).layers == "all"


class TestIds:
    @pytest.mark.parametrize(
        ("spec", "expected"),
        [
            (AblationSpec("head", 14, heads=(7, 3)), "L14.head[3,7].zero"),
            (AblationSpec("kv_group", 1, groups=(0,), mode="mean"), "L1.kv_group[0].mean"),
            (AblationSpec("mlp", 5, mode="mean", positions="not_first"), "L5.mlp.mean@not_first"),
            (AblationSpec("layer", 26), "L26.layer.skip"),
            (direction(), "dir[aaaaaaaa].project_out"),
            (direction(at="stream"), "dir[aaaaaaaa].project_out(at=stream)"),
            (
                direction(op="add", layers=(4, 2), coefficient=-2.0, positions="not_first"),
                "dir[aaaaaaaa].add(layers=[2,4],coefficient=-2)@not_first",
            ),
            (direction(coefficient=1e-7), "dir[aaaaaaaa].project_out(coefficient=1e-7)"),
        ],
    )
    def test_one(self, spec: Any, expected: str) -> None:
        assert spec_id(spec) == expected

    def test_a_condition_has_no_order(self) -> None:
        specs = [
            direction(),
            AblationSpec("mlp", 3),
            AblationSpec("head", 3, heads=(2,)),
            AblationSpec("layer", 10),
            AblationSpec("head", 3, heads=(0,)),
            AblationSpec("attn", 2),
        ]
        expected = (
            "L2.attn.zero + L3.head[0,2].zero + L3.mlp.zero + L10.layer.skip + dir[aaaaaaaa].project_out"
        )
        assert condition_id(specs) == condition_id(specs[::-1]) == expected
        assert canonical(specs) == canonical(specs[::-1])

    def test_nothing_and_very_much(self) -> None:
        assert condition_id([]) == "baseline"
        many = condition_id([AblationSpec("mlp", layer) for layer in range(200)])
        assert many.startswith("joint[200 interventions, ")

    def test_first_layer(self) -> None:
        assert first_layer([AblationSpec("mlp", 3), AblationSpec("layer", 2)]) == 2
        assert first_layer([AblationSpec("mlp", 3), direction(layers=(1, 5))]) == 1
        assert first_layer([AblationSpec("mlp", 3), direction()]) == EMBEDDING == -1
        assert first_layer([direction(at="stream")]) == 0


class TestTogether:
    @pytest.mark.parametrize(
        ("specs", "said"),
        [
            ([AblationSpec("head", 1, heads=(1, 2)), AblationSpec("head", 1, heads=(2,))], "head 2"),
            ([AblationSpec("head", 1, heads=(1,)), AblationSpec("kv_group", 1, groups=(0,))], "head 1"),
            ([AblationSpec("head", 1, heads=(1,)), AblationSpec("attn", 1)], "as a whole"),
            ([AblationSpec("kv_group", 1, groups=(1,)), AblationSpec("attn", 1)], "as a whole"),
            ([AblationSpec("mlp", 1), AblationSpec("mlp", 1, mode="mean")], "mlp of layer 1 is edited twice"),
            ([AblationSpec("layer", 1), AblationSpec("mlp", 1)], "skipped and edited"),
            ([AblationSpec("layer", 1), AblationSpec("layer", 1)], "layer of layer 1 is edited twice"),
            ([AblationSpec("layer", 1), direction(layers=(0, 1))], "is skipped"),
            ([AblationSpec("layer", 1), direction()], "is skipped"),
            ([direction(), direction(layers=(2,))], "twice"),
            ([direction(), direction(sha256=B, coefficient=0.5)], "coefficient 1"),
            ([direction(), direction(sha256=B, positions="not_first")], "same positions"),
            ([direction(at="stream"), direction(op="add", sha256=B)], "order"),
        ],
    )
    def test_refused_in_either_order(self, specs: list[Any], said: str, tiny: Any) -> None:
        sites = locate(tiny("llama"))
        for ordered in (specs, specs[::-1]):
            with pytest.raises(SparkablateError, match=said) as caught:
                validate(ordered, sites)
            assert caught.value.code == "conditions_overlap"

    @pytest.mark.parametrize(
        "specs",
        [
            [AblationSpec("head", 1, heads=(1,)), AblationSpec("kv_group", 1, groups=(1,))],
            [AblationSpec("attn", 1), AblationSpec("mlp", 1), AblationSpec("layer", 0)],
            [AblationSpec("head", 1, heads=(1,)), AblationSpec("attn", 2)],
            [AblationSpec("head", 1, heads=(3,)), direction()],
            [AblationSpec("layer", 1), direction(layers=(0, 2))],
            [direction(), direction(sha256=B)],
            [direction(layers=(0,), coefficient=0.5), direction(layers=(1,), sha256=B)],
            [direction(), direction(at="stream"), direction(sha256=B, at="stream")],
            [direction(op="add"), direction(op="add", sha256=B, coefficient=3.0)],
        ],
    )
    def test_allowed(self, specs: list[Any], tiny: Any) -> None:
        validate(specs, locate(tiny("llama")))

    @pytest.mark.parametrize(
        ("row", "spec", "code", "said"),
        [
            ("llama", AblationSpec("mlp", 3), "config_invalid", "layers 0 to 2"),
            ("llama", AblationSpec("head", 0, heads=(4,)), "config_invalid", "heads 0 to 3"),
            ("llama", AblationSpec("kv_group", 0, groups=(2,)), "config_invalid", "groups 0 to 1"),
            ("llama", direction(layers=(3,)), "config_invalid", "layers 0 to 2"),
            ("qwen3_next", AblationSpec("head", 0, heads=(0,)), "site_unsupported", "no attention heads"),
            ("mamba2", AblationSpec("attn", 0), "site_unsupported", "offers layer, direction"),
        ],
    )
    def test_what_the_model_lacks(self, row: str, spec: Any, code: str, said: str, tiny: Any) -> None:
        with pytest.raises(SparkablateError, match=said) as caught:
            validate([spec], locate(tiny(row)))
        assert caught.value.code == code

    def test_a_refused_site_is_not_offered(self, tiny: Any) -> None:
        sites = locate(tiny("llama")).refusing(["L1.head"])
        validate([AblationSpec("head", 0, heads=(0,))], sites)
        with pytest.raises(
            SparkablateError, match="layer 1 offers kv_group, attn, neuron, mlp, layer, direction"
        ):
            validate([AblationSpec("head", 1, heads=(0,))], sites)


class TestFunctions:
    def test_modes_return_new_tensors_and_no_nan_survives(self) -> None:
        values, mean = torch.tensor([[1.0, math.nan], [math.inf, 2.0]]), torch.tensor([3.0, 4.0])
        assert torch.equal(MODES["zero"].function(values, None), torch.zeros(2, 2))
        replaced = MODES["mean"].function(values, mean)
        assert torch.equal(replaced, torch.tensor([[3.0, 4.0], [3.0, 4.0]]))
        replaced += 1  # falcon adds in place to what its MLP returned
        assert mean.tolist() == [3.0, 4.0]

    def test_basis_spans_what_it_is_given(self) -> None:
        first, second = torch.randn(2, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        basis = orthonormal_basis([first, second, first + second, first])  # [16, 2]
        torch.testing.assert_close(basis.T @ basis, torch.eye(2, dtype=torch.float64))
        for vector in (first, second):
            torch.testing.assert_close(basis @ (basis.T @ vector), vector)


def test_importing_the_package_does_not_import_torch() -> None:
    code = "import sparkablate, sys; print('torch' in sys.modules, sparkablate.__version__)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("False")
