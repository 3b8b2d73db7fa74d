"""First-order effects against central differences of the edits' strength, in float64.

The edits of the reference are written here from their definitions; nothing of `sparkablate.edits` is run in it.
"""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from sparkablate.anatomy.sites import LayerSites, SiteMap, Tap
from sparkablate.edits.given import joined
from sparkablate.errors import SparkablateError
from sparkablate.manager import AblationManager, MeanKey
from sparkablate.measure.attribution import Attribution, SiteSums, WholeSite
from sparkablate.measure.backward import Room
from sparkablate.measure.donors import Donors
from sparkablate.measure.given import Given
from sparkablate.measure.likelihood import Likelihood
from sparkablate.measure.walk import Entries, prove_entries
from sparkablate.specs import AblationSpec, DirectionSpec, Spec, canonical, condition_id, validate
from tiny_models import TINY, make, tokens

#: Types that differ in kind: sequential, a table of positions, parallel, a flat MLP, norms behind the writes,
#: experts beside a shared one, a state space, and one that is never walked.
NAMES = ("llama", "gpt2", "gpt_neox", "opt", "olmo2", "qwen2_moe", "mamba2", "gemma4_text")
#: Of the edits' full strength.
STEP = 1e-5
SOURCE = tokens(seed=3)


class Doubled(TorchFunctionMode):
    """Models that shorten to float32 on their way compute in float64 instead."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is Tensor.float:
            func = Tensor.double
        wide = [torch.float64 if one is torch.float32 else one for one in args]
        named = {key: torch.float64 if one is torch.float32 else one for key, one in (kwargs or {}).items()}
        return func(*wide, **named)


class Bench:
    def __init__(self, name: str, model: Any = None) -> None:
        self.model = make(TINY[name], torch.float64) if model is None else model
        self.model.set_experts_implementation("eager")  # the fused kernel has no float64
        self.manager = AblationManager(self.model)
        self.sites = self.manager.sites
        self.manager.calibrate_means([tokens(seed=7)])
        self.likelihood = Likelihood(self.model, self.sites)
        self.entries = prove_entries(self.likelihood, tokens(batch=1))
        self.ids = tokens()
        self.donors = {
            tuple(key): value for key, value in self.manager.record_sources(SOURCE, "resample").items()
        }

    def attribute(
        self,
        conditions: Sequence[Sequence[Spec]],
        given: Sequence[Spec] = (),
        wholes: Sequence[WholeSite] = (),
        room: Room | None = None,
        **more: Any,
    ) -> tuple[np.ndarray, list[SiteSums]]:
        donors = Donors(self.manager, self.likelihood, self.entries, {"resample": SOURCE})
        base = Given(self.manager, tuple(canonical(given)))
        attribution = Attribution(
            self.manager, self.likelihood, self.entries, base, donors, room or Room(limit=1 << 30)
        )
        return attribution.run(self.ids, conditions, wholes, **more)

    def losses(self) -> Tensor:
        """[batch]"""
        with torch.no_grad():
            logits = self.model(input_ids=self.ids, use_cache=False).logits[:, :-1]
        flat = functional.cross_entropy(
            logits.flatten(0, 1), self.ids[:, 1:].flatten(), reduction="none"
        )
        return flat.view(len(self.ids), -1).sum(dim=1)

    def slopes(self, specs: Sequence[Spec], given: Sequence[Spec] = ()) -> np.ndarray:
        """d loss / d strength by central differences  # [batch]"""
        sides = []
        for strength in (STEP, -STEP):
            with self.edited(joined(given, specs, self.sites).specs, given, strength):
                sides.append(self.losses())
        return ((sides[0] - sides[1]) / (2 * STEP)).numpy()

    @contextmanager
    def edited(self, joint: Sequence[Spec], given: Sequence[Spec], strength: float) -> Iterator[None]:
        """The model under the given edits, on its way to the joint ones."""
        base, whole = self.by_tap(given), self.by_tap(joint)
        streams: dict[int, Tensor] = {}

        def interpolated(tap: Tap, x: Tensor) -> Tensor:
            before = self.made(base[tap], x, streams)
            if tap not in whole:
                return before
            return before + strength * (self.made(whole[tap], x, streams) - before)

        with ExitStack() as stack:
            for layer in self.sites.layers:
                stack.callback(_before(layer.module, lambda x, at=layer.index: streams.update({at: x.clone()})))
            for tap in {**base, **whole}:
                stack.callback(_at(tap, lambda x, tap=tap: interpolated(tap, x)))
            yield

    def by_tap(self, specs: Sequence[Spec]) -> dict[Tap, list[Spec | tuple[AblationSpec, list[DirectionSpec]]]]:
        found: dict[Tap, list[Any]] = defaultdict(list)
        directions = [spec for spec in specs if isinstance(spec, DirectionSpec)]
        replaced = {spec.layer for spec in specs if isinstance(spec, AblationSpec) and spec.kind == "layer"}
        for spec in specs:
            if isinstance(spec, DirectionSpec):
                continue
            layer = self.sites.layers[spec.layer]
            if spec.kind == "layer":
                missing = [d for d in directions if d.at == "writes" and spec.layer in d.indices(self.sites.n_layers)]
                found[layer.stream].append((spec, missing))
            else:
                found[_tap(layer, spec.kind)].append(spec)
        for spec in directions:
            taps: list[Tap] = []
            for index in spec.indices(self.sites.n_layers):
                layer = self.sites.layers[index]
                if spec.at == "stream":
                    taps.append(layer.stream)
                elif index not in replaced:
                    taps += layer.writes.values()
            for tap in [*taps, *(self.sites.embedding if spec.edits_embedding else ())]:
                found[tap].append(spec)
        return found

    def made(self, specs: Sequence[Any], x: Tensor, streams: dict[int, Tensor]) -> Tensor:
        directions = [spec for spec in specs if isinstance(spec, DirectionSpec)]
        for spec in specs:
            if isinstance(spec, tuple):
                x = streams[spec[0].layer]
                if spec[0].mode == "mean":
                    constant = self.manager.mean(MeanKey("layer", spec[0].layer)).double().expand_as(x)
                    x = x + _turned(spec[1], constant, self.ids)
            elif isinstance(spec, AblationSpec):
                x = self.put(spec, x)
        return _turned(directions, x, self.ids)

    def put(self, spec: AblationSpec, x: Tensor) -> Tensor:
        values = {"head": "head", "kv_group": "head"}.get(spec.kind, spec.kind)
        new = torch.zeros_like(x)
        if spec.mode == "mean":
            new = self.manager.mean(MeanKey(values, spec.layer, spec.positions)).double().expand_as(x)
        elif spec.mode == "resample":
            new = self.donors[values, spec.layer]
        layer, mask = self.sites.layers[spec.layer], torch.ones(x.shape[-1], dtype=torch.bool)
        if spec.parts:
            mask[:] = False
            count = {"head": layer.n_heads, "kv_group": layer.n_kv_heads, "neuron": layer.n_neurons}[spec.kind]
            mask.view(count, -1)[list(spec.parts)] = True
        mask = mask.expand_as(x)
        if spec.positions == "not_first":
            mask = mask & ~_first(x, self.ids)
        return torch.where(mask, new, x)


def _tap(layer: LayerSites, kind: str) -> Tap:
    taps = {"head": layer.heads, "kv_group": layer.heads, "neuron": layer.neurons}
    tap = taps[kind] if kind in taps else layer.writes[kind]
    assert tap is not None
    return tap


def _first(x: Tensor, ids: Tensor) -> Tensor:
    """Whether an element stands at a block's first position."""
    at = torch.arange(ids.shape[1]) == 0
    if x.dim() == 2:
        return at.repeat(len(ids))[:, None]
    return at[None, :, None]


def _turned(directions: Sequence[DirectionSpec], x: Tensor, ids: Tensor) -> Tensor:
    """Less the span of what is projected out, by the pseudo-inverse, and with what is added."""
    vectors = [spec.vector.double() for spec in directions if spec.op == "project_out"]
    new = x
    if vectors:
        rows = torch.stack(vectors)
        new = x - directions[0].coefficient * (x @ torch.linalg.pinv(rows)) @ rows
    for spec in directions:
        if spec.op == "add":
            new = new + spec.coefficient * spec.norm * spec.vector.double()
    if directions and directions[0].positions == "not_first":
        new = torch.where(_first(x, ids), x, new)
    return new


def _before(module: Any, see: Callable[[Tensor], Any]) -> Callable[[], None]:
    def hook(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        see(args[0] if args else kwargs["hidden_states"])

    return module.register_forward_pre_hook(hook, with_kwargs=True).remove


def _at(tap: Tap, make_of: Callable[[Tensor], Tensor]) -> Callable[[], None]:
    def before(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if args:
            return (make_of(args[0]), *args[1:]), kwargs
        return args, {**kwargs, "hidden_states": make_of(kwargs["hidden_states"])}

    def after(module: Any, args: tuple[Any, ...], output: Any) -> Any:
        return (make_of(output[0]), *output[1:]) if isinstance(output, tuple) else make_of(output)

    if tap.side == "input":
        return tap.module.register_forward_pre_hook(before, with_kwargs=True).remove
    return tap.module.register_forward_hook(after).remove


def unit(seed: int, width: int) -> Tensor:
    vector = torch.randn(width, generator=torch.Generator().manual_seed(seed))
    return vector / vector.norm()


def conditions(sites: SiteMap) -> Iterator[list[Spec]]:
    """Every site in every mode and layer; directions at one place and at many; joint conditions."""
    parts = {"head": "heads", "kv_group": "groups", "neuron": "neurons"}
    d, n = sites.d_model, sites.n_layers
    for layer in sites.layers:
        for kind in ("head", "kv_group", "attn", "neuron", "mlp"):
            for mode in ("zero", "mean", "resample"):
                for positions in ("all", "not_first"):
                    listed = {parts[kind]: (1,)} if kind in parts else {}
                    yield [AblationSpec(kind, layer.index, mode=mode, positions=positions, **listed)]
        yield [AblationSpec("layer", layer.index)]
        yield [AblationSpec("layer", layer.index, mode="mean")]
        yield [
            AblationSpec("layer", layer.index, mode="mean"),
            DirectionSpec("project_out", unit(1, d), layers=(layer.index,)),
        ]
    for positions in ("all", "not_first"):
        yield [DirectionSpec("project_out", unit(1, d), positions=positions)]
        yield [DirectionSpec("project_out", unit(1, d), at="stream", layers=(0,), positions=positions)]
        yield [DirectionSpec("add", unit(2, d), layers=(0, n - 1), norm=3.0, positions=positions)]
        # Far from orthogonal.
        near = unit(1, d) + 0.3 * unit(4, d)
        yield [
            DirectionSpec("project_out", unit(1, d), layers=(0, 1), positions=positions),
            DirectionSpec("project_out", near / near.norm(), layers=(1, 2), positions=positions),
        ]
    yield [DirectionSpec("project_out", unit(1, d), coefficient=0.5)]
    yield [AblationSpec("mlp", 0, mode="mean"), AblationSpec("attn", n - 1), AblationSpec("layer", 1)]
    yield [AblationSpec("head", 1, heads=(0, 2)), DirectionSpec("project_out", unit(1, d))]


def allowed(sites: SiteMap, given: Sequence[Spec] = ()) -> list[list[Spec]]:
    """Those that the model offers, and that may stand on the given edits."""
    found = []
    for specs in conditions(sites):
        with contextlib.suppress(SparkablateError):
            validate(specs, sites)
            joined(given, specs, sites)
            found.append(specs)
    return found


def compared(bench: Bench, given: Sequence[Spec], every: int = 1) -> list[tuple[str, float]]:
    """Condition → largest difference over the blocks, relative to the slope where that is above 1."""
    chosen = allowed(bench.sites, given)[::every]
    found, _ = bench.attribute(chosen, given)
    worst = []
    for specs, row in zip(chosen, found, strict=True):
        slopes = bench.slopes(specs, given)
        worst.append((condition_id(specs), float((np.abs(row - slopes) / np.maximum(1, np.abs(slopes))).max())))
    return worst


@pytest.mark.parametrize("name", [name for name in NAMES if name in TINY])
def test_it_is_the_slope_of_the_edits_strength(name: str) -> None:
    with Doubled():
        errors = compared(Bench(name), [], every=5)
    assert max(error for _, error in errors) < 1e-6, errors
