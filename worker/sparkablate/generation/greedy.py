"""Greedy continuations by the model's own ``generate``, with its KV cache."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import LogitsProcessor, LogitsProcessorList, StoppingCriteria, StoppingCriteriaList

from sparkablate.errors import SparkablateError
from sparkablate.progress import Progress, silent

#: Settings of a generation config that change which token is chosen, also without sampling.
_CHOOSING = (
    "repetition_penalty",
    "no_repeat_ngram_size",
    "min_length",
    "min_new_tokens",
    "bad_words_ids",
    "suppress_tokens",
    "begin_suppress_tokens",
    "forced_bos_token_id",
    "forced_eos_token_id",
    "sequence_bias",
    "exponential_decay_length_penalty",
    "guidance_scale",
)


@dataclass(frozen=True)
class Continuation:
    """``ids``: the new tokens, an end token included; ``stopped``: whether they end with one."""

    ids: tuple[int, ...]
    text: str
    stopped: bool


def choosing_settings(model: Any) -> dict[str, Any]:
    """What the model's generation config does to the choice of tokens, besides sampling."""
    changed = model.generation_config.to_diff_dict()
    return {name: changed[name] for name in _CHOOSING if changed.get(name) is not None}


@torch.inference_mode()
def continue_greedily(
    model: Any,
    tokenizer: Any,
    prompt: list[int],
    max_new_tokens: int,
    cancelled: Callable[[], bool] = lambda: False,
    progress: Progress = silent,
) -> Continuation:
    """The most probable token, again and again, until an end token, ``max_new_tokens``, or ``cancelled``.

    Args: prompt, token ids [pos]. Raises "nonfinite_logits".
    """
    config = copy.deepcopy(model.generation_config)
    config.do_sample = False
    config.num_beams = 1
    config.temperature = config.top_p = config.top_k = config.min_p = None
    config.max_new_tokens, config.max_length = max_new_tokens, None
    config.use_cache = True
    # Hooks must run at every step: no static cache, which is compiled.
    config.cache_implementation, config.disable_compile = None, True
    ends = config.eos_token_id if isinstance(config.eos_token_id, list) else [config.eos_token_id]
    if config.pad_token_id is None:  # nothing is padded, but generate() wants one
        config.pad_token_id = ends[0]
    ids = torch.tensor([prompt], device=model.device)  # [1, pos]
    output = model.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        generation_config=config,
        logits_processor=LogitsProcessorList([_Finite()]),
        stopping_criteria=StoppingCriteriaList([_Watch(len(prompt), max_new_tokens, cancelled, progress)]),
    )
    new = output[0, len(prompt) :].tolist()
    return Continuation(tuple(new), _text(tokenizer, prompt, new), bool(new) and new[-1] in ends)


def _text(tokenizer: Any, prompt: list[int], new: list[int]) -> str:
    """The new tokens' text as it follows the prompt's: some tokenizers drop a text's first space."""
    before = tokenizer.decode(prompt, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    whole = tokenizer.decode([*prompt, *new], skip_special_tokens=True, clean_up_tokenization_spaces=False)
    if whole.startswith(before):
        return str(whole[len(before) :])
    return str(tokenizer.decode(new, skip_special_tokens=True, clean_up_tokenization_spaces=False))


class _Finite(LogitsProcessor):
    """An argmax over NaN is a token like any other: refused instead."""

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        if bool(scores.isnan().any()) or bool((scores == torch.inf).any()):
            raise SparkablateError(
                "nonfinite_logits", f"NaN or infinite logits at position {input_ids.shape[1] - 1}"
            )
        return scores


class _Watch(StoppingCriteria):
    def __init__(self, begin: int, most: int, cancelled: Callable[[], bool], progress: Progress) -> None:
        self.begin, self.most = begin, most
        self.cancelled, self.progress = cancelled, progress

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Any:
        self.progress("generate", float(input_ids.shape[1] - self.begin), float(self.most), "tokens")
        return torch.full((input_ids.shape[0],), self.cancelled(), device=input_ids.device)
