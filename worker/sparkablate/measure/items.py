"""Prompts with answers: how they become token ids, and what of a padded batch counts.

Items are padded on the right: a causal model's values at a position do not depend on what follows it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sparkablate.errors import SparkablateError
from sparkablate.measure.metrics import Metric
from sparkablate.progress import Progress

#: In place of a wrong answer's position and token where an item has none.
NONE = -1

#: Lines that a message lists before it says how many more there are.
SHOWN = 5

#: Characters of a text that a message quotes.
WIDTH = 80

#: Items that are tokenised between two reports of progress.
ITEMS_A_STEP = 1000


@dataclass(frozen=True)
class EncodedItem:
    """``ids`` of prompt and answer, without BOS; the answer is ``ids[begin:]``. The wrong answer first
    differs from it at position ``at``, where it has ``wrong``; both are NONE without one."""

    ids: list[int]
    begin: int
    at: int = NONE
    wrong: int = NONE


def encode_items(
    tokenizer: Any, items: Sequence[dict[str, str]], name: str, max_tokens: int, progress: Progress
) -> tuple[list[EncodedItem], list[str]]:
    """Items ``{prompt, answer, wrong?}`` as token ids, and what a person should know of them.

    Prompt and answer are tokenised as one text, and the tokens must divide where the texts do. Raises
    ``config_invalid`` for lines where they do not, or whose wrong answer cannot be told from the answer,
    and for more than ``max_tokens``.
    """
    if tokenizer is None:
        raise SparkablateError(
            "load_failed", "the model's files hold no tokenizer, so a task cannot be tokenised"
        )
    encoded: list[EncodedItem] = []
    problems: list[str] = []
    total = 0
    for begin in range(0, len(items), ITEMS_A_STEP):
        step = items[begin : begin + ITEMS_A_STEP]
        for line, item in enumerate(_encode_step(tokenizer, step), begin + 1):
            if isinstance(item, str):
                problems.append(f"{name}:{line}: {item}")
                continue
            encoded.append(item)
            total += len(item.ids)
        progress("tokenize", float(begin + len(step)), float(len(items)), "items")
        if total > max_tokens:
            raise SparkablateError(
                "config_invalid", f"{name}: more than {max_tokens} tokens; allowed: fewer or shorter items"
            )
    if problems:
        more = [f"… and {len(problems) - SHOWN} more lines"] if len(problems) > SHOWN else []
        raise SparkablateError("config_invalid", "\n".join([*problems[:SHOWN], *more]))
    return encoded, _notices(items, name)


def _encode_step(tokenizer: Any, items: Sequence[dict[str, str]]) -> list[EncodedItem | str]:
    """Each item's ids, or what is wrong with it."""

    def ids(texts: list[str]) -> list[list[int]]:
        if not texts:
            return []
        encoded: list[list[int]] = tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]
        return encoded

    prompts = ids([item["prompt"] for item in items])
    answers = ids([item["prompt"] + item["answer"] for item in items])
    wrongs = iter(ids([item["prompt"] + item["wrong"] for item in items if "wrong" in item]))
    return [
        _encode(item, prompt, answer, next(wrongs) if "wrong" in item else None)
        for item, prompt, answer in zip(items, prompts, answers, strict=True)
    ]


def _encode(
    item: dict[str, str], prompt: list[int], answer: list[int], wrong: list[int] | None
) -> EncodedItem | str:
    begin = len(prompt)
    if begin == 0:
        return "prompt: has no token; allowed: at least one"
    for key, joined in (("answer", answer), ("wrong", wrong)):
        if joined is not None and (joined[:begin] != prompt or len(joined) == begin):
            return _no_boundary(item["prompt"], key, item[key])
    if wrong is None:
        return EncodedItem(answer, begin)
    for at, (mine, other) in enumerate(zip(answer, wrong, strict=False)):
        if mine != other:
            return EncodedItem(answer, begin, at, other)
    if len(answer) == len(wrong):
        return f"wrong: {item['wrong']!r:.{WIDTH}} has the answer's tokens; allowed: another answer"
    return (
        f"wrong: of {item['answer']!r:.{WIDTH}} and {item['wrong']!r:.{WIDTH}} one begins with all tokens of "
        "the other, so that no token tells them apart; allowed: answers that differ at some token"
    )


def _no_boundary(prompt: str, key: str, text: str) -> str:
    said = f"{key}: the tokenizer does not divide {prompt[-20:] + text!r:.{WIDTH}} into prompt and {key}"
    if prompt[-1:].isspace():
        return f"{said}; allowed: the space that ends the prompt at the beginning of the {key} instead"
    return f"{said}; allowed: a boundary between two tokens, like a space that begins the {key}"


def _notices(items: Sequence[dict[str, str]], name: str) -> list[str]:
    """Answers that go on in the middle of a word: meant rarely, and a number that means something else."""
    glued = [
        line
        for line, item in enumerate(items, 1)
        if item["prompt"][-1:].isalpha() and item["answer"][:1].isalpha()
    ]
    if not glued:
        return []
    item = items[glued[0] - 1]
    joined = item["prompt"][-10:] + item["answer"][:10]
    more = f" and {len(glued) - 1} more lines" if len(glued) > 1 else ""
    return [
        f"{name}:{glued[0]}{more}: the answer continues the prompt's last word ({joined!r}): "
        "an answer that is a word of its own begins with a space"
    ]


@dataclass(frozen=True)
class Answers:
    """What of a batch of padded items is measured.

    Args:
        scored: bool [batch, pos - 1]: whether the position predicts a token of the item's answer.
        wrong: int64 [batch, pos]: the wrong answer's token at the position that predicts the first token in
            which the two differ, NONE elsewhere. None where items have no wrong answers.
    """

    scored: Tensor
    wrong: Tensor | None

    @classmethod
    def from_wire(cls, answers: Sequence[dict[str, Any]], ids: Tensor, vocab_size: int) -> Answers:
        """``answers`` as in src/protocol/messages.ts, one a row of ``ids`` [batch, pos].

        Raises ``invalid_message`` for positions or tokens that are not there.
        """
        batch, length = ids.shape
        scored = torch.zeros(batch, length - 1, dtype=torch.bool)
        wrong = torch.full((batch, length), NONE)
        given = [answer["wrong"] is not None for answer in answers]
        if len(answers) != batch or any(given) != all(given):
            raise SparkablateError(
                "invalid_message", f"{len(answers)} answers, {sum(given)} with a wrong one, for {batch} items"
            )
        for row, answer in enumerate(answers):
            begin, end, other = answer["begin"], answer["end"], answer["wrong"]
            if not 1 <= begin < end <= length:
                raise SparkablateError("invalid_message", f"an answer from {begin} to {end} of {length}")
            scored[row, begin - 1 : end - 1] = True
            if other is None:
                continue
            at, token = other["at"], other["token"]
            if not (begin <= at < end and 0 <= token < vocab_size and token != int(ids[row, at])):
                raise SparkablateError("invalid_message", f"a wrong answer with {token} at {at}")
            wrong[row, at - 1] = token
        return cls(scored.to(ids.device), wrong.to(ids.device) if any(given) else None)

    def only(self, values: dict[str, Tensor]) -> dict[str, Tensor]:
        """The values [batch, pos - 1] with zeros at what is not measured, whatever stands there."""
        return {column: torch.where(self.scored, value, 0) for column, value in values.items()}

    def item_values(self, values: dict[str, Tensor], metrics: Sequence[Metric]) -> np.ndarray:
        """One value an item, float64 [columns, batch], as each metric's row says."""
        scored = self.scored.cpu()
        return torch.stack(
            [
                REDUCTIONS[metric.item](values[column].cpu().double(), scored)
                for metric in metrics
                for column in metric.columns
            ]
        ).numpy()


def _mean(values: Tensor, scored: Tensor) -> Tensor:
    return values.where(scored, 0).sum(dim=1) / scored.sum(dim=1)


def _every(values: Tensor, scored: Tensor) -> Tensor:
    return values.where(scored, 1).amin(dim=1)


def _sum(values: Tensor, scored: Tensor) -> Tensor:
    return values.where(scored, 0).sum(dim=1)


#: ``Metric.item`` → (values float64 [batch, pos - 1], scored bool of that shape) → float64 [batch].
REDUCTIONS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"mean": _mean, "every": _every, "sum": _sum}
