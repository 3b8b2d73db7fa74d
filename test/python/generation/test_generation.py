"""Greedy texts: against the model's own generate, against edited weights, and what is refused."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch

import tiny_models
from sparkablate import AblationManager, AblationSpec
from sparkablate.errors import SparkablateError
from sparkablate.generation.greedy import choosing_settings, continue_greedily

PROMPT = [5, 17, 30, 8]


class Words:
    """A tokenizer as far as texts need one: an id is a word, and a text's first space is dropped."""

    def decode(self, ids: list[int], **_: Any) -> str:
        return " ".join(f"w{index}" for index in ids)


def ids_of(model: Any, count: int = 12) -> list[int]:
    return list(continue_greedily(model, Words(), PROMPT, count).ids)


def stock(model: Any, count: int = 12, **settings: Any) -> list[int]:
    made = model.generate(
        torch.tensor([PROMPT]), do_sample=False, max_new_tokens=count, pad_token_id=0, **settings
    )
    return made[0, len(PROMPT) :].tolist()


@pytest.mark.parametrize("row", ["llama", "gemma2", "gpt2", "mamba2", "qwen3_next", "falcon"])
def test_without_edits_it_is_generate_token_for_token(row: str, tiny: Callable[..., Any]) -> None:
    assert ids_of(tiny(row)) == stock(tiny(row))


def test_under_an_edit_it_is_generate_of_the_edited_model(tiny: Callable[..., Any]) -> None:
    manager = AblationManager(tiny("llama"))
    for layer in (0, 2):
        deleted = copy.deepcopy(manager.model)
        del deleted.model.layers[layer]
        deleted.config.num_hidden_layers -= 1
        for index, module in enumerate(deleted.model.layers):
            module.self_attn.layer_idx = index
        with manager.applied(AblationSpec("layer", layer)):
            assert ids_of(manager.model) == stock(deleted)
    zeroed = copy.deepcopy(manager.model)
    with torch.no_grad():
        zeroed.model.layers[1].self_attn.o_proj.weight[:, 16:32] = 0
    with manager.applied(AblationSpec("head", 1, heads=(1,))):
        assert ids_of(manager.model) == stock(zeroed)
    assert ids_of(manager.model) == stock(manager.model)


def test_a_generation_config_that_samples_does_not(tiny: Callable[..., Any]) -> None:
    model = copy.deepcopy(tiny("llama"))
    plain = ids_of(model)
    model.generation_config.update(do_sample=True, temperature=5.0, top_p=0.5, num_beams=3, max_length=6)
    assert ids_of(model) == plain
    assert choosing_settings(model) == {}
    model.generation_config.repetition_penalty = 9.0
    assert ids_of(model) != plain
    assert choosing_settings(model) == {"repetition_penalty": 9.0}


def test_an_end_token_ends_it_and_is_told(tiny: Callable[..., Any]) -> None:
    model = copy.deepcopy(tiny("llama"))
    ids = ids_of(model)
    model.generation_config.eos_token_id = [ids[4], tiny_models.VOCAB - 1]
    made = continue_greedily(model, Words(), PROMPT, 12)
    assert list(made.ids) == ids[: ids.index(ids[4]) + 1]
    assert made.stopped
    assert made.text == "".join(f" w{index}" for index in made.ids)


def test_it_stops_when_cancelled_and_says_how_far_it_is(tiny: Callable[..., Any]) -> None:
    seen: list[float] = []
    made = continue_greedily(
        tiny("llama"),
        Words(),
        PROMPT,
        12,
        cancelled=lambda: len(seen) == 3,
        progress=lambda stage, done, total, unit: seen.append(done),
    )
    assert seen == [1, 2, 3]
    assert len(made.ids) == 3


def test_logits_that_are_not_finite_are_no_text(tiny: Callable[..., Any]) -> None:
    model = copy.deepcopy(tiny("llama"))
    with torch.no_grad():
        model.model.layers[1].mlp.down_proj.weight[0, 0] = torch.nan
    with pytest.raises(SparkablateError) as caught:
        ids_of(model)
    assert caught.value.code == "nonfinite_logits"
