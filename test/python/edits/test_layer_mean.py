"""`layer` mean: a layer adds its constant write, the mean of the sum of its writes as they are added."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import tiny_models
from sparkablate import AblationManager, AblationSpec, DirectionSpec, SparkablateError
from sparkablate.edits.means import MeanKey
from sparkablate.study.planning import plan

LAYER = 1


def recorded(model: Any, layer: Any, ids: torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """What enters the layer, and each of its writes  # [batch, pos, d_model]"""
    found: dict[str, torch.Tensor] = {}
    handles = [
        tap.module.register_forward_hook(
            lambda module, args, output, name=name: found.update(
                {name: (output[0] if isinstance(output, tuple) else output).clone()}
            )
        )
        for name, tap in layer.writes.items()
    ]
    handles.append(
        layer.module.register_forward_pre_hook(
            lambda module, args, kwargs: found.update(
                {"": (args[0] if args else kwargs["hidden_states"]).clone()}
            ),
            with_kwargs=True,
        )
    )
    with torch.inference_mode():
        model(ids)
    for handle in handles:
        handle.remove()
    return found.pop(""), found


def scales(model: Any, manager: AblationManager) -> dict[str, float]:
    """By the configurations' own names: how much of each write is added."""
    config = model.config.get_text_config()
    if config.model_type == "falcon_h1":
        return {"mixer": config.ssm_out_multiplier, "attn": config.attention_out_multiplier}
    if config.model_type.startswith("granite"):
        return dict.fromkeys(manager.sites.layers[LAYER].writes, config.residual_multiplier)
    if config.model_type == "minicpm3":
        return dict.fromkeys(("attn", "mlp"), config.scale_depth / config.num_hidden_layers**0.5)
    if config.model_type.startswith("gemma4"):
        scalar = float(manager.sites.layers[LAYER].module.layer_scalar)
        return dict.fromkeys(manager.sites.layers[LAYER].writes, scalar)
    return {}


@pytest.mark.parametrize("name", tiny_models.TINY)
def test_the_layer_adds_the_mean_of_what_it_adds(name: str) -> None:
    model = tiny_models.build(name)
    manager = AblationManager(model)
    layer, calibrating, ids = (
        manager.sites.layers[LAYER],
        tiny_models.tokens(4, 16),
        tiny_models.tokens(2, 12),
    )
    spec = AblationSpec("layer", LAYER, mode="mean")
    if layer.no_constant:
        assert manager.sites.norm_on_stream
        with pytest.raises(SparkablateError, match="norms") as caught:
            manager.calibrate_means([calibrating], [MeanKey("layer", LAYER)])
        assert caught.value.code == "site_unsupported"
        with pytest.raises(SparkablateError, match="norms"), manager.applied(spec):
            pass
        return
    _, writes = recorded(model, layer, calibrating)
    scale = scales(model, manager)
    expected = sum(
        scale.get(write, 1.0) * value.double().reshape(-1, value.shape[-1]).mean(dim=0)
        for write, value in writes.items()
    )
    means = manager.calibrate_means([calibrating], [MeanKey("layer", LAYER)])
    torch.testing.assert_close(means["layer", LAYER, "all"].double(), expected, atol=1e-6, rtol=1e-5)

    outputs: list[torch.Tensor] = []
    with manager.applied(spec):
        handle = layer.module.register_forward_hook(
            lambda module, args, output: outputs.append(output[0] if isinstance(output, tuple) else output)
        )
        entering, _ = recorded(model, layer, ids)
        handle.remove()
    assert torch.equal(outputs[0], entering + means["layer", LAYER, "all"].to(entering.dtype))


def test_it_acts_in_generation_and_leaves_no_trace() -> None:
    model = tiny_models.build("llama")
    manager = AblationManager(model)
    manager.calibrate_means([tiny_models.tokens(4, 16)], [MeanKey("layer", 0)])
    ids = tiny_models.tokens(1, 6)
    with torch.inference_mode():
        before = model(ids).logits
        with manager.applied("L0.layer.mean"):
            cached = model.generate(ids, max_new_tokens=8, do_sample=False)
            whole = model.generate(ids, max_new_tokens=8, do_sample=False, use_cache=False)
        with manager.applied("L0.layer.skip"):
            skipped = model(ids).logits
        assert torch.equal(cached, whole)
        assert torch.equal(model(ids).logits, before)
        assert not torch.equal(skipped, before)


def test_a_direction_that_its_writes_lack_its_constant_lacks() -> None:
    model = tiny_models.build("granite")
    manager = AblationManager(model)
    means = manager.calibrate_means([tiny_models.tokens(4, 16)], [MeanKey("layer", 1), MeanKey("layer", 2)])
    vector = torch.nn.functional.normalize(
        torch.randn(tiny_models.D_MODEL, generator=torch.Generator().manual_seed(0)), dim=0
    )
    specs = [
        AblationSpec("layer", 1, mode="mean"),
        AblationSpec("layer", 2, mode="mean"),
        DirectionSpec("project_out", vector, layers=(1,)),
    ]
    ids, streams = tiny_models.tokens(2, 12), []
    handles = [
        manager.sites.layers[index].module.register_forward_hook(
            lambda module, args, output: streams.append(output[0] if isinstance(output, tuple) else output)
        )
        for index in range(3)
    ]
    with torch.inference_mode(), manager.applied(specs):
        model(ids)
    for handle in handles:
        handle.remove()
    first, second = (means["layer", index, "all"] for index in (1, 2))
    lacking = first - (first @ vector) * vector
    torch.testing.assert_close(streams[1] - streams[0], lacking.expand_as(streams[0]), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(streams[2] - streams[1], second.expand_as(streams[0]), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("other", ["L1.mlp.zero", "L1.layer.skip"])
def test_nothing_else_of_the_layer_is_edited_with_it(other: str) -> None:
    manager = AblationManager(tiny_models.build("llama"))
    manager.calibrate_means([tiny_models.tokens()])
    with pytest.raises(SparkablateError) as caught, manager.applied(f"L1.layer.mean + {other}"):
        pass
    assert caught.value.code == "conditions_overlap"


def test_a_sweep_over_layers() -> None:
    sites = AblationManager(tiny_models.build("llama")).sites
    planned = plan("layers", sites, mode="mean", layers=[0, 2], positions="all", nulls=False)
    assert [one.id for one in planned.conditions] == ["baseline", "L0.layer.mean", "L2.layer.mean"]


def test_its_gradient_reaches_what_is_below() -> None:
    """Nothing of the edit is a tensor of inference mode."""
    model = tiny_models.build("llama")
    manager = AblationManager(model)
    manager.calibrate_means([tiny_models.tokens()], [MeanKey("layer", 1)])
    with manager.applied("L1.layer.mean"):
        model(tiny_models.tokens()).logits.sum().backward()
    assert model.model.layers[0].mlp.down_proj.weight.grad.any()
    assert model.model.layers[1].mlp.down_proj.weight.grad is None


def test_its_id() -> None:
    spec = AblationSpec("layer", 3, mode="mean")
    assert str(spec) == "L3.layer.mean"
    with pytest.raises(SparkablateError, match="mode of kind 'layer'"):
        AblationSpec("layer", 3, mode="resample")
