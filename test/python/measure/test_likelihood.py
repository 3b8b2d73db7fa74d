"""Losses in chunks: the model's own bits, block sums, and metrics against their definitions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.nn import functional

from sparkablate.errors import SparkablateError
from sparkablate.manager import AblationManager
from sparkablate.measure import likelihood as likelihood_module
from sparkablate.measure.likelihood import Likelihood, block_sums
from sparkablate.measure.metrics import Rows, metrics_of
from sparkablate.specs import AblationSpec
from tiny_models import TINY, VOCAB, tokens


def likelihood_of(model: Any) -> Likelihood:
    return Likelihood(model, AblationManager(model).sites)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("name", TINY)
def test_nll_equals_that_of_the_models_own_logits(
    tiny: Callable[..., Any], name: str, dtype: torch.dtype
) -> None:
    """Embedding scales, soft caps and scaled logits included; 300 positions take two chunks."""
    model, ids = tiny(name, dtype), tokens(batch=6, length=51)
    with torch.inference_mode():
        logits = model(input_ids=ids, use_cache=False).logits[:, :-1].float()
        log_p = logits.log_softmax(dim=-1)
    expected = -log_p.gather(-1, ids[:, 1:, None])[..., 0]
    likelihood = likelihood_of(model)
    values = likelihood.measure(likelihood.final_hidden(ids), ids, metrics_of(["nll"]), None)["nll"]
    assert values.shape == (6, 50)
    torch.testing.assert_close(values, expected, rtol=1e-6, atol=1e-6)


def test_chunks_are_near_equal_and_cover_each_predicting_position_once(
    tiny: Callable[..., Any],
) -> None:
    model = tiny("llama")
    likelihood = likelihood_of(model)
    ids = tokens(batch=3, length=90)  # 267 predictions: never 256 and a tail of 11
    likelihood.check_chunks(3, 90)
    hidden = likelihood.final_hidden(ids)
    rows = [piece for piece, _ in likelihood._chunks(hidden)]
    assert sorted(len(piece) for piece in rows) == [133, 134]
    expected = [row for row in range(3 * 90) if row % 90 != 89]
    assert torch.cat(rows).tolist() == expected


def test_full_logits_are_used_where_chunks_differ(tiny: Callable[..., Any]) -> None:
    """Chunks of a single row take another GEMM kernel on some machines; whatever the check finds, the result
    equals the model's own logits bit for bit."""
    model, ids = tiny("llama"), tokens(batch=1, length=2)
    likelihood = likelihood_of(model)
    values = likelihood.measure(likelihood.final_hidden(ids), ids, metrics_of(["nll"]), None)["nll"]
    with torch.inference_mode():
        logits = model(input_ids=ids, use_cache=False).logits[:, :-1].float()
    expected = functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten(), reduction="none")
    assert torch.equal(values.flatten(), expected)


@pytest.mark.parametrize("name", TINY)
def test_every_row_says_what_its_head_does(tiny: Callable[..., Any], name: str) -> None:
    for dtype in (torch.float32, torch.bfloat16):
        likelihood_of(tiny(name, dtype)).prove_head(tokens())


def test_a_row_that_misses_a_logit_scale_is_refused(tiny: Callable[..., Any]) -> None:
    """Sabotage: a map whose logits are not the model's is caught by the check, not averaged over."""
    from dataclasses import replace

    from sparkablate.anatomy.sites import Logits

    model = tiny("granite")
    sites = replace(AblationManager(model).sites, logits=Logits())
    with pytest.raises(SparkablateError, match="logits columns") as caught:
        Likelihood(model, sites).prove_head(tokens())
    assert caught.value.code == "architecture_unsupported"


def test_block_sums_are_float64_sums_over_predicted_tokens() -> None:
    values = {"nll": torch.rand(3, 1000)}
    sums = block_sums(values, ("nll",))
    assert sums.dtype == "float64"
    assert sums.shape == (1, 3)
    assert sums[0].tolist() == values["nll"].double().sum(dim=1).tolist()


def test_kl_and_top1_are_what_their_definitions_say(tiny: Callable[..., Any]) -> None:
    model, ids = tiny("llama"), tokens(batch=4, length=20)
    manager = AblationManager(model)
    likelihood = Likelihood(model, manager.sites)
    baseline = likelihood.final_hidden(ids)
    with manager.applied(AblationSpec("mlp", layer=1)):
        hidden = likelihood.final_hidden(ids)
        with torch.inference_mode():
            q = model(input_ids=ids, use_cache=False).logits[:, :-1].double().log_softmax(dim=-1)
    with torch.inference_mode():
        p = model(input_ids=ids, use_cache=False).logits[:, :-1].double().log_softmax(dim=-1)
    values = likelihood.measure(hidden, ids, metrics_of(["nll", "kl", "top1"]), baseline)
    kl = (p.exp() * (p - q)).sum(dim=-1)
    torch.testing.assert_close(values["kl"].double(), kl, rtol=1e-5, atol=1e-6)
    assert torch.equal(values["top1"].bool(), p.argmax(-1) != q.argmax(-1))
    assert values["top1"].sum() > 0
    assert values["top1_ties"].sum() == 0
    same = likelihood.measure(baseline, ids, metrics_of(["kl", "top1"]), baseline)
    assert same["kl"].abs().max() == 0
    assert same["top1"].sum() == 0


def test_ties_take_the_lowest_index_and_are_counted() -> None:
    logits = torch.zeros(3, VOCAB)
    logits[0, [5, 9]] = 1.0  # a tie at the top: 5 wins
    logits[1, 4] = 1.0
    baseline = torch.zeros(3, VOCAB)
    baseline[0, 5] = 1.0
    baseline[1, 4] = 1.0
    baseline[2, 7] = 1.0  # against a tie of everything: 0 wins, so the argmax changed
    (top1,) = metrics_of(["top1"])
    changed, tied = top1.compute(Rows(logits, torch.zeros(3, dtype=torch.long), baseline))
    assert changed.tolist() == [0, 0, 1]
    assert tied.tolist() == [1, 0, 1]


def test_an_unknown_metric_is_refused_by_name() -> None:
    with pytest.raises(SparkablateError, match="'perplexity' is none of nll, kl, top1"):
        metrics_of(["nll", "perplexity"])


def test_no_logits_of_the_whole_batch_are_made(tiny: Callable[..., Any]) -> None:
    """Memory is bounded by a chunk: the head never sees more rows than one."""
    model = tiny("llama")
    likelihood = likelihood_of(model)
    ids = tokens(batch=8, length=101)
    likelihood.check_chunks(8, 101)
    hidden = likelihood.final_hidden(ids)
    assert likelihood.full_logits[8, 101] is False
    rows: list[int] = []
    handle = model.lm_head.register_forward_hook(lambda module, args, output: rows.append(output.shape[-2]))
    try:
        likelihood.measure(hidden, ids, metrics_of(["nll"]), None)
    finally:
        handle.remove()
    assert max(rows) <= likelihood_module.CHUNK_POSITIONS
    assert sum(rows) == 800
