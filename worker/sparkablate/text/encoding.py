"""Prompts → token ids: what a model is to continue, or whose last tokens are read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from sparkablate.errors import SparkablateError
from sparkablate.printable import is_unicode
from sparkablate.progress import Progress, silent
from sparkablate.text.chat_templates import render


@dataclass(frozen=True)
class EncodedPrompts:
    """``notices``: what a person should know; ``template_date``: what the chat template writes (ISO), None
    where it writes none."""

    ids: list[list[int]]
    notices: list[str]
    template_date: str | None


def encode_prompts(
    tokenizer: Any,
    prompts: Sequence[str],
    *,
    template_date: str | None = None,
    needs_bos: bool = False,
    cancelled: Callable[[], bool] = lambda: False,
    progress: Progress = silent,
) -> EncodedPrompts:
    """Ids of every prompt, with the special tokens that the tokenizer itself adds in front.

    Args:
        template_date: each prompt is a user's message in the model's chat template, which takes this for
            today (ISO); None: without a template.
        needs_bos: the model needs BOS, whatever its tokenizer does.

    Raises "load_failed" without a tokenizer, "config_invalid" without a chat template, for one that fails,
    and for a prompt without any token; "interrupted".
    """
    if tokenizer is None:
        raise SparkablateError(
            "load_failed", "the model's files hold no tokenizer, so prompts cannot be read"
        )
    texts, dated = list(prompts), False
    if template_date is not None:
        texts, dated = render(tokenizer, prompts, template_date, cancelled, progress)
    bos = getattr(tokenizer, "bos_token_id", None)
    behind = _behind(tokenizer)
    encoded: list[list[int]] = []
    ended = bare = False
    for number, text in enumerate(texts, 1):
        ids = _ids(tokenizer, text, special=template_date is None, number=number)
        # EOS that was typed stays; what a template puts behind its last message is the template's.
        end = behind if template_date is None else _ends(tokenizer, ids)
        ended = ended or end > 0
        ids = ids[: len(ids) - end]
        if not ids:
            raise SparkablateError("config_invalid", f"the prompt {prompts[number - 1]!r:.80} has no tokens")
        if bos is not None and ids[0] != bos:
            bare = True
            ids = [bos, *ids] if needs_bos else ids
        encoded.append(ids)
    notices = []
    if ended:
        notices.append(
            f"the tokenizer ends a prompt with {tokenizer.eos_token!r}: it is removed, because the "
            "prompt is to be continued"
        )
    if bare and not needs_bos and template_date is None:
        notices.append(
            f"the tokenizer has a BOS token ({tokenizer.bos_token!r}) but does not put it before a prompt; "
            "write it there if the model was trained with it"
        )
    return EncodedPrompts(encoded, notices, template_date if dated else None)


def _ids(tokenizer: Any, text: str, *, special: bool, number: int) -> list[int]:
    if not is_unicode(text):
        raise SparkablateError(
            "config_invalid", f"prompt {number} holds half a surrogate pair, which is not Unicode text"
        )
    return list(tokenizer(text, add_special_tokens=special, verbose=False)["input_ids"])


def _behind(tokenizer: Any) -> int:
    """How many tokens (EOS) the tokenizer itself puts behind a text."""
    own = list(tokenizer("a", add_special_tokens=False, verbose=False)["input_ids"])
    whole = list(tokenizer("a", verbose=False)["input_ids"])
    ends = (end for end in range(len(own), len(whole)) if own and whole[end - len(own) : end] == own)
    return len(whole) - next(ends, len(whole))


def _ends(tokenizer: Any, ids: list[int]) -> int:
    """EOS tokens that end the ids."""
    return next((at for at, token in enumerate(reversed(ids)) if token != tokenizer.eos_token_id), len(ids))
