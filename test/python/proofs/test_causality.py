"""A model that looks ahead has no next-token NLL: planted ones are refused, all supported types pass."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor

import tiny_models
from sparkablate.anatomy.architectures import locate
from sparkablate.errors import SparkablateError
from sparkablate.measure.likelihood import Likelihood
from sparkablate.proofs.causality import prove_causal

LENGTH = 20
#: Hidden states [batch, pos, d_model] → what each position takes of others, itself included.
Mixing = Callable[[Tensor], Tensor]


def likelihood(name: str = "llama", dtype: torch.dtype = torch.float32, **config: Any) -> Likelihood:
    tiny = tiny_models.TINY[name]
    made = tiny_models.Tiny(tiny.model_type, {**tiny.config, **config}, tiny.text_type)
    model = tiny_models.make(made, dtype)
    return Likelihood(model, locate(model))


@contextmanager
def mixing(model: Likelihood, mix: Mixing) -> Iterator[None]:
    """The second layer's output becomes a mixture of positions."""
    handle = model.sites.layers[1].module.register_forward_hook(lambda module, args, output: mix(output))
    try:
        yield
    finally:
        handle.remove()


def bidirectional(x: Tensor) -> Tensor:
    return x + x.mean(dim=1, keepdim=True)


def prefix(x: Tensor) -> Tensor:
    """The first quarter sees itself as a whole."""
    quarter = x.shape[1] // 4
    return torch.cat([bidirectional(x[:, :quarter]), x[:, quarter:]], dim=1)


def blocks(size: int) -> Mixing:
    return lambda x: torch.cat([bidirectional(part) for part in x.split(size, dim=1)], dim=1)


def one_ahead(x: Tensor) -> Tensor:
    return x + x.roll(-1, dims=1)


def late(x: Tensor) -> Tensor:
    """Only the last position but one looks ahead."""
    return torch.cat([x[:, :-2], x[:, -2:-1] + x[:, -1:], x[:, -1:]], dim=1)


@pytest.mark.parametrize(
    "mix",
    [bidirectional, prefix, blocks(2), blocks(4), blocks(10), one_ahead, late],
    ids=["bidirectional", "prefix", "blocks of 2", "blocks of 4", "blocks of 10", "one ahead", "late"],
)
def test_a_model_that_looks_ahead_is_refused(mix: Mixing) -> None:
    model = likelihood()
    with mixing(model, mix), pytest.raises(SparkablateError, match="looks ahead") as caught:
        prove_causal(model, LENGTH)
    assert caught.value.code == "architecture_unsupported"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_below_float32_looking_ahead_is_no_rounding(dtype: torch.dtype) -> None:
    model = likelihood(dtype=dtype)
    with mixing(model, one_ahead), pytest.raises(SparkablateError, match="looks ahead"):
        prove_causal(model, LENGTH)


def test_looking_back_is_not_looking_ahead() -> None:
    model = likelihood()
    with mixing(model, lambda x: x + x.roll(1, dims=1).index_fill(1, torch.tensor([0]), 0)):
        prove_causal(model, LENGTH)


@pytest.mark.parametrize(
    ("name", "config"),
    [("gemma3_text", {"use_bidirectional_attention": True}), ("llama", {"is_causal": False})],
)
def test_what_the_configuration_says_is_seen_in_the_logits(name: str, config: dict[str, Any]) -> None:
    with pytest.raises(SparkablateError, match="looks ahead"):
        prove_causal(likelihood(name, **config), LENGTH)


def test_an_expert_that_chooses_its_tokens_looks_ahead() -> None:
    """The tokens with the largest score in the whole row are served, so later ones displace earlier ones."""

    def served(x: Tensor) -> Tensor:
        chosen = x[..., 0].topk(x.shape[1] // 2, dim=1).indices
        return x + torch.zeros_like(x).scatter(1, chosen[..., None].expand(*chosen.shape, x.shape[-1]), 1.0)

    model = likelihood()
    with mixing(model, served), pytest.raises(SparkablateError, match="looks ahead"):
        prove_causal(model, 64)


def test_rows_that_lean_on_each_other_are_refused() -> None:
    model = likelihood()
    other = pytest.raises(SparkablateError, match=r"couples the rows|looks ahead")
    with mixing(model, lambda x: x + x.mean(dim=0, keepdim=True) * (x.shape[0] > 1)), other:
        prove_causal(model, LENGTH)


def test_rows_that_lean_on_their_neighbour_where_it_is_the_same_are_named() -> None:
    """Each row adds its batch's size: no token of another row shows, only its presence."""
    model = likelihood()
    with (
        mixing(model, lambda x: x + (x.shape[0] - 1)),
        pytest.raises(SparkablateError, match="couples the rows"),
    ):
        prove_causal(model, LENGTH)


def test_a_model_that_reads_no_token_proves_nothing() -> None:
    model = likelihood()
    with mixing(model, torch.ones_like), pytest.raises(SparkablateError, match="hardly reads its text"):
        prove_causal(model, LENGTH)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("name", tiny_models.TINY)
def test_every_supported_type_passes(name: str, dtype: torch.dtype) -> None:
    prove_causal(likelihood(name, dtype), LENGTH)


@pytest.mark.parametrize("length", [2, 3, 5])
def test_the_shortest_rows_are_proved_too(length: int) -> None:
    prove_causal(likelihood(), length)
    with mixing(model := likelihood(), one_ahead), pytest.raises(SparkablateError, match="looks ahead"):
        prove_causal(model, length)


@pytest.mark.parametrize(
    ("dtype", "remedy"), [(torch.float16, "bfloat16 or float32"), (torch.float32, "damaged")]
)
def test_logits_of_the_unedited_model_that_are_not_finite_are_its_own_error(
    dtype: torch.dtype, remedy: str
) -> None:
    model = likelihood(dtype=dtype)
    with torch.no_grad():
        model.sites.layers[0].module.mlp.down_proj.weight.fill_(torch.inf)
    with pytest.raises(SparkablateError, match=f"unedited .* gives NaN .*{remedy}") as caught:
        prove_causal(model, LENGTH)
    assert caught.value.code == "nonfinite_logits"
