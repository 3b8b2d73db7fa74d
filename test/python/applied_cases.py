"""What the tests of `applied` share: specs of every kind, and the edited logits that blocks have to give."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

import tiny_models
from sparkablate import AblationManager, AblationSpec, DirectionSpec

IDS = tiny_models.tokens()
OTHERS = IDS.flip(0)


def unit(seed: int = 0) -> Tensor:
    vector = torch.randn(tiny_models.D_MODEL, generator=torch.Generator().manual_seed(seed))
    return vector / vector.norm()


#: One of every site, mode, place and positions.
SPECS: dict[str, Any] = {
    "head zero": AblationSpec("head", 1, heads=(0, 3)),
    "head mean": AblationSpec("head", 2, heads=(1,), mode="mean"),
    "kv_group patch": AblationSpec("kv_group", 0, groups=(1,), mode="patch"),
    "attn mean not_first": AblationSpec("attn", 1, mode="mean", positions="not_first"),
    "mlp zero": AblationSpec("mlp", 1),
    "mlp resample": AblationSpec("mlp", 0, mode="resample"),
    "layer skip": AblationSpec("layer", 1),
    "project_out writes": DirectionSpec("project_out", unit()),
    "project_out stream": DirectionSpec("project_out", unit(1), at="stream", layers=(0, 1)),
    "add": DirectionSpec("add", unit(2), layers=(1,), norm=4.0, positions="not_first"),
    "joint": [
        AblationSpec("head", 0, heads=(2,), mode="mean"),
        AblationSpec("layer", 1),
        AblationSpec("mlp", 2),
        DirectionSpec("add", unit(3), layers=(0,), norm=2.0),
    ],
}


def fresh(name: str = "llama") -> Any:
    """A model of one's own, to be compiled, wrapped or spoiled."""
    return tiny_models.build(name)


def prepared(model: Any) -> AblationManager:
    """A manager with means and sources, from the plain model."""
    manager = AblationManager(model)
    manager.calibrate_means([IDS])
    for mode in ("patch", "resample"):
        manager.record_sources(OTHERS, mode=mode)
    return manager


def logits(model: Any, ids: Tensor = IDS, **kwargs: Any) -> Tensor:
    with torch.inference_mode():
        return model(input_ids=ids, use_cache=False, **kwargs).logits


def edited(manager: AblationManager, specs: Any, call: Any = None) -> Tensor:
    with manager.applied(specs):
        return logits(manager.model if call is None else call)


def hooks(model: Any) -> int:
    # transformers leaves hooks of its own on a model that was once asked for its hidden states.
    return sum(
        not getattr(hook, "__module__", "").startswith("transformers.")
        for module in model.modules()
        for hook in (*module._forward_hooks.values(), *module._forward_pre_hooks.values())
    )


def untouched(model: Any) -> bool:
    """Whether nothing of ours is left in it."""
    return hooks(model) == 0 and all("forward" not in module.__dict__ for module in model.modules())
