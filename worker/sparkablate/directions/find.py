"""Directions that tell two sets of prompts apart: differences of means of the residual stream, scored.

The method is difference in means with scores on held-out prompts, as in Arditi et al., "Refusal in Language
Models Is Mediated by a Single Direction" (2024), for any contrast; controls stand beside every candidate.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sparkablate.anatomy.sites import Tap
from sparkablate.arguments import as_number, as_whole, described, listed
from sparkablate.directions.prompts import Batch, batches
from sparkablate.directions.scores import Answers, Scorer, Scores
from sparkablate.edits.hooks import recording
from sparkablate.errors import SparkablateError
from sparkablate.loading.numerics import device_of
from sparkablate.manager import AblationManager
from sparkablate.progress import Progress, silent
from sparkablate.text.vocabulary import check_ids
from sparkablate.tokens import token_row, token_rows

#: Fewer prompts a side say nothing about a contrast.
MIN_PROMPTS = 8
#: Most bytes of activations kept at once.
MAX_ACTIVATION_BYTES = 8 << 30
SPLITS = 20


@dataclass(frozen=True)
class Candidate:
    """One direction: from the stream where it leaves `layer`, `position` tokens from the prompts' end (1: the
    last). `vector`: float32 [d_model], of unit length; `norm`: the length of the difference of means.

    Cosines say how far the direction depends on the prompts it was made from: of two halves of them (mean
    over random splits; around 0 without a contrast), and of bootstrap samples with the whole (mean and 5 %
    quantile; about 0.7 without a contrast). `random`: scores of a random direction of the same norm there.
    """

    layer: int
    position: int
    vector: Tensor
    norm: float
    split_half_cosine: float
    bootstrap_cosine: float
    bootstrap_cosine_low: float
    scores: Scores
    random: Scores


@dataclass(frozen=True)
class Found:
    """What a search gave: `candidates` in order of layer and position; `held_out`: indices of the prompts on
    the positive and the negative side that scored and were not averaged."""

    candidates: list[Candidate]
    held_out: tuple[list[int], list[int]]


def find_directions(
    manager: AblationManager,
    positive: Any,
    negative: Any,
    *,
    end_positions: Sequence[int] = (1,),
    held_out: float = 1 / 3,
    resamples: int = 100,
    seed: int = 0,
    answers: Answers | None = None,
    cancelled: Callable[[], bool] = lambda: False,
    progress: Progress = silent,
) -> Found:
    """A candidate for every layer and end position, in that order.

    Args:
        positive, negative: token ids of each prompt, or a tokenizer's output (whose padding is left out); at
            least 8 different ones a side.
        end_positions: counted from the end of each prompt: 1 is its last token.
        held_out: share of each side that scores instead of being averaged.
        resamples: bootstrap samples.
        seed: of the split, the controls and the samples.
        answers: ids of answer tokens; without them the contrast is read from the last layer's stream.
        cancelled: asked between candidates; true ends the search.
        progress: told `(stage, done, total, unit)`.

    Raises SparkablateError: "config_invalid" (too few prompts, one that does not fit), "usage" (prompts
    that are no token ids), "site_unsupported", "nonfinite_logits", "interrupted".
    """
    if not isinstance(manager, AblationManager):
        raise SparkablateError(
            "usage", f"manager must be an AblationManager(model), not {described(manager)}"
        )
    positive, negative = token_rows("positive prompt", positive), token_rows("negative prompt", negative)
    end_positions = _positions(end_positions)
    _check_settings(held_out, resamples, seed)
    answers, answer_ids = _answers(answers)
    _check_prompts(manager, positive, negative, end_positions)
    check_ids([*positive, *negative, *answer_ids], manager.sites.vocab_size)
    generator = torch.Generator().manual_seed(seed)
    train_p, held_p = _split(len(positive), held_out, generator)
    train_n, held_n = _split(len(negative), held_out, generator)
    streams = _Streams(manager, end_positions, progress)
    p = streams.of([positive[i] for i in train_p], "positive")  # [prompts, layers, positions, d_model]
    n = streams.of([negative[i] for i in train_n], "negative")
    held = [batches([side[i] for i in at]) for side, at in ((positive, held_p), (negative, held_n))]
    readout = _mean(p[:, -1, 0]) - _mean(n[:, -1, 0])  # [d_model], float64
    scorer = Scorer(manager, held[0], held[1], readout, answers)
    places = list(itertools.product(range(manager.sites.n_layers), enumerate(end_positions)))
    candidates = []
    for done, (layer, (at, position)) in enumerate(places):
        if cancelled():
            raise SparkablateError("interrupted", "find_direction was cancelled")
        progress("score", float(done), float(len(places)), "candidates")
        sides = p[:, layer, at], n[:, layer, at]
        candidates.append(_candidate(layer, position, *sides, resamples, generator, scorer))
    return Found(candidates, (held_p, held_n))


def _positions(given: Any) -> list[int]:
    found = [as_whole("an end position", one, 1, 2**31) for one in listed("end_positions", given)]
    if not found or len(set(found)) != len(found):
        raise SparkablateError("config_invalid", f"end_positions {found} must be different, and one or more")
    return found


def _check_settings(held_out: Any, resamples: Any, seed: Any) -> None:
    if not 0 < as_number("held_out", held_out) < 1:
        raise SparkablateError("config_invalid", f"held_out {held_out} must lie between 0 and 1")
    as_whole("resamples", resamples, 1, 10**6)
    as_whole("seed", seed, -(2**63), 2**63 - 1)


def _answers(given: Any) -> tuple[Answers | None, list[list[int]]]:
    """With their ids."""
    if given is None:
        return None, []
    if not isinstance(given, Answers):
        raise SparkablateError("usage", f"answers are an Answers(positive, negative), not {described(given)}")
    ids = [token_row(f"answers.{side}", getattr(given, side)) for side in ("positive", "negative")]
    return Answers(*map(tuple, ids)), ids


def _candidate(
    layer: int,
    position: int,
    p: Tensor,
    n: Tensor,
    resamples: int,
    generator: torch.Generator,
    scorer: Scorer,
) -> Candidate:
    """p, n: the stream there, [prompts, d_model]."""
    difference = _mean(p) - _mean(n)
    norm = difference.norm().item()
    if norm == 0 or not math.isfinite(norm):
        raise SparkablateError(
            "config_invalid",
            f"layer {layer}, position -{position}: both sides have the same mean (difference "
            f"{norm}): the prompts end with the same tokens there; choose other end positions",
        )
    vector = (difference / norm).float()
    split, bootstrap, low = _stability(p, n, vector, resamples, generator)
    other = torch.randn(len(vector), generator=generator, dtype=torch.float64)
    return Candidate(
        layer,
        position,
        vector,
        norm,
        split,
        bootstrap,
        low,
        scorer.score(vector, norm, layer),
        scorer.score((other / other.norm()).float(), norm, layer),
    )


@dataclass(frozen=True)
class _Streams:
    """The residual stream where it leaves every layer, at the end positions."""

    manager: AblationManager
    end_positions: Sequence[int]
    progress: Progress

    @torch.inference_mode()
    def of(self, prompts: Sequence[Sequence[int]], side: str) -> Tensor:
        """Float32 [prompts, layers, positions, d_model] on the CPU; of the unedited model."""
        sites = self.manager.sites
        shape = (len(prompts), sites.n_layers, len(self.end_positions), sites.d_model)
        out = torch.empty(shape)
        layers = {layer.path: layer.index for layer in sites.layers}
        done = 0
        for batch in batches(prompts):

            def keep(tap: Tap, stream: Tensor, batch: Batch = batch) -> None:
                for at, position in enumerate(self.end_positions):
                    out[batch.indices, layers[tap.path], at] = batch.at_end(stream, position).float().cpu()

            with recording([layer.stream for layer in sites.layers], keep):
                sites.stack(input_ids=batch.ids.to(device_of(self.manager.model)), use_cache=False)
            done += len(batch.indices)
            self.progress(side, float(done), float(len(prompts)), "prompts")
        if not bool(torch.isfinite(out).all()):
            raise SparkablateError(
                "nonfinite_logits", f"the {side} prompts give NaN or infinite values in the residual stream"
            )
        return out


def _check_prompts(
    manager: AblationManager,
    positive: Sequence[Sequence[int]],
    negative: Sequence[Sequence[int]],
    end_positions: Sequence[int],
) -> None:
    seen: dict[tuple[int, ...], str] = {}
    for side, prompts in (("positive", positive), ("negative", negative)):
        if len(prompts) < MIN_PROMPTS:
            raise SparkablateError(
                "config_invalid", f"{len(prompts)} {side} prompts; allowed: {MIN_PROMPTS} or more"
            )
        for number, prompt in enumerate(prompts, 1):
            name = f"{side} prompt {number}"
            if len(prompt) < max(end_positions):
                raise SparkablateError(
                    "config_invalid",
                    f"{name} has {len(prompt)} tokens, none at end position {max(end_positions)}",
                )
            limit = manager.sites.max_positions
            if limit is not None and len(prompt) > limit:
                raise SparkablateError(
                    "config_invalid", f"{name} has {len(prompt)} tokens; the model has {limit} positions"
                )
            before = seen.setdefault(tuple(prompt), name)
            if before != name:
                raise SparkablateError(
                    "config_invalid", f"{name} has the same tokens as {before}: remove one of them"
                )
    sites = manager.sites
    size = len(seen) * sites.n_layers * len(end_positions) * sites.d_model * 4
    if size > MAX_ACTIVATION_BYTES:
        raise SparkablateError(
            "config_invalid",
            f"{len(seen)} prompts at {len(end_positions)} end positions make {size >> 30} GiB; "
            f"allowed: {MAX_ACTIVATION_BYTES >> 30}",
        )


def _split(count: int, held_out: float, generator: torch.Generator) -> tuple[list[int], list[int]]:
    """Indices to average and indices to score, disjoint; at least 2 of each."""
    order = torch.randperm(count, generator=generator).tolist()
    held = min(max(2, round(count * held_out)), count - 2)
    return sorted(order[held:]), sorted(order[:held])


def _stability(
    p: Tensor, n: Tensor, vector: Tensor, resamples: int, generator: torch.Generator
) -> tuple[float, float, float]:
    """Split-half cosine, bootstrap cosine (mean, 5 % quantile).  p, n: [prompts, d_model]"""
    halves = []
    for _ in range(SPLITS):
        (p1, p2), (n1, n2) = _halves(p, generator), _halves(n, generator)
        halves.append(_cosine(_mean(p1) - _mean(n1), _mean(p2) - _mean(n2)))
    samples = sorted(
        _cosine(_mean(_resampled(p, generator)) - _mean(_resampled(n, generator)), vector.double())
        for _ in range(resamples)
    )
    return math.fsum(halves) / SPLITS, math.fsum(samples) / resamples, samples[int(0.05 * resamples)]


def _halves(x: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    order = torch.randperm(len(x), generator=generator)
    return x[order[: len(x) // 2]], x[order[len(x) // 2 :]]


def _resampled(x: Tensor, generator: torch.Generator) -> Tensor:
    return x[torch.randint(len(x), (len(x),), generator=generator)]


def _mean(x: Tensor) -> Tensor:
    return x.double().mean(dim=0)


def _cosine(a: Tensor, b: Tensor) -> float:
    """0 where one of them is 0: a sample of one prompt over and over has no direction."""
    product = a.norm() * b.norm()
    return (a @ b / product).item() if product > 0 else 0.0
