"""Tensors of a checkpoint that the model does not take: which are read past, which make another model."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from sparkablate.anatomy.architectures import find_stack, row_of
from sparkablate.anatomy.towers import is_wrapper, prefixes_on_disk
from sparkablate.errors import SparkablateError

#: Tensors that a message names.
SHOWN = 3
Shape = tuple[int, ...]


@dataclass(frozen=True)
class ReadPast:
    """Tensors whose name matches ``name`` are no part of what the text tower computes. ``mask``: only where
    the shape is a causal mask's; any other is refused."""

    what: str
    name: re.Pattern[str]
    mask: bool = False


#: The first that matches decides. Source: the ignore lists of transformers' classes.
READ_PAST = (
    ReadPast(
        "buffers that the model computes itself",
        re.compile(r"(^|\.)(inv_freq|original_inv_freq|position_ids|masked_bias)$"),
    ),
    ReadPast(
        "causal masks of old checkpoints",
        re.compile(r"(^|\.)(attn|attention|crossattention)\.(bias|causal_mask)$"),
        mask=True,
    ),
    ReadPast("multi-token prediction", re.compile(r"(^|\.)mtp(_layers|_block)?\.")),
    ReadPast("scales of a key/value cache", re.compile(r"\.(k|v|kv)_(scale|zero_point)$")),
    ReadPast(
        "towers of other modalities",
        re.compile(
            r"(^|\.)(vision_tower|vision_model|vision_encoder|visual|multi_modal_projector|mm_projector"
            r"|image_newline|embed_vision|audio_tower|audio_model|embed_audio|talker|token2wav|code2wav)(\.|$)"
        ),
    ),
)
#: Of these transformers tells nothing, whatever the class.
SILENT = READ_PAST[0]
OWN_LIST = "on the model class's own list of tensors to ignore"
ELSEWHERE = "outside embedding, layers, norm and head"
#: What a layer of multi-token prediction holds and no other: how DeepSeek, GLM and their kin append it.
MTP_PARTS = re.compile(r"(^|\.)(eh_proj|enorm|hnorm|shared_head)\.")


class Tower:
    """How checkpoints may name a model's text tower: with the path of its stack, or with its end alone."""

    def __init__(self, model: Any) -> None:
        self.model = model
        config = model.config
        text = config.get_text_config()
        row = row_of(text)
        stack = row.stack if row is not None else str(model.base_model_prefix)
        self.head = (row.head if row is not None else "lm_head").split("|")
        self.layers = row.layers if row is not None else "layers"
        self.n_layers: int | None = getattr(text, "num_hidden_layers", None)
        self.mtp_layers: int = getattr(text, "num_nextn_predict_layers", None) or 0
        if row is not None and is_wrapper(config):
            stack, _ = find_stack(model, row)
        self._prefixes = prefixes_on_disk(stack, wrapper=is_wrapper(config))
        named = (*row.embedding, *row.tail) if row is not None else ()
        self._parts = {self.layers, *(one for path in named for one in path.split("|"))}
        modules = dict(model.named_modules())
        if stack in modules:
            self._parts |= {name for name, _ in modules[stack].named_children()}

    def inside(self, name: str) -> str:
        """The name without what stands before the stack; another tower's stays as it is."""
        for prefix in self._prefixes:
            if name.startswith(prefix):
                return name.removeprefix(prefix)
        return name

    def layer(self, name: str) -> int | None:
        found = re.match(re.escape(self.layers) + r"\.(\d+)\.", self.inside(name))
        return None if found is None else int(found[1])

    def holds(self, name: str) -> bool:
        """Whether the tensor lies in the embedding, the layers, the norm or the head."""
        first = self.inside(name).split(".")[0]
        return first in self._parts or first in self.head


def unread_names(
    model: Any, tower: Tower, unexpected: Iterable[str], held: Mapping[str, Shape]
) -> dict[str, Shape | None]:
    """Tensors without a place in the model → their shapes, where they are known. ``unexpected``: those that
    transformers tells of; it keeps silent about those that match its lists, which are looked for in ``held``,
    all of the checkpoint's."""
    shapes = {tower.inside(name): shape for name, shape in held.items()}
    found: dict[str, Shape | None] = {name: shapes.get(tower.inside(name)) for name in sorted(unexpected)}
    told = {tower.inside(name) for name in found}
    taken = set(model.state_dict())
    own = _own_list(model)
    for name, shape in held.items():
        if not (SILENT.name.search(name) or own.search(name) or own.search(_full(model, name))):
            continue
        here = tower.inside(name)
        merged = _is_listed_layer(own, tower, name)
        if here not in told and not merged and not any(f".{one}".endswith(f".{here}") for one in taken):
            found[name] = shape
    return found


def refuse_doubles(source: str, names: Iterable[str], tower: Tower) -> None:
    """Raises ``load_failed`` for two tensors that would fill one parameter."""
    seen: dict[str, str] = {}
    for name in names:
        if tower.holds(name) and (other := seen.setdefault(tower.inside(name), name)) != name:
            raise SparkablateError(
                "load_failed", f"{source}: {other} and {name} of the checkpoint are the same parameter"
            )


def _is_listed_layer(own: re.Pattern[str], tower: Tower, name: str) -> bool:
    """Whether the list names the whole layer (the one behind the last of another size of this type), which
    here is an ordinary one: its tensors are taken, experts under the names of merged ones."""
    layer = tower.layer(name)
    if layer is None or tower.n_layers is None or layer >= tower.n_layers:
        return False
    return own.search(f"model.{tower.layers}.{layer}.any") is not None


def sort_out(source: str, model: Any, unread: Mapping[str, Shape | None], tower: Tower) -> list[str]:
    """What was read past, in words: at most one notice. Raises ``load_failed`` for tensors of the text tower
    that this configuration has no place for."""
    own = _own_list(model)
    mtp = _mtp_layers(unread, tower)
    past: dict[str, list[str]] = defaultdict(list)
    refused: list[str] = []
    for name, shape in unread.items():
        what = _read_past(name, shape, own, mtp, tower, _full(model, name))
        past[what].append(name) if what is not None else refused.append(name)
    if refused:
        raise SparkablateError("load_failed", _refusal(source, refused, tower))
    if not past:
        return []
    parts = [f"{len(names)} {what} ({_some(names)})" for what, names in sorted(past.items())]
    return [f"read past tensors of the checkpoint that no logit depends on: {'; '.join(parts)}"[:4096]]


def _read_past(
    name: str, shape: Shape | None, own: re.Pattern[str], mtp: set[int], tower: Tower, full: str
) -> str | None:
    """Under which heading the tensor is read past, or None."""
    layer = tower.layer(name)
    if layer is not None and tower.n_layers is not None and layer >= tower.n_layers:
        return "multi-token prediction" if layer in mtp else None
    for row in READ_PAST:
        if row.name.search(name):
            return row.what if not row.mask or _is_mask(shape) else None
    if own.search(name) or own.search(full):
        return OWN_LIST
    return None if tower.holds(name) else ELSEWHERE


def _mtp_layers(unread: Iterable[str], tower: Tower) -> set[int]:
    """Layers behind the last one that predict several tokens ahead, by what they hold."""
    return {layer for name in unread if (layer := tower.layer(name)) is not None and MTP_PARTS.search(name)}


def _refusal(source: str, refused: list[str], tower: Tower) -> str:
    beyond = {
        layer
        for name in refused
        if (layer := tower.layer(name)) is not None and tower.n_layers is not None and layer >= tower.n_layers
    }
    why = (
        f"config.json says {tower.n_layers} layers, and the weights have {max(beyond) + 1}"
        if beyond
        else "config.json describes a model without them (a bias that it switches off, another type)"
    )
    return (
        f"{source}: {len(refused)} tensors of the checkpoint have no place in the model, e.g. "
        f"{_some(refused)}: {why}; correct config.json, or take them out of the weights"
    )


def _own_list(model: Any) -> re.Pattern[str]:
    """The class's own list; what matches nothing where it has none."""
    patterns = getattr(model, "_keys_to_ignore_on_load_unexpected", None) or ()
    return re.compile("|".join(f"({pattern})" for pattern in patterns) or r"(?!)")


def _full(model: Any, name: str) -> str:
    """The name as transformers completes it before it looks at its lists."""
    return f"{model.base_model_prefix}.{name}"


def _is_mask(shape: Shape | None) -> bool:
    return shape is not None and len(shape) == 4 and shape[:2] == (1, 1) and shape[2] == shape[3]


def _some(names: list[str]) -> str:
    return ", ".join(names[:SHOWN]) + (" …" if len(names) > SHOWN else "")
