"""Every prompt under every condition: greedy texts, one after another."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

from sparkablate.anatomy.architectures import needs_bos
from sparkablate.errors import SparkablateError
from sparkablate.generation.greedy import Continuation, choosing_settings, continue_greedily
from sparkablate.manager import AblationManager
from sparkablate.measure.failures import condition_failure
from sparkablate.progress import Progress
from sparkablate.specs import from_wire
from sparkablate.text.encoding import encode_prompts
from sparkablate.text.vocabulary import check_ids


@dataclass(frozen=True)
class Generation:
    """One prompt (its index) continued under one condition; ``made`` is None where ``error`` is set."""

    condition: str
    prompt: int
    made: Continuation | None
    seconds: float
    error: SparkablateError | None = None


@dataclass(frozen=True)
class GenerationRun:
    """``recover()`` proves after a failure that the model is what it was."""

    model: Any
    tokenizer: Any
    manager: AblationManager
    max_new_tokens: int
    cancelled: Callable[[], bool]
    progress: Progress
    recover: Callable[[], None]

    def run(
        self,
        prompts: Sequence[str],
        template_date: str | None,
        conditions: Sequence[dict[str, Any]],
        on_generation: Callable[[Generation], None],
    ) -> dict[str, Any]:
        """The result of ``generate`` in src/protocol/messages.ts. A text that was cancelled is not reported.

        ``template_date``: as ``encode_prompts``, and raises what it does."""
        began = time.perf_counter()
        encoded = encode_prompts(
            self.tokenizer,
            prompts,
            template_date=template_date,
            needs_bos=needs_bos(self.model),
            cancelled=self.cancelled,
            progress=self.progress,
        )
        check_ids(encoded.ids, self.manager.sites.vocab_size, self.tokenizer)
        for ids in encoded.ids:
            self._check_length(len(ids))
        for index, ids in enumerate(encoded.ids):
            for condition in conditions:
                generation = self._generation(condition, index, ids)
                if self.cancelled():
                    break
                on_generation(generation)
        return {
            "prompt_tokens": [len(ids) for ids in encoded.ids],
            "template_date": encoded.template_date,
            "cancelled": self.cancelled(),
            "notices": [
                *encoded.notices,
                *(
                    f"the model's generation config sets {name} to {value}, for every text"[:4096]
                    for name, value in choosing_settings(self.model).items()
                ),
            ],
            "seconds": time.perf_counter() - began,
        }

    def _check_length(self, tokens: int) -> None:
        limit = self.manager.sites.max_positions
        if limit is not None and tokens + self.max_new_tokens > limit:
            raise SparkablateError(
                "config_invalid",
                f"a prompt of {tokens} tokens and {self.max_new_tokens} new ones do not fit the model's "
                f"{limit} positions",
            )

    def _generation(self, condition: dict[str, Any], prompt: int, ids: list[int]) -> Generation:
        began = time.perf_counter()
        made: Continuation | None = None
        failure: SparkablateError | None = None
        try:
            specs = [from_wire(intervention) for intervention in condition["interventions"]]
            with self.manager.applied(specs) if specs else nullcontext():
                made = continue_greedily(
                    self.model, self.tokenizer, ids, self.max_new_tokens, self.cancelled, self.progress
                )
        except Exception as error:  # a hook may raise anything; it is reported with its traceback
            failure = condition_failure(error)
        if failure is not None:
            self.recover()
        return Generation(condition["id"], prompt, made, time.perf_counter() - began, failure)
