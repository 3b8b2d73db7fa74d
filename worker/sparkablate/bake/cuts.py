"""Zeroed key/value groups and neurons that are removed, so that the checkpoint gets smaller.

A stock configuration knows one number of heads and one width for all layers: every layer has to lose as many,
and which ones is free in each. What has to be cut follows from two models that transformers builds, of the
configuration before and after: where a tensor's axis is shorter, it is in runs of one group or neuron each.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from huggingface_hub.errors import StrictDataclassError
from torch import nn

from sparkablate.anatomy.sites import LayerSites, SiteMap
from sparkablate.anatomy.stock import EXTRA_KEY, fused_in, group_removal, neuron_removal
from sparkablate.bake.readers import OTHERS
from sparkablate.errors import SparkablateError
from sparkablate.loading.configuration import build_empty
from sparkablate.specs import AblationSpec, Spec
from sparkablate.wording import flag


@dataclass(frozen=True)
class Wish:
    """What of the zeroed is to be removed."""

    kv_groups: bool = False
    neurons: bool = False


NOTHING = Wish()
#: What the units write then is nothing, or a constant that stands in a bias.
_COLUMNS_OF_ZEROS = ("zero", "mean")
NOT_CHECKED = f"{', '.join(OTHERS)} not checked on checkpoints like this one"


@dataclass(frozen=True)
class Removal:
    """`removed`: layer → units that it loses, as many in each. `keys`: of the configuration, from now on."""

    unit: str
    removed: Mapping[int, tuple[int, ...]]
    before: int
    keys: Mapping[str, int]
    warning: str

    @property
    def count(self) -> int:
        return len(next(iter(self.removed.values())))

    def kept(self, layer: int) -> list[int]:
        return [unit for unit in range(self.before) if unit not in set(self.removed[layer])]


@dataclass(frozen=True)
class Shorter:
    """A tensor of a layer whose `axis` loses the units that are removed there. It holds `segments` one after
    another, each of them with an equal run of numbers for each unit."""

    layer: int
    name: str
    axis: int
    segments: tuple[int, ...]


def removals(specs: Sequence[Spec], wish: Wish, sites: SiteMap, pruned: Iterable[int]) -> list[Removal]:
    """Raises "bake_refused" where a stock configuration cannot say what would be left."""
    layers = [layer for layer in sites.layers if layer.index not in set(pruned)]
    if not layers:
        return []  # which is refused for itself
    edits = [spec for spec in specs if isinstance(spec, AblationSpec) and spec.mode in _COLUMNS_OF_ZEROS]
    found = []
    if wish.kv_groups:
        found.append(_groups(edits, sites.model_type, layers))
    if wish.neurons:
        found.append(_neurons(edits, sites.model_type, layers))
    return found


def _groups(edits: Sequence[AblationSpec], model_type: str, layers: Sequence[LayerSites]) -> Removal:
    how, why = group_removal(model_type)
    option = "prune-kv-groups"
    if why:
        raise _refused(option, why)
    if len({(layer.n_heads, layer.n_kv_heads, layer.d_head) for layer in layers}) != 1:
        raise _refused(option, "its layers have different numbers of heads")
    removed = {}
    for layer in layers:
        zeroed = {head for spec in edits if spec.layer == layer.index for head in spec.heads}
        zeroed |= {
            head
            for spec in edits
            if spec.layer == layer.index
            for group in spec.groups
            for head in layer.group_heads(group)
        }
        whole = (group for group in range(layer.n_kv_heads) if zeroed.issuperset(layer.group_heads(group)))
        removed[layer.index] = tuple(whole)
    one = layers[0]
    left = one.n_kv_heads - _one_count(option, "key/value group", removed, one.n_kv_heads)
    keys = {
        "num_key_value_heads": left,
        "num_attention_heads": left * (one.n_heads // one.n_kv_heads),
        "head_dim": one.d_head,
    }
    warning = (
        "pruned key/value groups: head_dim is no key of this type's stock configuration, though transformers "
        "reads it; vLLM, TGI and llama.cpp may compute hidden_size / num_attention_heads instead"
        if how == EXTRA_KEY
        else f"pruned key/value groups: {NOT_CHECKED}"
    )
    return Removal("key/value group", removed, one.n_kv_heads, keys, warning)


def _neurons(edits: Sequence[AblationSpec], model_type: str, layers: Sequence[LayerSites]) -> Removal:
    key, why = neuron_removal(model_type)
    option = "prune-neurons"
    if any(layer.has_experts for layer in layers) or len({layer.n_neurons for layer in layers}) != 1:
        why = "no one key of its stock configuration is the width of every layer's MLP"
    if why:
        raise _refused(option, why)
    removed: dict[int, tuple[int, ...]] = {
        layer.index: tuple(sorted(n for spec in edits if spec.layer == layer.index for n in spec.neurons))
        for layer in layers
    }
    width = layers[0].n_neurons
    left = width - _one_count(option, "neuron", removed, width)
    warning = f"pruned neurons: {NOT_CHECKED}"
    return Removal("neuron", removed, width, {key: left}, warning)


def _one_count(option: str, unit: str, removed: Mapping[int, tuple[int, ...]], before: int) -> int:
    """How many each layer loses. Refused where it is none, all, or not one number."""
    counts = {layer: len(units) for layer, units in removed.items()}
    least, most = min(counts, key=lambda at: counts[at]), max(counts, key=lambda at: counts[at])
    if counts[most] == 0:
        raise _refused(option, f"no {unit} is zeroed as a whole, so none can be removed", remedy=False)
    if counts[least] != counts[most]:
        raise _refused(
            option,
            f"layer {least} loses {counts[least]} and layer {most} loses {counts[most]}, but a stock "
            f"configuration has one number of {unit}s for all layers: zero as many in every layer",
        )
    if counts[most] == before:
        raise _refused(option, f"no {unit} would be left")
    return counts[most]


def _refused(option: str, why: str, remedy: bool = True) -> SparkablateError:
    keep = f". Leave {flag(option)} out to keep them as zeros." if remedy else ""
    return SparkablateError("bake_refused", f"{flag(option, True)}: {why}{keep}")


class Cutter:
    """The tensors that become shorter, by what transformers builds of this configuration."""

    def __init__(self, model: nn.Module, sites: SiteMap, bias_keys: Iterable[str] = ()) -> None:
        self._model: Any = model
        self._sites = sites
        self._on: dict[str, Any] = dict.fromkeys(bias_keys, True)

    def shorter(self, removal: Removal) -> list[Shorter]:
        """Raises "bake_refused" where the stock class builds no such model, or another than expected."""
        before, after = self._shapes({}, removal), self._shapes(removal.keys, removal)
        option = "prune-neurons" if removal.unit == "neuron" else "prune-kv-groups"
        found = []
        if before.keys() != after.keys():
            raise _refused(option, "its stock class makes other tensors of that size")
        left = removal.before - removal.count
        for name, shape in before.items():
            if shape == after[name]:
                continue
            layer = next((one for one in self._sites.layers if name.startswith(f"{one.path}.")), None)
            axes = [
                axis for axis, (old, new) in enumerate(zip(shape, after[name], strict=True)) if old != new
            ]
            if layer is None or len(axes) != 1 or len(shape) != len(after[name]):
                raise _refused(option, f"its stock class changes {name} as well")
            (axis,) = axes
            inner = name.removeprefix(f"{layer.path}.")
            segments = self._segments(inner, shape[axis], layer)
            shrunk = [length // removal.before * left for length in segments]
            if any(length % removal.before for length in segments) or sum(shrunk) != after[name][axis]:
                raise _refused(option, f"it is not known how {name} is cut")
            found.append(Shorter(layer.index, inner, axis, segments))
        cut = {(one.layer, one.name) for one in found}
        for index in removal.removed:
            layer = self._sites.layers[index]
            tap = layer.neurons if removal.unit == "neuron" else layer.heads
            assert tap is not None
            if (index, f"{tap.path.removeprefix(f'{layer.path}.')}.weight") not in cut:
                raise _refused(option, f"{', '.join(removal.keys)} does not change {tap.path}")
        return found

    def _segments(self, name: str, length: int, layer: LayerSites) -> tuple[int, ...]:
        fused = fused_in(self._sites.model_type, name)
        if fused == "qkv":
            queries, keys = layer.n_heads * layer.d_head, layer.n_kv_heads * layer.d_head
            return queries, keys, keys
        if fused == "gate_up":
            return length // 2, length // 2
        return (length,)

    def _shapes(self, keys: Mapping[str, int], removal: Removal) -> dict[str, tuple[int, ...]]:
        config = copy.deepcopy(self._model.config)
        text = config.get_text_config()
        option = "prune-neurons" if removal.unit == "neuron" else "prune-kv-groups"
        try:
            new = type(text).from_dict({**text.to_dict(), **self._on, **keys})
            if text is config:
                config = new
            else:
                config.text_config = new
            built = build_empty(config)
        except (StrictDataclassError, SparkablateError) as error:
            sizes = ", ".join(f"{key} {value}" for key, value in keys.items())
            why = str(error).strip().splitlines()[-1].strip()
            raise _refused(option, f"its stock class refuses {sizes}: {why}") from error
        return {name: tuple(parameter.shape) for name, parameter in built.named_parameters()}


def positions(one: Shorter, removal: Removal) -> list[int]:
    """Of the tensor's axis, the positions that stay."""
    kept = removal.kept(one.layer)
    found = []
    for start, length in zip(_starts(one.segments), one.segments, strict=True):
        run = length // removal.before
        found += [start + unit * run + offset for unit in kept for offset in range(run)]
    return found


def _starts(segments: Sequence[int]) -> list[int]:
    starts = [0]
    for length in segments[:-1]:
        starts.append(starts[-1] + length)
    return starts
