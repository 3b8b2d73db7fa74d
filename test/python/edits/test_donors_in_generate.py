"""Patch and resample while a text is written: the prompt's positions are edited, or nothing is written."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from applied_cases import fresh, untouched
from torch import Tensor
from transformers import DynamicCache, StoppingCriteria, StoppingCriteriaList

import tiny_models
from sparkablate import AblationManager, AblationSpec, SparkablateError
from sparkablate.edits.donors import SourceKey

PROMPT, OTHERS = tiny_models.tokens(2, 7), tiny_models.tokens(2, 7, seed=5)
NEW = 4
#: Types whose stock `generate` runs the last layers at the last position alone.
CUT = ("gemma4_text",)
SITES: dict[str, list[AblationSpec]] = {
    "head": [AblationSpec("head", 1, heads=(0, 2), mode="patch")],
    "mlp not_first": [AblationSpec("mlp", 0, mode="patch", positions="not_first")],
    "joint": [AblationSpec("attn", 0, mode="patch"), AblationSpec("mlp", 2, mode="resample")],
}


def prepared(model: Any, ids: Tensor = OTHERS) -> AblationManager:
    manager = AblationManager(model)
    for mode in ("patch", "resample"):
        manager.record_sources(ids, mode=mode)
    return manager


def by_hand(manager: AblationManager, specs: list[AblationSpec]) -> tuple[Tensor, Tensor]:
    """Greedy ids [batch, NEW] and their logits [batch, NEW, vocab], a whole pass a token, with hooks of our
    own that write the donor into the prompt's positions; nothing of `applied`."""
    ids, steps = PROMPT, []
    for _ in range(NEW):
        handles = []
        for spec in specs:
            layer = manager.sites.layers[spec.layer]
            donor = manager._sources[spec.mode][SourceKey(spec.kind, spec.layer)]
            columns = slice(None)
            if spec.kind == "head":
                width = layer.d_head
                columns = [h * width + i for h in spec.heads for i in range(width)]
            start = 1 if spec.positions == "not_first" else 0

            def put(x: Tensor, donor: Tensor = donor, columns: Any = columns, start: int = start) -> Tensor:
                x = x.clone()
                x[:, start : PROMPT.shape[1], columns] = donor[:, start:, columns]
                return x

            if spec.kind == "head":
                hook = lambda module, args, put=put: (put(args[0]),)  # noqa: E731
                handles.append(layer.attention_output.register_forward_pre_hook(hook))
            else:
                module = layer.attention if spec.kind == "attn" else layer.mlp

                def after(module: Any, args: Any, out: Any, put: Any = put) -> Any:
                    return (put(out[0]), *out[1:]) if isinstance(out, tuple) else put(out)

                handles.append(module.register_forward_hook(after))
        with torch.inference_mode():
            logits = manager.model(input_ids=ids, use_cache=False).logits[:, -1]
        for handle in handles:
            handle.remove()
        steps.append(logits)
        ids = torch.cat([ids, logits.argmax(dim=-1, keepdim=True)], dim=1)
    return ids[:, PROMPT.shape[1] :], torch.stack(steps, dim=1)


def written(manager: AblationManager, specs: Any, **options: Any) -> tuple[Tensor, Tensor]:
    with manager.applied(specs):
        out = manager.model.generate(
            PROMPT,
            attention_mask=torch.ones_like(PROMPT),
            min_new_tokens=NEW,
            max_new_tokens=NEW,
            do_sample=False,
            return_dict_in_generate=True,
            output_logits=True,
            **options,
        )
    return out.sequences[:, PROMPT.shape[1] :], torch.stack(out.logits, dim=1)


@pytest.mark.parametrize("use_cache", [True, False], ids=["cache", "no cache"])
@pytest.mark.parametrize("name", SITES)
def test_the_prompt_is_edited_and_what_is_written_is_not(name: str, use_cache: bool) -> None:
    manager = prepared(fresh())
    ids, logits = by_hand(manager, SITES[name])
    for _ in range(2):  # another generation in a block of its own, and what it leaves behind
        found, found_logits = written(manager, SITES[name], use_cache=use_cache)
        torch.testing.assert_close(found_logits, logits, rtol=1e-4, atol=1e-5)
        assert torch.equal(found, ids)
    plain = manager.model(input_ids=PROMPT, use_cache=False).logits[:, -1]
    assert not torch.allclose(plain, logits[:, 0], atol=1e-3)
    assert untouched(manager.model)


@pytest.mark.parametrize("row", tiny_models.TINY)
def test_its_own_prompt_as_donor_changes_no_bit(row: str, tiny: Any) -> None:
    """On every row, those whose caches do not count their tokens among them."""
    model = tiny(row)
    manager = prepared(model, PROMPT)
    specs = [
        AblationSpec(kind, layer.index, mode="patch")
        for layer, kind in itertools.product(manager.sites.layers, ("attn", "mlp"))
        if kind in layer.sites
    ]
    if row in CUT:
        with pytest.raises(SparkablateError, match="its donor is"):
            written(manager, specs)
        return
    want, found = written(manager, []), written(manager, specs)
    assert torch.equal(found[0], want[0])
    assert torch.equal(found[1], want[1])


class Count(StoppingCriteria):
    def __init__(self) -> None:
        self.tokens = 0

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Any:
        self.tokens += 1
        return torch.zeros(input_ids.shape[0], dtype=torch.bool)


@pytest.mark.parametrize(
    ("options", "donors"),
    [
        ({"num_beams": 2}, OTHERS),
        ({"num_return_sequences": 2, "num_beams": 2}, OTHERS),
        ({}, OTHERS[:, :5]),
        ({}, OTHERS[:1]),
        ({"use_cache": False}, tiny_models.tokens(2, 9, seed=5)),
        ({}, tiny_models.tokens(2, 9, seed=5)),
    ],
    ids=["beams", "sequences", "short", "one row", "long, no cache", "long"],
)
def test_what_is_not_aligned_is_refused_before_the_first_token(
    options: dict[str, Any], donors: Tensor
) -> None:
    manager = prepared(fresh(), donors)
    count = Count()
    with pytest.raises(SparkablateError, match="its donor is") as caught:
        written(manager, SITES["head"], stopping_criteria=StoppingCriteriaList([count]), **options)
    assert caught.value.code == "hook_failed"
    assert count.tokens == 0
    assert untouched(manager.model)


def test_a_prompt_run_earlier_is_told_apart() -> None:
    """A longer text goes on from the prompt that was run; another long one does not."""
    manager = prepared(fresh())
    model, spec = manager.model, SITES["head"]
    longer = torch.cat([PROMPT, OTHERS[:, :2]], dim=1)
    with torch.inference_mode(), manager.applied(spec):
        with pytest.raises(SparkablateError, match="the first pass must have"):
            model(input_ids=longer, use_cache=False)
        first = model(input_ids=PROMPT, use_cache=False).logits
        torch.testing.assert_close(
            model(input_ids=longer, use_cache=False).logits[:, : PROMPT.shape[1]], first, rtol=1e-4, atol=1e-5
        )
        with pytest.raises(SparkablateError, match="the first pass must have"):
            model(input_ids=longer.flip(1), use_cache=False)


def test_steps_of_a_cache_that_is_cut_back_take_their_own_positions() -> None:
    manager = prepared(fresh())
    model, spec = manager.model, SITES["joint"]
    with torch.inference_mode(), manager.applied(spec):
        want = model(input_ids=PROMPT, use_cache=False).logits
        cache = DynamicCache(config=model.config)
        model(PROMPT, past_key_values=cache)
        cache.crop(4 - PROMPT.shape[1])
        found = model(PROMPT[:, 4:], past_key_values=cache).logits
    torch.testing.assert_close(found, want[:, 4:], rtol=1e-4, atol=1e-5)


@pytest.mark.filterwarnings("ignore:a key/value cache")
def test_a_cache_filled_without_the_donor_is_refused() -> None:
    """Its tokens stand where the donor's do: nothing of this pass is aligned."""
    manager = prepared(fresh())
    cache = DynamicCache(config=manager.model.config)
    with torch.inference_mode():
        manager.model(OTHERS, past_key_values=cache)
        with manager.applied(SITES["head"]), pytest.raises(SparkablateError, match="without these edits"):
            manager.model(PROMPT, past_key_values=cache)
