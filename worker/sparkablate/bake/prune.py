"""Deleting layers: the tensors' indices and everything in a configuration that counts or lists layers."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from sparkablate.bake.checkpoint import Names
from sparkablate.errors import SparkablateError
from sparkablate.loading.configuration import LAYER_COUNTS
from sparkablate.wording import flag

#: One entry a layer.
PER_LAYER = ("layer_types", "mlp_layer_types", "no_rope_layers", "layers_block_type")
#: Numbers of layers.
INDEX_LISTS = ("mlp_only_layers", "moe_layers", "attn_layer_indices")
#: Keyed by a layer's number.
INDEX_MAPS = ("per_layer_config",)
#: How many of the first layers are of another kind.
THRESHOLDS = ("max_window_layers", "first_k_dense_replace", "num_dense_layers")
#: Lists that repeat up to the number of layers.
REPEATED = ("block_types",)
#: Patterns that an explicit list replaces: they are removed, so that no reader derives a list from them anew.
REPLACED = (
    "sliding_window_pattern",
    "_sliding_window_pattern",
    "no_rope_layer_interval",
    "full_attention_interval",
)
#: Lists that are not about layers, however long they are.
OTHER_LISTS = ("architectures", "eos_token_id", "bos_token_id", "pad_token_id", "mrope_section")


@dataclass(frozen=True)
class Renumbering:
    """Old layer numbers → new ones. Layers beyond the model's own (multi-token prediction) move along."""

    removed: frozenset[int]
    n_layers: int

    @property
    def kept(self) -> list[int]:
        return [index for index in range(self.n_layers) if index not in self.removed]

    def index(self, old: int) -> int | None:
        if old in self.removed:
            return None
        return old - sum(1 for removed in self.removed if removed < old)

    def tensor(self, name: str, names: Names) -> str | None:
        """The tensor's new name; None where it belongs to a removed layer."""
        found = names.layer_of(name)
        if found is None:
            return name
        index = self.index(found[0])
        return None if index is None else names.layer(index) + found[1]


def mend_config(raw: Mapping[str, Any], config: Any, renumbering: Renumbering) -> dict[str, Any]:
    """The file's text configuration for the model without those layers.

    `config`: the loaded text configuration, whose lists are explicit where the file leaves them to a default.
    Raises "bake_refused" where a layer's number means more than its place, or a list cannot be told to be
    about layers.
    """
    _refuse(raw, config, renumbering)
    mended = copy.deepcopy(dict(raw))
    kept = renumbering.kept
    for name in LAYER_COUNTS:
        if name in mended:
            mended[name] = len(kept)
    fields = config.to_dict()  # what a class computes from its other fields is not among them
    for name in PER_LAYER:
        values = fields.get(name)
        if isinstance(values, list | tuple) and len(values) == renumbering.n_layers:
            mended[name] = [values[index] for index in kept]
    for name in REPEATED:
        if values := getattr(config, name, None):
            mended[name] = [values[index % len(values)] for index in kept]
    for name in INDEX_LISTS:
        values = fields.get(name)
        if values:
            mended[name] = _renumbered(values, renumbering)
    for name in INDEX_MAPS:
        if mended.get(name):
            mended[name] = {
                str(new): value
                for old, value in mended[name].items()
                if (new := renumbering.index(int(old))) is not None
            }
    for name in THRESHOLDS:
        value = fields.get(name)
        if isinstance(value, int):
            beyond = max(0, value - renumbering.n_layers)
            mended[name] = sum(1 for index in kept if index < value) + beyond
    for name in REPLACED:
        mended.pop(name, None)
    if getattr(config, "decoder_sparse_step", None) is not None and hasattr(config, "mlp_only_layers"):
        # Every n-th layer of those that are left would be others: dense layers are listed instead.
        step, dense = config.decoder_sparse_step, set(config.mlp_only_layers or ())
        dense |= {index for index in range(renumbering.n_layers) if (index + 1) % step}
        mended["mlp_only_layers"] = _renumbered(sorted(dense), renumbering)
        mended["decoder_sparse_step"] = 1
    return mended


def _renumbered(indices: Iterable[int], renumbering: Renumbering) -> list[int]:
    return [new for old in indices if (new := renumbering.index(old)) is not None]


def _refuse(raw: Mapping[str, Any], config: Any, renumbering: Renumbering) -> None:
    reasons = []
    if not renumbering.kept:
        reasons.append("no layer would be left")
    if getattr(config, "scale_attn_by_inverse_layer_idx", False):
        reasons.append("attention is scaled by the layer's number (scale_attn_by_inverse_layer_idx)")
    if getattr(config, "num_kv_shared_layers", 0):
        reasons.append("later layers read the keys and values of earlier ones (num_kv_shared_layers)")
    if getattr(config, "scale_depth", None) is not None:
        reasons.append("every write is scaled by the number of layers (scale_depth)")
    if getattr(config, "attn_layer_period", None) is not None:
        reasons.append("the kind of a layer follows from its number (attn_layer_period)")
    if getattr(config, "hybrid_layer_ids", None):
        reasons.append("layers share the weights of others (hybrid_layer_ids)")
    if getattr(config, "hidden_size_per_layer_input", 0):
        reasons.append("one embedding holds a part for every layer (hidden_size_per_layer_input)")
    if (
        config.model_type == "gemma4_text"
        and config.layer_types[renumbering.n_layers - 1]
        and (renumbering.kept and config.layer_types[renumbering.kept[-1]] != "full_attention")
    ):
        reasons.append("Gemma 4's last layer has to be one of full attention; keep the last such layer")
    known = {*PER_LAYER, *INDEX_LISTS, *REPEATED, *OTHER_LISTS}
    unknown = [
        name
        for name, value in {**config.to_dict(), **raw}.items()
        if isinstance(value, list | tuple) and len(value) == renumbering.n_layers and name not in known
    ]
    if unknown:
        reasons.append(
            f"{', '.join(unknown)} in config.json might list layers, and it is not known how to cut it"
        )
    if reasons:
        raise SparkablateError(
            "bake_refused",
            f"{flag('prune-layers', True)}: {'; '.join(reasons)}. Leave {flag('prune-layers')} out to make "
            "the layer the identity instead.",
        )
