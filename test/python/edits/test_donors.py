"""Resample ablation and patching: a site takes what it has in a forward pass of other tokens."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import model_directory
import numpy as np
import pytest
import torch
from model_directory import model_config
from torch import Tensor
from torch.nn import functional

from sparkablate.anatomy.architectures import ARCHITECTURES
from sparkablate.anatomy.sites import SiteMap
from sparkablate.bake import rules
from sparkablate.edits.donors import SourceKey, record_activations
from sparkablate.engines.local import LocalEngine
from sparkablate.engines.requests import Caller, Evaluate, Generate, Load
from sparkablate.errors import SparkablateError
from sparkablate.manager import AblationManager
from sparkablate.measure import donors as donors_module
from sparkablate.measure.donors import Donors
from sparkablate.measure.likelihood import Likelihood
from sparkablate.measure.metrics import metrics_of
from sparkablate.measure.slice import Measurement
from sparkablate.measure.walk import Walk, first_edit, prove_entries
from sparkablate.specs import AblationSpec, Spec, condition_id
from tiny_models import TINY, tokens

DTYPES = (torch.float32, torch.bfloat16)
MODES = ("resample", "patch")


def conditions(sites: SiteMap, mode: str) -> Iterator[list[Spec]]:
    """Every site of every layer in that mode, and joint ones over several layers."""
    attending = [layer for layer in sites.layers if "head" in layer.sites]
    for layer in sites.layers:
        index = layer.index
        if "head" in layer.sites:
            yield [AblationSpec("head", index, heads=(layer.n_heads - 1,), mode=mode)]
        if "kv_group" in layer.sites:
            yield [AblationSpec("kv_group", index, groups=(0,), mode=mode)]
        if "neuron" in layer.sites:
            yield [AblationSpec("neuron", index, neurons=(0, 2), mode=mode, positions="not_first")]
        for kind in ("attn", "mlp"):
            if kind in layer.sites:
                yield [AblationSpec(kind, index, mode=mode)]
                yield [AblationSpec(kind, index, mode=mode, positions="not_first")]
    if len(attending) > 1:
        first, last = attending[0], attending[-1]
        yield [
            AblationSpec("head", last.index, heads=(0,), mode=mode),
            AblationSpec("head", first.index, heads=(0, 1), mode=mode),
            AblationSpec("mlp", last.index, mode=mode),
        ]
        yield [AblationSpec("mlp", first.index), AblationSpec("attn", last.index, mode=mode)]
    if "mlp" in sites.layers[-1].sites:
        yield [AblationSpec("layer", 0), AblationSpec("mlp", sites.n_layers - 1, mode=mode)]


def plain_nll(model: Any, manager: AblationManager, ids: Tensor, specs: list[Spec]) -> Tensor:
    """[batch, pos - 1]: the model's own forward pass and full logits; nothing of the walk."""
    with torch.inference_mode(), manager.applied(specs):
        logits = model(input_ids=ids, use_cache=False).logits[:, :-1].float()
    losses = functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten(), reduction="none")
    return losses.view(ids.shape[0], -1)


@pytest.mark.parametrize("dtype", DTYPES, ids=["float32", "bfloat16"])
@pytest.mark.parametrize("name", TINY)
def test_the_walk_gives_the_plain_passes_bits_and_its_own_source_the_baselines(
    tiny: Callable[..., Any], name: str, dtype: torch.dtype
) -> None:
    model = tiny(name, dtype)
    manager = AblationManager(model)
    likelihood = Likelihood(model, manager.sites)
    entries = prove_entries(likelihood, tokens(batch=1))
    ids, others = tokens(), tokens(seed=5)
    nll = metrics_of(["nll"])
    baseline = plain_nll(model, manager, ids, [])
    for mode, source in (("resample", others), ("patch", ids)):
        plain = AblationManager(model)
        plain.record_sources(source, mode=mode)
        walk, donors = Walk(likelihood, entries, ids), Donors(manager, likelihood, entries, {mode: source})
        every = sorted(conditions(manager.sites, mode), key=lambda specs: first_edit(specs, manager.sites))
        for done, specs in enumerate(every):
            donors.provide(specs, every[done + 1 :])
            hidden = walk.final_hidden(
                first_edit(specs, manager.sites),
                lambda: manager.applied(specs),  # noqa: B023
            )
            walked = likelihood.measure(hidden, ids, nll, None)["nll"]
            assert torch.equal(walked, plain_nll(model, plain, ids, specs)), condition_id(specs)
            alone = all(isinstance(spec, AblationSpec) and spec.mode == mode for spec in specs)
            if alone:
                assert torch.equal(walked, baseline) == (source is ids), condition_id(specs)


class TestManager:
    @pytest.mark.parametrize("row", ["llama", "gpt2", "qwen3", "gemma2"])
    def test_what_is_put_in_is_what_the_site_had_there(self, row: str, tiny: Callable[..., Any]) -> None:
        """By hand: the source's slice of the projection's input, seen by a hook of our own in both passes."""
        model = tiny(row)
        manager = AblationManager(model)
        layer = manager.sites.layers[1]
        seen: list[Tensor] = []
        assert layer.attention_output is not None
        handle = layer.attention_output.register_forward_hook(
            lambda module, args, output: seen.append(args[0].clone())
        )
        ids, others = tokens(), tokens(seed=5)
        with torch.inference_mode():
            model(input_ids=others, use_cache=False)
            model(input_ids=ids, use_cache=False)
        manager.record_sources(others)
        seen.pop()
        with torch.inference_mode(), manager.applied(AblationSpec("head", 1, heads=(2,), mode="patch")):
            model(input_ids=ids, use_cache=False)
        handle.remove()
        source, own, edited = (tensor.clone() for tensor in seen)
        head = slice(2 * layer.d_head, 3 * layer.d_head)
        assert torch.equal(edited[..., head], source[..., head])
        assert not torch.equal(source[..., head], own[..., head])
        edited = torch.cat([edited[..., : head.start], own[..., head], edited[..., head.stop :]], dim=-1)
        assert torch.equal(edited, own)

    def test_each_mode_has_its_own(self, tiny: Callable[..., Any]) -> None:
        manager = AblationManager(tiny("llama"))
        ids = tokens()
        manager.record_sources(ids, mode="patch")
        manager.record_sources(tokens(seed=5), mode="resample")
        baseline = plain_nll(manager.model, manager, ids, [])
        spec = {mode: AblationSpec("mlp", 1, mode=mode) for mode in MODES}
        assert torch.equal(plain_nll(manager.model, manager, ids, [spec["patch"]]), baseline)
        assert not torch.equal(plain_nll(manager.model, manager, ids, [spec["resample"]]), baseline)

    def test_padding_goes_with_its_mask(self, tiny: Callable[..., Any]) -> None:
        """Left padding: the source is what the masked pass has, so its own tokens change nothing."""
        model = tiny("llama")
        manager = AblationManager(model)
        ids, mask = tokens(), torch.ones(2, 12, dtype=torch.long)
        ids[0, :3], mask[0, :3] = 0, 0
        manager.record_sources(ids, attention_mask=mask)
        with torch.inference_mode():
            expected = model(input_ids=ids, attention_mask=mask).logits
            with manager.applied([AblationSpec("attn", layer, mode="patch") for layer in range(3)]):
                assert torch.equal(model(input_ids=ids, attention_mask=mask).logits, expected)

    def test_without_a_source_nothing_is_changed(self, tiny: Callable[..., Any]) -> None:
        manager = AblationManager(tiny("llama"))
        manager.record_sources(tokens(), mode="patch", keys=[SourceKey("mlp", 1)])
        for spec in (AblationSpec("mlp", 0, mode="patch"), AblationSpec("mlp", 1, mode="resample")):
            with pytest.raises(SparkablateError, match="has no donor: call record_sources") as caught:
                manager.applied(spec).__enter__()
            assert caught.value.code == "input_missing"

    def test_another_shape_is_refused(self, tiny: Callable[..., Any]) -> None:
        """No row is repeated and no position cut: one source row must not stand for a whole batch."""
        manager = AblationManager(tiny("llama"))
        for ids in (tokens(batch=1), tokens(length=11)):
            manager.record_sources(ids)
            for spec in (
                AblationSpec("mlp", 1, mode="patch"),
                AblationSpec("head", 1, heads=(0,), mode="patch"),
            ):
                with pytest.raises(SparkablateError, match="its donor is") as caught:
                    plain_nll(manager.model, manager, tokens(), [spec])
                assert caught.value.code == "hook_failed"

    def test_what_cannot_be_recorded(self, tiny: Callable[..., Any]) -> None:
        manager = AblationManager(tiny("llama"))
        with pytest.raises(SparkablateError, match="mode 'mean' has no donor"):
            manager.record_sources(tokens(), mode="mean")
        with pytest.raises(SparkablateError, match="3 layers"):
            manager.record_sources(tokens(), keys=[SourceKey("mlp", 3)])
        with manager.applied(AblationSpec("mlp", 1)), pytest.raises(SparkablateError, match="unedited model"):
            manager.record_sources(tokens())

    def test_a_layer_has_none(self) -> None:
        with pytest.raises(SparkablateError, match="none of skip"):
            AblationSpec("layer", 0, mode="patch")


SEQ_LEN, BATCH = 24, 3


def block_ids(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(2, 258, (BATCH, SEQ_LEN)).astype(np.int32)


def wire(kind: str, layer: int, mode: str, **more: Any) -> dict[str, Any]:
    edit = {"kind": kind, "layer": layer, "mode": mode, "positions": "all", **more}
    return {"id": f"L{layer}.{kind}.{mode}", "interventions": [edit]}


@pytest.fixture
def engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> LocalEngine:
    monkeypatch.setenv("SPARKABLATE_HOME", str(tmp_path / "home"))
    engine = LocalEngine()
    engine.answer(Load(model_config(model_directory.save(tmp_path / "model")), SEQ_LEN, BATCH))
    return engine


def evaluate(
    engine: LocalEngine, seed: int, conditions: list[dict[str, Any]], donors: dict[str, np.ndarray]
) -> dict[str, Measurement]:
    measured: list[Measurement] = []
    request = Evaluate(block_ids(seed), conditions, ["nll"], donors=donors)
    engine.answer(request, Caller(report=measured.append))
    return {measurement.condition: measurement for measurement in measured}


ALL = [wire(kind, layer, mode) for layer in range(3) for kind in ("mlp", "attn") for mode in ("zero", *MODES)]
BASELINE = {"id": "baseline", "interventions": []}


class TestEngine:
    def test_any_cut_and_order_gives_the_same_bits(
        self, engine: LocalEngine, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Also where fewer sites are kept at a time than the slice has."""
        donors = {"resample": block_ids(1), "patch": block_ids(2)}
        whole = evaluate(engine, 0, [BASELINE, *ALL], donors)
        assert all(measurement.error is None for measurement in whole.values())
        evaluate(engine, 0, ALL, {"resample": block_ids(3), "patch": block_ids(4)})  # other donors in between
        monkeypatch.setattr(donors_module, "KEPT_SITES", 1)
        for piece in ([ALL[7]], ALL[3:9], ALL[::-1], [ALL[16], ALL[1]]):
            for name, measurement in evaluate(engine, 0, piece, donors).items():
                assert (measurement.sums == whole[name].sums).all(), name

    def test_the_blocks_own_tokens_give_the_baselines_bits(self, engine: LocalEngine) -> None:
        own = evaluate(engine, 0, [BASELINE, *ALL], {"resample": block_ids(0), "patch": block_ids(1)})
        for name, measurement in own.items():
            same = bool((measurement.sums == own["baseline"].sums).all())
            assert same == (name == "baseline" or name.endswith("resample")), name

    def test_a_row_takes_from_its_own_row_alone(self, engine: LocalEngine) -> None:
        changed = block_ids(1)
        changed[1] = block_ids(9)[1]
        edits = [wire("mlp", 1, "resample")]
        before = evaluate(engine, 0, edits, {"resample": block_ids(1)})["L1.mlp.resample"].sums
        after = evaluate(engine, 0, edits, {"resample": changed})["L1.mlp.resample"].sums
        assert (before == after).tolist() == [[True, False, True]]

    def test_passes_over_the_source_are_shared(
        self, engine: LocalEngine, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        passes: list[int] = []
        record = record_activations

        def counted(sites: Any, keys: Any, forward: Any) -> Any:
            passes.append(len(keys))
            return record(sites, keys, forward)

        monkeypatch.setattr(donors_module, "record_activations", counted)
        heads = [
            wire("head", layer, "resample", heads=[head]) | {"id": f"{layer} {head}"}
            for layer in range(3)
            for head in range(4)
        ]
        evaluate(engine, 0, heads[:6], {"resample": block_ids(1)})
        evaluate(engine, 0, heads[6:8], {"resample": block_ids(1)})  # the next slice of the same batch
        assert passes == [2]  # both layers' heads of the first slice, once
        evaluate(engine, 0, heads[8:], {"resample": block_ids(1)})
        assert passes == [2, 1]

    def test_out_of_memory_takes_rows_from_their_own_source(self, engine: LocalEngine) -> None:
        """Block by block, the source too: the same values up to the batch shape's rounding."""
        edits = [wire("mlp", 1, "resample"), wire("attn", 2, "patch")]
        donors = {"resample": block_ids(1), "patch": block_ids(2)}
        whole = evaluate(engine, 0, edits, donors)

        def exhausted(module: Any, args: tuple[Tensor, ...]) -> None:
            # The canary, measured again after a failure, has other tokens and passes.
            if args[0].shape[0] == BATCH and not torch.equal(engine._need().canary.ids, running[0]):
                raise torch.OutOfMemoryError("out of memory")

        running: list[Tensor] = []
        sites = engine._need().manager.sites
        handles = [
            sites.stack.register_forward_pre_hook(
                lambda module, args, kwargs: running.__setitem__(slice(None), [kwargs["input_ids"]]),
                with_kwargs=True,
            ),
            sites.layers[2].module.register_forward_pre_hook(exhausted),
        ]
        try:
            pieces = evaluate(engine, 0, edits, donors)
        finally:
            for handle in handles:
                handle.remove()
        for name, measurement in pieces.items():
            assert measurement.flags == ("degraded",)
            np.testing.assert_allclose(measurement.sums, whole[name].sums, rtol=1e-5)

    def test_a_condition_without_a_source_fails_alone(self, engine: LocalEngine) -> None:
        evaluate(engine, 0, ALL, {mode: block_ids(1) for mode in MODES})
        measured = evaluate(engine, 0, [BASELINE, *ALL], {"resample": block_ids(1)})
        for name, measurement in measured.items():
            assert (measurement.error is not None) == name.endswith("patch"), name

    def test_texts_and_weights_have_no_source(self, engine: LocalEngine) -> None:
        with pytest.raises(SparkablateError, match="yet to be written"):
            engine.answer(Generate(["a"], [ALL[1]], 2))
        for mode in MODES:
            with pytest.raises(SparkablateError, match="weights hold none") as caught:
                rules.check([AblationSpec("mlp", 0, mode=mode)], ARCHITECTURES[0], False)
            assert caught.value.code == "bake_refused"
