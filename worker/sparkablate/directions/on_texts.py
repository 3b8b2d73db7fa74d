"""Texts → directions that tell them apart, in the shape that the wire has."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from sparkablate.anatomy.architectures import needs_bos
from sparkablate.catalog import LIMITS
from sparkablate.directions.find import Candidate, find_directions
from sparkablate.directions.scores import Answers
from sparkablate.errors import SparkablateError
from sparkablate.manager import AblationManager
from sparkablate.progress import Progress
from sparkablate.text.encoding import encode_prompts


@dataclass(frozen=True)
class Search:
    """Two sets of texts, and the settings of ``find_direction`` (src/protocol/messages.ts)."""

    positive: list[str]
    negative: list[str]
    template_date: str | None
    end_positions: list[int]
    held_out: float
    resamples: int
    seed: int
    answer_tokens: dict[str, list[str]] | None


def find_on_texts(
    manager: AblationManager,
    tokenizer: Any,
    search: Search,
    cancelled: Callable[[], bool],
    progress: Progress,
) -> tuple[dict[str, Any], np.ndarray]:
    """The result of ``find_direction`` (src/protocol/messages.ts); the vectors [candidates, d_model].

    Raises what ``find_directions`` and ``encode_prompts`` do.
    """
    began = time.perf_counter()
    sites = manager.sites
    count = sites.n_layers * len(search.end_positions)
    if count > LIMITS["candidates"] or count * sites.d_model * 4 > LIMITS["payload_bytes"]:
        raise SparkablateError(
            "config_invalid", f"{count} candidates are too many; choose fewer end positions"
        )
    answers, positives = search.answer_tokens, len(search.positive)
    encoded = encode_prompts(
        tokenizer,
        [*search.positive, *search.negative],
        template_date=search.template_date,
        needs_bos=needs_bos(manager.model),
        cancelled=cancelled,
        progress=progress,
    )
    found = find_directions(
        manager,
        encoded.ids[:positives],
        encoded.ids[positives:],
        end_positions=search.end_positions,
        held_out=search.held_out,
        resamples=search.resamples,
        seed=search.seed,
        answers=None if answers is None else _answers(tokenizer, answers),
        cancelled=cancelled,
        progress=progress,
    )
    result = {
        "candidates": [_row(candidate) for candidate in found.candidates],
        "held_out": dict(zip(("positive", "negative"), found.held_out, strict=True)),
        "contrast": "separation" if answers is None else "log_odds",
        "template_date": encoded.template_date,
        "notices": [notice[:4096] for notice in encoded.notices],
        "seconds": time.perf_counter() - began,
    }
    return result, np.stack([candidate.vector.numpy() for candidate in found.candidates])


def _row(candidate: Candidate) -> dict[str, Any]:
    """`directionCandidate` of src/protocol/messages.ts."""
    return {
        "layer": candidate.layer,
        "position": candidate.position,
        "norm": candidate.norm,
        "split_half_cosine": candidate.split_half_cosine,
        "bootstrap_cosine": candidate.bootstrap_cosine,
        "bootstrap_cosine_low": candidate.bootstrap_cosine_low,
        **asdict(candidate.scores),
        "random": asdict(candidate.random),
    }


def _answers(tokenizer: Any, texts: dict[str, list[str]]) -> Answers:
    positive, negative = (
        tuple(_one_token(tokenizer, text) for text in texts[side]) for side in ("positive", "negative")
    )
    if shared := set(positive) & set(negative):
        raise SparkablateError(
            "config_invalid", f"{tokenizer.decode([min(shared)])!r} stands among both sides' answer tokens"
        )
    return Answers(positive, negative)


def _one_token(tokenizer: Any, text: str) -> int:
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    if len(ids) != 1:
        pieces = [tokenizer.decode([index]) for index in ids]
        raise SparkablateError(
            "config_invalid", f"the answer token {text!r} is {len(ids)} tokens ({pieces}); allowed: one"
        )
    return int(ids[0])
