"""Renamed twins of rows that the other tests go over: what a wrong name, scale or shape would break."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from replayed import assert_writes_add_up
from torch import Tensor, nn

import tiny_models
from sparkablate import AblationManager, AblationSpec, DirectionSpec
from sparkablate.anatomy.architectures import locate, row_of
from sparkablate.bake import rules
from sparkablate.bake.baking import Baking, Source
from sparkablate.bake.checkpoint import Checkpoint
from sparkablate.errors import SparkablateError
from sparkablate.measure.likelihood import Likelihood
from sparkablate.measure.walk import Walk, first_edit, prove_entries
from sparkablate.proofs import self_test

IDS = tiny_models.tokens()


def logits(model: Any) -> Tensor:
    with torch.inference_mode():
        return model(input_ids=IDS, use_cache=False).logits


@pytest.fixture(params=tiny_models.TWINS)
def twin(request: pytest.FixtureRequest) -> Any:
    return tiny_models.make(tiny_models.TWINS[request.param])


def test_a_twin(twin: Any, tmp_path: Path) -> None:
    sites = locate(twin)
    before = logits(twin)
    assert_writes_add_up(twin, sites)
    assert [result["detail"] for result in self_test.run(twin, sites) if not result["passed"]] == []
    manager = AblationManager(twin, sites)
    layer = next((layer for layer in sites.layers if "head" in layer.sites), None)
    specs: list[Any] = [AblationSpec("layer", 1)]
    if layer is not None:
        specs = [AblationSpec("head", layer.index, heads=(0, layer.n_heads - 1))]
        with manager.applied(specs):
            edited = logits(twin)
        columns = [
            *range(layer.d_head),
            *range((layer.n_heads - 1) * layer.d_head, layer.n_heads * layer.d_head),
        ]
        assert torch.equal(edited, logits(_zeroed(twin, layer.heads.path, columns)))
        assert not torch.equal(edited, before)
    _walks(twin, manager, specs)
    _bakes(twin, manager, specs, tmp_path)
    assert torch.equal(logits(twin), before)


def _zeroed(model: Any, path: str, columns: list[int]) -> nn.Module:
    """A stock copy without these inputs of a projection."""
    twin = copy.deepcopy(model)
    projection: Any = twin.get_submodule(path)
    with torch.no_grad():
        projection.weight[:, columns] = 0
    return twin


def _walks(model: Any, manager: AblationManager, specs: list[Any]) -> None:
    likelihood = Likelihood(model, manager.sites)
    entries = prove_entries(likelihood, tiny_models.tokens(batch=1))
    assert entries.walkable or "keys and values" in entries.reason
    walked = Walk(likelihood, entries, IDS).final_hidden(
        first_edit(specs, manager.sites), lambda: manager.applied(specs)
    )
    with manager.applied(specs), torch.inference_mode():
        assert torch.equal(walked, likelihood.final_hidden(IDS))


def _bakes(model: Any, manager: AblationManager, specs: list[Any], folder: Path) -> None:
    """Planned, not written: names and shapes on disk, and what the row refuses."""
    model.save_pretrained(folder / "model")
    source = Source("twin", None, folder / "model", None, manager)
    row = row_of(model.config.get_text_config())
    assert row is not None

    def plan(*planned: Any) -> Baking:
        return Baking(source, planned, folder / "out", "float32", False, force=False)

    if row.no_bake:
        with pytest.raises(SparkablateError, match=row.no_bake):
            plan(*specs)
        return
    assert plan(*specs).edits.by_tensor
    with Checkpoint(folder / "model") as checkpoint:
        for layer in manager.sites.layers:
            if "mlp" in layer.sites:
                edited = plan(AblationSpec("mlp", layer.index)).edits.by_tensor
                shapes = [checkpoint.entries[name].shape for name in edited]
                assert sum(map(math.prod, shapes)) == tiny_models.writing_elements(layer.module), layer.index
    direction = DirectionSpec("project_out", torch.eye(manager.sites.d_model)[0], layers=(0,))
    if rules.COLUMNS["project_out, layers listed"](row) is None:
        assert plan(direction).edits.by_tensor
    else:
        with pytest.raises(SparkablateError, match="norm"):
            plan(direction)
