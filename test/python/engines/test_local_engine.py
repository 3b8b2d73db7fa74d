"""The engine that the server calls: against stock transformers, and when things fail."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import model_directory
import numpy as np
import pytest
import torch
from model_directory import model_config
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from sparkablate.engines import local
from sparkablate.engines.local import LocalEngine
from sparkablate.engines.requests import (
    Attribute,
    Calibrate,
    Caller,
    Evaluate,
    Generate,
    Inspect,
    Load,
    PutDirection,
    PutMeans,
    Request,
    Tokenize,
    TokenizeTask,
)
from sparkablate.errors import SparkablateError
from sparkablate.measure.attribution import SiteSums
from sparkablate.measure.slice import Measurement

SEQ_LEN, BATCH = 24, 3
BASELINE = {"id": "baseline", "interventions": []}


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return model_directory.save(tmp_path_factory.mktemp("model"))


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPARKABLATE_HOME", str(tmp_path / "home"))


@pytest.fixture
def engine(directory: Path) -> LocalEngine:
    engine = LocalEngine()
    engine.answer(Load(model_config(directory), SEQ_LEN, BATCH))
    return engine


def block_ids(seed: int = 0, blocks: int = BATCH) -> np.ndarray:
    return np.random.default_rng(seed).integers(2, 258, (blocks, SEQ_LEN)).astype(np.int32)


def edit(kind: str, layer: int, **more: Any) -> dict[str, Any]:
    return {"kind": kind, "layer": layer, "mode": "zero", "positions": "all", **more}


def condition(name: str, *interventions: dict[str, Any]) -> dict[str, Any]:
    return {"id": name, "interventions": list(interventions)}


def skip(layer: int) -> dict[str, Any]:
    return {"kind": "layer", "layer": layer, "mode": "skip"}


def evaluate(
    engine: LocalEngine,
    ids: np.ndarray,
    conditions: list[dict[str, Any]],
    metrics: list[str] | None = None,
    means: str | None = None,
) -> dict[str, Measurement]:
    measured: list[Measurement] = []
    request = Evaluate(ids, conditions, metrics or ["nll"], means)
    summary = engine.answer(request, Caller(report=measured.append))
    assert summary.measured + summary.failed == len(conditions)
    return {measurement.condition: measurement for measurement in measured}


def stock_sums(directory: Path, ids: np.ndarray, remove: tuple[int, ...] = ()) -> np.ndarray:
    """Block sums of stock transformers' log-probabilities, in a model that lacks the layers ``remove``."""
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()
    kept = [layer for index, layer in enumerate(model.model.layers) if index not in remove]
    model.model.layers = torch.nn.ModuleList(kept)
    model.config.num_hidden_layers = len(kept)
    tokens = torch.from_numpy(ids.astype(np.int64))
    with torch.inference_mode():
        log_p = model(input_ids=tokens, use_cache=False).logits[:, :-1].double().log_softmax(-1)
    return -log_p.gather(-1, tokens[:, 1:, None])[..., 0].sum(dim=1).numpy()


def test_load_says_what_the_wire_promises(directory: Path) -> None:
    stages: list[str] = []
    loaded = LocalEngine().answer(
        Load(model_config(directory), SEQ_LEN, BATCH),
        Caller(lambda stage, done, total, unit: stages.append(stage)),
    )
    schema = pytest.importorskip("sparkablate.server.protocol", reason="the server's packages are missing")
    schema._check(schema._RESULTS["load"], loaded, "load")
    assert loaded["source"] == str(directory.resolve())
    assert loaded["bos_token_id"] == 0
    assert loaded["adds_bos"] is False
    assert all(test["passed"] for test in loaded["self_test"])
    assert loaded["numerics"]["dtype"] == "float32"
    assert loaded["numerics"]["tf32"] is False
    assert loaded["reused"] is False
    assert {"load", "fingerprint", "self-test", "check"} <= set(stages)


def test_an_identical_model_is_reused_until_its_files_or_its_settings_change(tmp_path: Path) -> None:
    directory = model_directory.save(tmp_path / "model")
    engine = LocalEngine()
    first = engine.answer(Load(model_config(directory), SEQ_LEN, BATCH))
    again = engine.answer(Load(model_config(directory), SEQ_LEN, 1))
    assert again["reused"] is True
    assert engine.loaded == str(directory)
    assert engine.answer(Load(model_config(directory, dtype="bfloat16"), SEQ_LEN, BATCH))["reused"] is False
    model_directory.save(directory, seed=1)
    changed = engine.answer(Load(model_config(directory, dtype="bfloat16"), SEQ_LEN, BATCH))
    assert changed["reused"] is False
    assert changed["weights_sha256"] != first["weights_sha256"]
    assert changed["tokenizer_sha256"] == first["tokenizer_sha256"]


def test_more_positions_than_the_model_has_are_refused_loaded_or_not(directory: Path) -> None:
    engine = LocalEngine()
    engine.answer(Load(model_config(directory), SEQ_LEN, BATCH))
    positions = engine._need().manager.sites.max_positions
    assert positions is not None
    for fresh in (engine, LocalEngine()):
        with pytest.raises(SparkablateError, match=f"has {positions} positions") as caught:
            fresh.answer(Load(model_config(directory), positions + 1, 1))
        assert caught.value.code == "config_invalid"
    assert engine.answer(Load(model_config(directory), positions, 1))["reused"] is True


def test_baseline_and_layer_skips_equal_stock_models_with_the_layer_deleted(
    directory: Path, engine: LocalEngine
) -> None:
    ids = block_ids()
    measured = evaluate(engine, ids, [BASELINE, *(condition(f"skip {n}", skip(n)) for n in range(3))])
    assert measured["baseline"].columns == ("nll",)
    assert measured["baseline"].tokens == SEQ_LEN - 1
    np.testing.assert_allclose(measured["baseline"].sums, [stock_sums(directory, ids)], rtol=1e-6)
    for layer in range(3):
        expected = [stock_sums(directory, ids, remove=(layer,))]
        np.testing.assert_allclose(measured[f"skip {layer}"].sums, expected, rtol=1e-6)


def test_slices_of_the_same_blocks_give_the_same_bits_in_any_cut_and_order(engine: LocalEngine) -> None:
    conditions = [BASELINE] + [
        condition(f"{kind} {n}", edit(kind, n)) for n in range(3) for kind in ("attn", "mlp")
    ]
    ids = block_ids()
    whole = evaluate(engine, ids, conditions)
    for piece in ([conditions[5]], conditions[1:3], conditions[::-1], [BASELINE]):
        for name, measurement in evaluate(engine, ids, piece).items():
            assert (measurement.sums == whole[name].sums).all()
    evaluate(engine, block_ids(seed=1), conditions)  # other blocks in between
    assert (
        evaluate(engine, ids, [conditions[4]])[conditions[4]["id"]].sums == whole[conditions[4]["id"]].sums
    ).all()


def test_metrics_that_need_the_baseline_agree_with_the_nll_alone(engine: LocalEngine) -> None:
    conditions = [condition("mlp", edit("mlp", 1)), BASELINE]
    alone = evaluate(engine, block_ids(), conditions)
    every = evaluate(engine, block_ids(), conditions, metrics=["nll", "kl", "top1"])
    for name in ("mlp", "baseline"):
        assert every[name].columns == ("nll", "kl", "top1", "top1_ties")
        assert (every[name].sums[0] == alone[name].sums[0]).all()
    assert (every["baseline"].sums[1:3] == 0).all()
    assert (every["mlp"].sums[1] > 0).all()


def test_means_come_back_and_are_used_by_their_sha256(engine: LocalEngine) -> None:
    """A mean over equal tokens is that activation itself, so mean-ablating it changes nothing."""
    ids = np.full((2, SEQ_LEN), 17, dtype=np.int32)
    wanted = [{"kind": kind, "layer": 0, "positions": "all"} for kind in ("head", "attn", "mlp")]
    sites, values = engine.answer(Calibrate(ids, 1, wanted))
    assert [site["width"] for site in sites] == [4 * 16, 32, 32]
    assert values.dtype == np.float32
    assert len(values) == sum(site["width"] for site in sites)
    sha256 = hashlib.sha256(values.tobytes()).hexdigest()
    conditions = [BASELINE] + [
        condition(kind, edit(kind, 0, mode="mean", **more))
        for kind, more in (("head", {"heads": [0, 2]}), ("attn", {}), ("mlp", {}))
    ]
    with pytest.raises(SparkablateError) as caught:
        evaluate(engine, ids, conditions, means=sha256)
    assert caught.value.code == "means_missing"
    engine.answer(PutMeans(sha256, sites, values))
    measured = evaluate(engine, ids, conditions, means=sha256)
    for kind in ("head", "attn", "mlp"):
        np.testing.assert_allclose(measured[kind].sums, measured["baseline"].sums, rtol=1e-5)
    elsewhere = evaluate(engine, block_ids(), conditions, means=sha256)
    assert abs(elsewhere["mlp"].sums - elsewhere["baseline"].sums).max() > 0.1


def test_calibration_is_the_mean_over_all_blocks_whatever_the_batch(engine: LocalEngine) -> None:
    ids = block_ids(blocks=5)
    outputs: list[torch.Tensor] = []
    model = engine._need().opened.model
    handle = model.model.layers[2].mlp.register_forward_hook(lambda module, args, y: outputs.append(y))
    with torch.inference_mode():
        model(input_ids=torch.from_numpy(ids.astype(np.int64)))
    handle.remove()
    for positions, first in (("all", 0), ("not_first", 1)):
        wanted = [{"kind": "mlp", "layer": 2, "positions": positions}]
        expected = outputs[0][:, first:].double().mean(dim=(0, 1))
        for batch_size in (1, 2, 5):
            _, values = engine.answer(Calibrate(ids, batch_size, wanted))
            np.testing.assert_allclose(values, expected, rtol=1e-4, atol=1e-6)


def test_calibration_over_items_of_different_lengths_is_the_mean_over_their_tokens(
    engine: LocalEngine,
) -> None:
    """Each item by itself through the model: nothing of a padded row may enter the mean."""
    items = [ids[:length] for ids, length in zip(block_ids(blocks=6), (3, 9, 3, 24, 9, 3), strict=True)]
    outputs: list[torch.Tensor] = []
    model = engine._need().opened.model
    handle = model.model.layers[2].mlp.register_forward_hook(lambda module, args, y: outputs.append(y[0]))
    with torch.inference_mode():
        for item in items:
            model(input_ids=torch.from_numpy(item[None].astype(np.int64)))
    handle.remove()
    wanted = [{"kind": "mlp", "layer": 2, "positions": "all"}]
    expected = torch.cat(outputs).double().mean(dim=0)
    for batch_size in (1, 2, 6):
        _, values = engine.answer(Calibrate(items, batch_size, wanted))
        np.testing.assert_allclose(values, expected, rtol=1e-4, atol=1e-6)


def test_a_direction_is_used_by_its_sha256(engine: LocalEngine) -> None:
    vector = np.eye(32, dtype=np.float32)[3]
    sha256 = hashlib.sha256(vector.tobytes()).hexdigest()
    direction = {
        "kind": "direction",
        "op": "project_out",
        "at": "writes",
        "layers": "all",
        "coefficient": 1.0,
        "positions": "all",
        "sha256": sha256,
    }
    conditions = [
        BASELINE,
        condition("out", direction),
        condition("identity", {**direction, "coefficient": 0.0}),
    ]
    with pytest.raises(SparkablateError, match="is not here"):
        evaluate(engine, block_ids(), conditions)
    engine.answer(PutDirection(sha256, vector, 1.0))
    measured = evaluate(engine, block_ids(), conditions)
    assert (measured["identity"].sums == measured["baseline"].sums).all()
    assert (measured["out"].sums != measured["baseline"].sums).all()


def test_attributions_are_the_slope_of_what_is_measured(engine: LocalEngine) -> None:
    """How far a direction is projected out is its coefficient: effects at ±0.05 give the slope."""
    width = engine._need().manager.sites.d_model
    vector = np.random.default_rng(4).standard_normal(width).astype(np.float32)
    vector /= np.linalg.norm(vector)
    digest = hashlib.sha256(vector.tobytes()).hexdigest()
    engine.answer(PutDirection(digest, vector, 1.0))

    def projected(coefficient: float) -> dict[str, Any]:
        place = {"kind": "direction", "op": "project_out", "at": "stream", "layers": [0, 2]}
        more = {"coefficient": coefficient, "positions": "not_first", "sha256": digest}
        return condition(str(coefficient), {**place, **more})

    ids, given = block_ids(), [edit("mlp", 1, mode="resample"), edit("neuron", 2, neurons=[1, 7])]
    donors = {"resample": block_ids(seed=9)}
    sums: list[SiteSums] = []
    asked = Attribute(
        ids,
        [projected(1.0), condition("nothing")],
        [{"kind": "neuron", "mode": "zero", "positions": "all"}],
        donors=donors,
        given=given,
    )
    found = engine.answer(asked, Caller(report=sums.append))
    measured: dict[str, np.ndarray] = {}
    engine.answer(
        Evaluate(ids, [projected(0.05), projected(-0.05)], ["nll"], donors=donors, given=given),
        Caller(report=lambda one: measured.update({one.condition: one.sums[0]})),
    )
    assert found.shape == (2, BATCH)
    assert np.allclose(found[0], (measured["0.05"] - measured["-0.05"]) / 0.1, rtol=0.02, atol=1e-3)
    assert not found[1].any()
    layers = engine._need().manager.sites.layers
    assert [(one.site, one.layer, len(one.sums)) for one in sums] == [
        (0, layer.index, layer.n_neurons) for layer in layers
    ]
    covered = [(one.layer, *np.flatnonzero(np.isnan(one.sums))) for one in sums if np.isnan(one.sums).any()]
    assert covered == [(1, *range(layers[1].n_neurons)), (2, 1, 7)]


def test_attributions_of_a_request_that_is_cancelled_are_not_made(engine: LocalEngine) -> None:
    with pytest.raises(SparkablateError, match="nothing was attributed") as caught:
        engine.answer(Attribute(block_ids(), [condition("c", skip(1))]), Caller(cancelled=lambda: True))
    assert caught.value.code == "interrupted"


def test_cancel_is_seen_between_conditions(engine: LocalEngine) -> None:
    measured: list[Measurement] = []
    conditions = [condition(f"mlp {n}", edit("mlp", n)) for n in range(3)]
    summary = engine.answer(
        Evaluate(block_ids(), conditions, ["nll"]),
        Caller(report=measured.append, cancelled=lambda: len(measured) == 2),
    )
    assert summary.cancelled
    assert (summary.measured, len(measured)) == (2, 2)


def test_inspect_from_the_configuration_alone_gives_the_loaded_models_map(directory: Path) -> None:
    engine = LocalEngine()
    meta = engine.answer(Inspect(model_config(directory), meta=True))
    assert engine.loaded is None
    loaded = engine.answer(Inspect(model_config(directory), meta=False))
    assert meta["model_map"] == loaded["model_map"]


def test_ids_outside_the_vocabulary_are_refused(engine: LocalEngine) -> None:
    with pytest.raises(SparkablateError, match="outside the vocabulary"):
        evaluate(engine, np.full((1, SEQ_LEN), 258, dtype=np.int32), [BASELINE])


def test_every_request_is_answered() -> None:
    ours = {one for one in Request.__subclasses__() if one.__module__ == Load.__module__}
    assert local._ANSWERS.keys() == ours


def test_without_a_model_the_controller_is_told_to_load_one() -> None:
    with pytest.raises(SparkablateError) as caught:
        evaluate(LocalEngine(), block_ids(), [BASELINE])
    assert caught.value.code == "session_lost"


# ── Failures of one condition ────────────────────────────────────────────────────────────────

#: A mean that no model has, so that a fault can be tied to the one condition that puts it in.
MARK = 1e4

CONDITIONS = [
    condition("first", edit("attn", 0)),
    condition("failing", edit("mlp", 1, mode="mean")),
    condition("last", edit("mlp", 2)),
    BASELINE,
]


def measure_with_fault(
    engine: LocalEngine,
    act: Callable[[torch.Tensor], None],
    mean: float = MARK,
    ids: np.ndarray | None = None,
) -> dict[str, Measurement]:
    """Measures ``CONDITIONS``; ``act`` is called in layer 2 where the failing condition's mean arrives."""
    values = np.full(32, mean, dtype=np.float32)
    sha256 = hashlib.sha256(values.tobytes()).hexdigest()
    site = {"kind": "mlp", "layer": 1, "positions": "all", "width": 32}
    engine.answer(PutMeans(sha256, [site], values))

    def watch(module: Any, args: tuple[torch.Tensor, ...]) -> None:
        if bool((args[0].abs() > MARK / 2).any()):
            act(args[0])

    handle = engine._need().manager.sites.layers[2].module.register_forward_pre_hook(watch)
    try:
        return evaluate(engine, block_ids() if ids is None else ids, CONDITIONS, means=sha256)
    finally:
        handle.remove()


def check_others(engine: LocalEngine, measured: dict[str, Measurement]) -> None:
    for name, measurement in evaluate(engine, block_ids(), [CONDITIONS[0], *CONDITIONS[2:]]).items():
        assert measured[name].error is None
        assert (measured[name].sums == measurement.sums).all()


def test_an_exception_fails_its_condition_alone_with_its_traceback(engine: LocalEngine) -> None:
    def act(stream: torch.Tensor) -> None:
        raise ZeroDivisionError("in the middle of layer 2")

    measured = measure_with_fault(engine, act)
    error = measured["failing"].error
    assert error is not None
    assert error.code == "hook_failed"
    assert "ZeroDivisionError: in the middle of layer 2" in error.message
    assert "Traceback" in error.detail
    check_others(engine, measured)


def test_logits_that_are_not_finite_fail_their_condition_alone(engine: LocalEngine) -> None:
    measured = measure_with_fault(engine, lambda stream: None, mean=float("inf"))
    error = measured["failing"].error
    assert error is not None
    assert error.code == "nonfinite_logits"
    check_others(engine, measured)


def test_out_of_memory_is_retried_block_by_block_and_flagged(engine: LocalEngine) -> None:
    def act(stream: torch.Tensor) -> None:
        if stream.shape[0] > 1:
            raise torch.OutOfMemoryError("a batch is too much")

    measured = measure_with_fault(engine, act)
    assert measured["failing"].error is None
    assert measured["failing"].flags == ("degraded",)
    assert measured["last"].flags == ()
    check_others(engine, measured)
    enough = measure_with_fault(engine, lambda stream: None)
    np.testing.assert_allclose(measured["failing"].sums, enough["failing"].sums, rtol=1e-5)


def test_out_of_memory_even_for_one_block_fails_its_condition_alone(engine: LocalEngine) -> None:
    def act(stream: torch.Tensor) -> None:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes.")

    measured = measure_with_fault(engine, act)
    error = measured["failing"].error
    assert error is not None
    assert error.code == "out_of_memory"
    check_others(engine, measured)


def test_a_model_that_a_failure_has_changed_stops_the_slice(directory: Path) -> None:
    engine = LocalEngine()
    engine.answer(Load(model_config(directory), SEQ_LEN, BATCH))

    def act(stream: torch.Tensor) -> None:
        with torch.no_grad():
            engine._need().opened.model.model.layers[0].mlp.down_proj.weight[0, 0] += 1e-3
        raise RuntimeError("after a write into the weights")

    with pytest.raises(SparkablateError) as caught:
        measure_with_fault(engine, act)
    assert caught.value.code == "baseline_changed"


@pytest.mark.parametrize(
    ("interventions", "code"),
    [
        ([edit("mlp", 99)], "config_invalid"),
        ([edit("head", 0, heads=[4])], "config_invalid"),
        ([edit("attn", 0), edit("head", 0, heads=[1])], "conditions_overlap"),
    ],
)
def test_a_condition_the_model_does_not_offer_fails_alone(
    engine: LocalEngine, interventions: list[dict[str, Any]], code: str
) -> None:
    measured = evaluate(engine, block_ids(), [condition("wrong", *interventions), BASELINE])
    error = measured["wrong"].error
    assert error is not None
    assert error.code == code
    assert measured["baseline"].error is None


def test_a_tokenizer_of_another_model_is_refused_before_anything_is_measured(tmp_path: Path) -> None:
    """Its ids are past the embedding."""
    directory = model_directory.save(tmp_path / "model")
    path = directory / "tokenizer.json"
    tokenizer = json.loads(path.read_text())
    vocabulary = tokenizer["model"]["vocab"]
    vocabulary["Z"], vocabulary["beyond"] = 999, vocabulary["Z"]
    path.write_text(json.dumps(tokenizer))
    engine = LocalEngine()
    engine.answer(Load(model_config(directory), SEQ_LEN, BATCH))
    everything = [BASELINE]
    asked: list[Callable[[], Any]] = [
        lambda: engine.answer(Tokenize("A to Z", None, 100)),
        lambda: engine.answer(TokenizeTask([{"prompt": "A to", "answer": " Z"}], "task", 100)),
        lambda: engine.answer(Generate(["A to Z"], everything, 4)),
    ]
    for ask in asked:
        with pytest.raises(SparkablateError, match=r"id 999 \('Z'\).* embedding has 258 rows") as caught:
            ask()
        assert caught.value.code == "config_invalid"
    ids, _, _ = engine.answer(Tokenize("A to Y", None, 100))
    assert len(ids) == 6


@pytest.mark.parametrize("meta", [False, True])
def test_inspect_tells_what_was_read_past(meta: bool, tmp_path: Path) -> None:
    directory = model_directory.save(tmp_path / "model")
    weights = directory / "model.safetensors"
    save_file({**load_file(weights), "v_head.weight": torch.ones(3)}, weights, metadata={"format": "pt"})
    notices = LocalEngine().answer(Inspect(model_config(directory), meta))["notices"]
    assert [("v_head.weight" in notice) for notice in notices] == ([] if meta else [True])


def test_a_model_that_looks_ahead_is_refused_at_load_and_at_another_length(tmp_path: Path) -> None:
    directory = model_directory.save(tmp_path / "model")
    path = directory / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "is_causal": False}))
    with pytest.raises(SparkablateError, match="looks ahead") as caught:
        LocalEngine().answer(Load(model_config(directory), SEQ_LEN, BATCH))
    assert caught.value.code == "architecture_unsupported"


def test_a_baseline_that_is_not_finite_is_said_as_such(tmp_path: Path) -> None:
    """Weights that float32 holds and float16 does not."""
    directory = model_directory.save(tmp_path / "model")
    weights = directory / "model.safetensors"
    tensors = load_file(weights)
    tensors["model.layers.1.mlp.down_proj.weight"] *= 1e6
    save_file(tensors, weights, metadata={"format": "pt"})
    LocalEngine().answer(Load(model_config(directory), SEQ_LEN, BATCH))
    with pytest.raises(SparkablateError, match=r"the unedited .* in float16: set dtype to") as caught:
        LocalEngine().answer(Load(model_config(directory, dtype="float16"), SEQ_LEN, BATCH))
    assert caught.value.code == "nonfinite_logits"
