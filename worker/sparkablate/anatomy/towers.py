"""Where a multimodal wrapper keeps its text tower: found on the model itself, never by the wrapper's name."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from torch import nn

from sparkablate.anatomy.modules import resolve, unsupported

#: Wrappers that make their logits with the head alone, whatever their text model does to its own.
HEAD_ALONE = ("aya_vision", "cohere2_vision", "gemma3", "granite_speech", "granite_speech_plus")
#: Wrappers whose own pass over a text is not their tower's.
REFUSED: Mapping[str, str] = {
    "paligemma": "it numbers a text's positions from 1 and lets a prefix look ahead, its text tower does not"
}


def is_wrapper(config: Any) -> bool:
    """Whether the text configuration is a part of this one."""
    return config.get_text_config() is not config


def find_tower(model: nn.Module, layers: str, embedding: str) -> tuple[str, nn.Module]:
    """Path and module of the one stack that was made from the model's text configuration.

    Args: layers and embedding, paths from the stack. Raises "architecture_unsupported" for none or several.
    """
    config: Any = model.config
    if config.model_type in REFUSED:
        raise unsupported(model, REFUSED[config.model_type])
    needed = _needed_besides_text(model)
    if needed:
        raise unsupported(model, f"it takes no text without {', '.join(needed)}")
    text_config = config.get_text_config()
    found = [
        (path, module)
        for path, module in model.named_modules()
        if _of_type(module, text_config.model_type) and _has(module, layers, embedding)
    ]
    # Another tower may be of the same type: the text's own has the very configuration, or its copy.
    own = [one for one in found if one[1].config is text_config]
    found = own or [one for one in found if _described(one[1].config) == _described(text_config)]
    if len(found) != 1:
        where = f": {', '.join(path for path, _ in found)}" if found else ""
        raise unsupported(
            model,
            f"{len(found)} of its modules could be the {text_config.model_type!r} text tower of this "
            f"{config.model_type!r}{where}",
        )
    return found[0]


def find_head(model: Any, tower: str, head: str) -> nn.Module:
    """The unembedding, which wrappers have beside their tower or around it."""
    found = model.get_output_embeddings()
    if isinstance(found, nn.Module):
        return found
    parts = tower.split(".")
    around = [".".join((*parts[:end], one)) for end in range(len(parts)) for one in head.split("|")]
    found = next((one for path in around if isinstance(one := resolve(model, path), nn.Module)), None)
    if found is None:
        raise unsupported(model, f"it has no unembedding ({', '.join(around)}), so it predicts no tokens")
    return found


def _needed_besides_text(model: Any) -> list[str]:
    parameters = inspect.signature(model.forward).parameters.values()
    kinds = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return [
        one.name
        for one in parameters
        if one.default is inspect.Parameter.empty and one.kind not in kinds and one.name != "input_ids"
    ]


def prefixes_on_disk(stack: str, wrapper: bool) -> list[str]:
    """What checkpoints may have before the names of a stack's tensors, the longest first: its path or the end
    of it, and in wrappers the names of before transformers 5."""
    parts = stack.split(".")
    found = {f"{'.'.join(parts[start:])}." for start in range(len(parts))}
    if wrapper:
        found |= {"language_model.model.", "language_model.", "model."}
    return sorted(found, key=len, reverse=True)


def _of_type(module: nn.Module, model_type: str) -> bool:
    return getattr(getattr(module, "config", None), "model_type", None) == model_type


def _has(module: nn.Module, layers: str, embedding: str) -> bool:
    return isinstance(resolve(module, layers), nn.ModuleList) and any(
        isinstance(resolve(module, one), nn.Module) for one in embedding.split("|")
    )


def _described(config: Any) -> dict[str, Any]:
    return {key: value for key, value in config.to_dict().items() if not key.startswith("_")}
