"""First-order effects against central differences of the edits' strength, in float64.

The reference's edits are written here from their definitions; nothing of `sparkablate.edits` is run in it.
"""

from __future__ import annotations

import contextlib
import re
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
from sparkablate.measure.items import Answers
from sparkablate.measure.likelihood import Likelihood
from sparkablate.measure.loss import loss_of
from sparkablate.measure.walk import prove_entries
from sparkablate.specs import AblationSpec, DirectionSpec, Spec, canonical, condition_id, validate
from tiny_models import TINY, VOCAB, make, tokens

#: Types that differ in kind: sequential, a table of positions, parallel, a flat MLP, norms behind the writes,
#: experts beside a shared one, a state space, and one that is never walked.
NAMES = ("llama", "gpt2", "gpt_neox", "opt", "olmo2", "qwen2_moe", "mamba2", "gemma4_text")
#: Of the edits' full strength.
STEP = 2e-6
#: Bytes that one layer's activations of a tiny model's batch fit, and two layers' do not.
FEW = 150_000
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
        attribution = Attribution(self.manager, self.likelihood, self.entries, base, donors, room or Room())
        return attribution.run(self.ids, conditions, wholes, **more)

    def losses(self) -> Tensor:
        """[batch]"""
        with torch.no_grad():
            logits = self.model(input_ids=self.ids, use_cache=False).logits[:, :-1]
        flat = functional.cross_entropy(logits.flatten(0, 1), self.ids[:, 1:].flatten(), reduction="none")
        return flat.view(len(self.ids), -1).sum(dim=1)

    def answer_losses(self) -> Tensor:
        """[batch]: the mean over the tokens of `answering`'s answers."""
        with torch.no_grad():
            logits = self.model(input_ids=self.ids, use_cache=False).logits[:, 2:5]
        flat = functional.cross_entropy(logits.flatten(0, 1), self.ids[:, 3:6].flatten(), reduction="none")
        return flat.view(len(self.ids), -1).mean(dim=1)

    def slopes(self, specs: Sequence[Spec], given: Sequence[Spec] = (), answers: bool = False) -> np.ndarray:
        """d loss / d strength by central differences  # [batch]"""
        sides = []
        for strength in (STEP, -STEP):
            with self.edited(joined(given, specs, self.sites).specs, given, strength):
                sides.append(self.answer_losses() if answers else self.losses())
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
                stack.callback(
                    _before(layer.module, lambda x, at=layer.index: streams.update({at: x.clone()}))
                )
            for tap in {**base, **whole}:
                stack.callback(_at(tap, lambda x, tap=tap: interpolated(tap, x)))
            yield

    def by_tap(
        self, specs: Sequence[Spec]
    ) -> dict[Tap, list[Spec | tuple[AblationSpec, list[DirectionSpec]]]]:
        found: dict[Tap, list[Any]] = defaultdict(list)
        directions = [spec for spec in specs if isinstance(spec, DirectionSpec)]
        replaced = {spec.layer for spec in specs if isinstance(spec, AblationSpec) and spec.kind == "layer"}
        for spec in specs:
            if isinstance(spec, DirectionSpec):
                continue
            layer = self.sites.layers[spec.layer]
            if spec.kind == "layer":
                missing = [
                    d for d in directions if d.at == "writes" and spec.layer in d.indices(self.sites.n_layers)
                ]
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
            count = {"head": layer.n_heads, "kv_group": layer.n_kv_heads, "neuron": layer.n_neurons}[
                spec.kind
            ]
            mask.view(count, -1)[list(spec.parts)] = True
        return torch.where(mask & ~_kept(spec, x, self.ids), new, x)


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
    removed = [spec for spec in directions if spec.op == "project_out"]
    added = [spec for spec in directions if spec.op == "add"]
    if removed:
        rows = torch.stack([_double(spec) for spec in removed])
        less = removed[0].coefficient * (x @ torch.linalg.pinv(rows)) @ rows
        x = torch.where(_kept(removed[0], x, ids), x, x - less)
    for spec in added:
        x = torch.where(_kept(spec, x, ids), x, x + spec.coefficient * spec.norm * _double(spec))
    return x


def _double(spec: DirectionSpec) -> Tensor:
    assert spec.vector is not None
    return spec.vector.double()


def _kept(spec: Spec, x: Tensor, ids: Tensor) -> Tensor:
    """Whether the spec leaves an element alone for its position."""
    return _first(x, ids) if spec.positions == "not_first" else torch.tensor(False)


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
    """Condition → largest difference over the blocks, relative to the slope where that is above 1. Of those
    without directions every so many-th."""
    chosen = allowed(bench.sites, given)
    plain = [specs for specs in chosen if all(isinstance(spec, AblationSpec) for spec in specs)]
    chosen = [specs for specs in chosen if specs not in plain or plain.index(specs) % every == 0]
    found, _ = bench.attribute(chosen, given)
    worst = []
    for specs, row in zip(chosen, found, strict=True):
        slopes = bench.slopes(specs, given)
        worst.append(
            (condition_id(specs), float((np.abs(row - slopes) / np.maximum(1, np.abs(slopes))).max()))
        )
    return worst


@pytest.mark.parametrize("name", [name for name in NAMES if name in TINY])
def test_it_is_the_slope_of_the_edits_strength(name: str) -> None:
    with Doubled():
        errors = compared(Bench(name), [], every=5)
    assert max(error for _, error in errors) < 1e-6, errors


def bases(sites: SiteMap) -> Iterator[list[Spec]]:
    """Given edits: of parts, of the embedding too, of whole layers, one of them replaced by a constant."""
    d = sites.d_model
    yield [AblationSpec("head", 1, heads=(1, 3), mode="resample"), AblationSpec("mlp", 0, mode="mean")]
    yield [DirectionSpec("project_out", unit(5, d))]
    yield [AblationSpec("layer", 1), AblationSpec("neuron", 2, neurons=(1, 4), positions="not_first")]
    yield [
        DirectionSpec("add", unit(6, d), layers=(0, 1), norm=2.0),
        AblationSpec("kv_group", 0, groups=(0,)),
    ]
    if not sites.layers[1].no_constant:
        yield [AblationSpec("layer", 1, mode="mean")]


@pytest.mark.parametrize("name", [name for name in ("llama", "gpt2", "olmo2") if name in TINY])
def test_given_edits_are_where_it_begins(name: str) -> None:
    with Doubled():
        bench = Bench(name)
        for given in bases(bench.sites):
            validate(given, bench.sites)
            errors = compared(bench, given, every=11)
            assert max(error for _, error in errors) < 1e-6, (given, errors)


def test_a_given_edit_that_is_replaced_ends_where_it_began() -> None:
    """At the first position, which the condition leaves alone, what is given acts no longer."""
    with Doubled():
        bench = Bench("llama")
        given = [AblationSpec("head", 1, heads=(2,)), AblationSpec("neuron", 0, neurons=(3,), mode="mean")]
        specs: list[Spec] = [
            AblationSpec("kv_group", 1, groups=(1,), mode="mean", positions="not_first"),
            AblationSpec("neuron", 0, neurons=(3, 9), positions="not_first"),
        ]
        [found], _ = bench.attribute([specs], given)
        assert np.allclose(found, bench.slopes(specs, given), rtol=1e-6, atol=1e-6)


def linear(name: str) -> Any:
    """A tiny model whose logits are linear in its last layer's stream."""
    model = make(TINY[name], torch.float64)
    model.model.norm = torch.nn.Identity()
    return model


def test_it_is_the_effect_where_the_model_is_linear() -> None:
    """A logit difference, and what only linear maps lie behind: the last layer's writes; its heads too, once
    the MLP above them writes nothing."""
    with Doubled():
        bench = Bench("llama", linear("llama"))
        last = bench.sites.n_layers - 1
        answers = answering(bench.ids)
        no_mlp = [AblationSpec("mlp", last)]
        cases: list[tuple[list[Spec], list[Spec]]] = [
            ([], [AblationSpec("mlp", last, mode="mean")]),
            ([], [AblationSpec("neuron", last, neurons=(0, 7, 63))]),
            ([], [AblationSpec("layer", last)]),
            ([], [DirectionSpec("project_out", unit(1, 32), layers=(last,), at="stream")]),
            (no_mlp, [AblationSpec("head", last, heads=(2,), mode="resample")]),
            (no_mlp, [AblationSpec("attn", last, positions="not_first")]),
        ]
        for given, specs in cases:
            [found], _ = bench.attribute([specs], given, metric="logit_diff", answers=answers)
            effects = []
            for strength in (1.0, 0.0):
                with bench.edited(joined(given, specs, bench.sites).specs, given, strength):
                    effects.append(differences(bench))
            assert np.allclose(found, effects[0] - effects[1], rtol=0, atol=1e-12), specs
            assert np.abs(found).min() > 1e-3


def answering(ids: Tensor) -> Answers:
    """Each row's answer is at positions 3 to 5; a wrong one differs from position 4 on."""
    wrong = [{"at": 4, "token": (int(row[4]) + 1) % VOCAB} for row in ids]
    return Answers.from_wire([{"begin": 3, "end": 6, "wrong": one} for one in wrong], ids, VOCAB)


def differences(bench: Bench) -> np.ndarray:
    """[items]: the answers' logit less the wrong ones', where they first differ."""
    with torch.no_grad():
        logits = bench.model(input_ids=bench.ids, use_cache=False).logits[:, 3]
    right = bench.ids[:, 4:5]
    return (logits.gather(1, right) - logits.gather(1, (right + 1) % VOCAB))[:, 0].numpy()


def test_of_a_task_it_is_the_slope_of_the_items_own_values() -> None:
    with Doubled():
        bench = Bench("llama")
        answers, specs = answering(bench.ids), [AblationSpec("attn", 0, mode="mean")]
        [found], _ = bench.attribute([specs], answers=answers)
        assert np.allclose(found, bench.slopes(specs, answers=True), rtol=1e-6, atol=1e-8)


def test_what_stands_at_positions_that_are_not_measured_is_of_no_account() -> None:
    """As padding behind an item may be anything."""
    bench = Bench("llama")
    loss = loss_of("nll", bench.ids, answering(bench.ids))
    hidden = torch.randn(
        *bench.ids.shape, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(0)
    )
    whole = loss.gradient(bench.likelihood, hidden)
    hidden[:, 8:] = torch.nan
    assert torch.equal(loss.gradient(bench.likelihood, hidden), whole)
    assert [int(at) for at in whole[0].abs().sum(dim=1).nonzero()] == [2, 3, 4]


def test_what_changes_nothing_has_none_at_all() -> None:
    bench = Bench("llama")
    same = Donors(bench.manager, bench.likelihood, bench.entries, {"patch": bench.ids})
    attribution = Attribution(
        bench.manager, bench.likelihood, bench.entries, Given(bench.manager), same, Room()
    )
    unedited: list[list[Spec]] = [
        [],
        [AblationSpec("mlp", 1, mode="patch"), AblationSpec("head", 0, heads=(1,), mode="patch")],
        [DirectionSpec("project_out", unit(1, 32), coefficient=0)],
    ]
    found, _ = attribution.run(bench.ids, [*unedited, [AblationSpec("mlp", 1)]])
    assert np.array_equal(found[:3], np.zeros((3, 2)))
    assert np.abs(found[3]).min() > 0


def test_whole_sites_are_the_sums_of_their_parts() -> None:
    """On top of given edits: what they cover has none; a group of which they hold one head has its own."""
    bench = Bench("qwen2_moe")
    given = [
        AblationSpec("neuron", 1, neurons=(3, 5)),
        AblationSpec("head", 0, heads=(0,)),
        AblationSpec("mlp", 2),
    ]
    wholes = [
        WholeSite("neuron", "zero"),
        WholeSite("kv_group", "mean", "not_first"),
        WholeSite("mlp", "resample"),
    ]
    _, sums = bench.attribute([], given, wholes)
    assert [(one.site, one.layer) for one in sums] == [
        (site, layer) for site in range(3) for layer in range(3)
    ]
    parts = {"neuron": "neurons", "kv_group": "groups"}
    alone: list[tuple[AblationSpec, float]] = []
    for one in sums:
        whole = wholes[one.site]
        for part, value in enumerate(one.sums):
            listed = {parts[whole.kind]: (part,)} if whole.kind in parts else {}
            spec = AblationSpec(whole.kind, one.layer, mode=whole.mode, positions=whole.positions, **listed)
            if np.isnan(value):
                with pytest.raises(SparkablateError, match="cannot be measured"):
                    joined(given, [spec], bench.sites)
            else:
                alone.append((spec, value))
    found, _ = bench.attribute([[spec] for spec, _ in alone], given)
    assert np.allclose(found.sum(axis=1), [value for _, value in alone], rtol=1e-12, atol=1e-15)
    covered = [int(np.isnan(one.sums).sum()) for one in sums]
    assert covered == [0, 2, len(sums[2].sums), 0, 0, 0, 0, 0, 1]


def test_a_few_layers_at_a_time_give_the_same() -> None:
    """Where activations do not fit; an edit of the embedding is given, which reaches over all spans."""
    bench = Bench("llama")
    directed: list[list[Spec]] = [[], [DirectionSpec("project_out", unit(5, 32), positions="not_first")]]
    for given in directed:
        chosen = allowed(bench.sites, given)[::9]
        whole, sums = bench.attribute(chosen, given, [WholeSite("neuron", "zero")])
        room = Room(free=FEW)
        parts, again = bench.attribute(chosen, given, [WholeSite("neuron", "zero")], room)
        assert room.layers == 1
        assert np.allclose(parts, whole, rtol=1e-6, atol=1e-12)
        for one, other in zip(again, sums, strict=True):
            assert np.allclose(one.sums, other.sums, rtol=1e-6, atol=1e-12)


def test_activations_that_fit_in_no_way_are_refused() -> None:
    bench = Bench("gemma4_text")  # which is never entered above its first layer
    with pytest.raises(SparkablateError, match="more activations than there is memory free") as caught:
        bench.attribute([[AblationSpec("mlp", 0)]], room=Room(free=FEW))
    assert caught.value.code == "out_of_memory"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_shorter_floats_give_it_as_far_as_they_reach(dtype: torch.dtype) -> None:
    specs: list[list[Spec]] = [[AblationSpec("mlp", 0)], [AblationSpec("head", 1, heads=(2,), mode="mean")]]
    exact, _ = Bench("llama").attribute(specs)
    found, _ = Bench("llama", make(TINY["llama"], dtype)).attribute(specs)
    assert found.dtype == np.float64
    assert np.allclose(found, exact, rtol=0, atol=1e-4 if dtype == torch.float32 else 0.2)


def test_the_model_is_left_as_it_was() -> None:
    bench = Bench("gpt2")
    wanting = [parameter.requires_grad for parameter in bench.model.parameters()]
    before = bench.losses()
    given = [AblationSpec("mlp", 1)]
    bench.attribute(allowed(bench.sites, given)[::20], given)
    assert torch.equal(bench.losses(), before)
    assert [parameter.requires_grad for parameter in bench.model.parameters()] == wanting
    assert all(parameter.grad is None for parameter in bench.model.parameters())
    hooks = [[*module._forward_hooks, *module._forward_pre_hooks] for module in bench.model.modules()]
    assert not any(hooks)


class OneWay(torch.autograd.Function):
    """As a kernel that was written for the forward pass alone."""

    @staticmethod
    def forward(context: Any, x: Tensor) -> Tensor:
        return x.clone()


@pytest.mark.parametrize(
    ("kernel", "words"),
    [
        (OneWay.apply, "LlamaForCausalLM has no backward pass, so that nothing has a first-order effect: "),
        (lambda x: x.detach(), "no gradient comes to model.layers.1.mlp.down_proj: "),
    ],
)
def test_where_nothing_comes_back_it_is_refused(kernel: Any, words: str) -> None:
    bench = Bench("llama")
    bench.model.model.layers[1].mlp.down_proj.register_forward_hook(
        lambda module, args, output: kernel(output)
    )
    with pytest.raises(SparkablateError, match=re.escape(words)) as caught:
        bench.attribute([[AblationSpec("neuron", 1, neurons=(2,))]])
    assert caught.value.code == "hook_failed"


@pytest.mark.parametrize(
    ("specs", "more", "code", "words"),
    [
        ([AblationSpec("mlp", 1)], {}, "conditions_overlap", "L1.mlp.zero lies in what "),
        ([AblationSpec("mlp", 9)], {}, "config_invalid", "L9.mlp.zero: the model has layers 0 to 2"),
        ([AblationSpec("mlp", 0, mode="patch")], {}, "input_missing", "L0.mlp.patch has no donor"),
        (
            [AblationSpec("mlp", 0)],
            {"metric": "kl"},
            "config_invalid",
            "kl has no first-order term; allowed: nll",
        ),
        ([AblationSpec("mlp", 0)], {"metric": "logit_diff"}, "config_invalid", "a task with wrong answers"),
        (
            [],
            {"wholes": [WholeSite("neuron", "zero")]},
            "site_unsupported",
            "no layer of this model offers neuron",
        ),
    ],
)
def test_what_cannot_be_attributed_is_named(specs: list[Spec], more: Any, code: str, words: str) -> None:
    bench = Bench("mixtral")
    with pytest.raises(SparkablateError, match=re.escape(words)) as caught:
        bench.attribute([specs], [AblationSpec("mlp", 1)], **more)
    assert caught.value.code == code
