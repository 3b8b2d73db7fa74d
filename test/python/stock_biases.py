"""Which keys of stock configurations give a writing projection a bias: found on the tiny models, each built
with the key off and on."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

from huggingface_hub.errors import StrictDataclassClassValidationError
from transformers import AutoConfig

import tiny_models
from sparkablate.anatomy.architectures import Architecture, locate, row_of
from sparkablate.anatomy.modules import resolve
from sparkablate.loading.configuration import build_empty

KINDS = ("attention", "mixer", "mlp")


@dataclass(frozen=True)
class Found:
    """`keys`: kind of projection → the key that gives it a bias. `modules`: key → all that get one, within a
    layer."""

    keys: dict[str, str]
    modules: dict[str, tuple[str, ...]]


def plain_models() -> dict[str, tiny_models.Tiny]:
    """Without the wrappers."""
    every = tiny_models.TINY | tiny_models.TWINS
    return {name: tiny for name, tiny in every.items() if tiny.text_type is None}


def row(tiny: tiny_models.Tiny) -> Architecture | None:
    return row_of(AutoConfig.for_model(tiny.model_type, **tiny.config))


@cache
def found() -> dict[str, Found]:
    """Model type → its keys, where there are any and a bias is of use: where no norm follows."""
    by_type: dict[str, Found] = {}
    for tiny in plain_models().values():
        here = by_type.setdefault(tiny.model_type, Found({}, {}))
        for key, kinds, modules in _keys(AutoConfig.for_model(tiny.model_type, **tiny.config)):
            here.keys.update(dict.fromkeys(kinds, key))
            here.modules[key] = tuple(sorted({*modules, *here.modules.get(key, ())}))
    return {name: one for name, one in sorted(by_type.items()) if one.keys}


def _keys(config: Any) -> Iterator[tuple[str, set[str], set[str]]]:
    row = row_of(config)
    assert row is not None
    if row.no_bake or row.norm_after_write:
        return
    for key, value in config.to_dict().items():
        if "bias" not in key or not isinstance(value, bool):
            continue
        try:
            off, on = (type(config).from_dict({**config.to_dict(), key: there}) for there in (False, True))
        except StrictDataclassClassValidationError:
            continue  # the class allows one of them only
        if row_of(off) is not row or row_of(on) is not row:
            continue
        without, given = build_empty(off), build_empty(on)
        kinds = {kind for kind in KINDS if _biased(given, row)[kind] - _biased(without, row)[kind]}
        names = {name for name, _ in given.named_parameters()} - {
            name for name, _ in without.named_parameters()
        }
        layers = [f"{layer.path}." for layer in locate(given).layers]
        inside = {name.removeprefix(path) for name in names for path in layers if name.startswith(path)}
        if kinds and all(name.startswith(tuple(layers)) for name in names):
            yield key, kinds, {name.removesuffix(".bias") for name in inside}


def _biased(model: Any, row: Any) -> dict[str, set[str]]:
    """The projections that write and have a bias, by kind."""
    having: dict[str, set[str]] = defaultdict(set)
    for layer in locate(model).layers:
        paths: dict[str, list[str]] = {}
        if layer.heads is not None:
            paths["attention"] = [layer.heads.path]
        elif "attn" in layer.writes:
            made = dict(row.outputs).get("attn", ())
            paths["mixer"] = [f"{layer.path}.{one.weight.removesuffix('.weight')}" for one in made]
        if layer.neurons is not None:
            paths["mlp"] = [layer.neurons.path]
        for kind, here in paths.items():
            having[kind] |= {path for path in here if getattr(resolve(model, path), "bias", None) is not None}
    return having
