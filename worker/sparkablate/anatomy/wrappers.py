"""The model inside what people wrap around it. Hooks on its modules act whoever calls it."""

from __future__ import annotations

import sys
from typing import Any

from torch import nn

from sparkablate.arguments import described
from sparkablate.errors import SparkablateError

#: Classes whose instances hold pieces of the weights and activations, with what they do.
SHARDED = {
    "FullyShardedDataParallel": "FSDP shards the weights",
    "FSDPModule": "FSDP shards the weights",
    "DTensor": "tensor parallelism shards weights and activations",
}


def unwrapped(model: Any) -> nn.Module:
    """The model that a compiled, PEFT or parallel wrapper holds; `model` itself where nothing is around it.

    Raises SparkablateError: "usage" for what is no module, "architecture_unsupported" for a wrapper whose
    edits would not be the model's.
    """
    if not isinstance(model, nn.Module):
        raise SparkablateError(
            "usage", f"model must be a loaded model (a torch.nn.Module), not {_described(model)}"
        )
    classes = {type(model), *map(type, model.parameters())}
    for name in (base.__name__ for one in classes for base in one.__mro__):
        if name in SHARDED:
            raise _refused(
                model,
                f"{SHARDED[name]}, and a device sees only a part of what a spec names; give the model whole",
            )
    inner = _inner(model)
    return model if inner is None else unwrapped(inner)


def _inner(model: nn.Module) -> nn.Module | None:
    peft = sys.modules.get("peft")  # whoever has such a model has imported it
    if peft is not None and isinstance(model, peft.PeftModel | peft.PeftMixedModel):
        return _without_adapters(model)
    if isinstance(model, nn.DataParallel) and len(model.device_ids) > 1:
        raise _refused(
            model,
            f"it copies the model to {len(model.device_ids)} devices at every pass; give one with "
            "device_ids=[0], or the model itself",
        )
    compiled = model._modules.get("_orig_mod")
    if compiled is not None:
        return compiled
    # DataParallel, DistributedDataParallel, DeepSpeed's engine, averaged models. A transformers model
    # whose own part is called so has a configuration class.
    return None if hasattr(type(model), "config_class") else model._modules.get("module")


def _without_adapters(model: Any) -> nn.Module:
    """The model that LoRA and its kind have put their adapters into."""
    prompts = [name for name, config in model.peft_config.items() if config.is_prompt_learning]
    if prompts:
        raise _refused(
            model,
            f"the adapter {prompts[0]!r} puts virtual tokens before the text, so that positions and first "
            "tokens would not be the text's; edit the model without it",
        )
    inner: nn.Module = model.get_base_model()
    return inner


def _refused(model: nn.Module, why: str) -> SparkablateError:
    return SparkablateError("architecture_unsupported", f"{type(model).__name__} cannot be ablated: {why}.")


def _described(value: Any) -> str:
    if isinstance(value, str):
        return f"the text {value!r:.80}; load it first, with sparkablate.model.load_model"
    if isinstance(getattr(value, "model", None), nn.Module):
        return f"{described(value)}; give its `model`"
    return described(value)
