"""Finding directions: planted ones are found, labels without meaning find nothing, edits leave nothing."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor

import tiny_models
from sparkablate import AblationManager, DirectionSpec
from sparkablate.anatomy.sites import Tap
from sparkablate.directions.find import Found, find_directions
from sparkablate.directions.prompts import batches
from sparkablate.directions.scores import Answers, Estimate
from sparkablate.edits.hooks import recording
from sparkablate.errors import SparkablateError

ROWS = list(tiny_models.TINY)
MARKER, OTHER = 2, 3
SIDE = 64


def prompts(count: int, seed: int, first: int | None = None) -> list[list[int]]:
    """Random prompts of 6 to 9 tokens, with a first token where one is given."""
    generator = torch.Generator().manual_seed(seed)

    def numbers(low: int, high: int, size: int) -> list[int]:
        return torch.randint(low, high, (size,), generator=generator).tolist()

    made = [numbers(4, tiny_models.VOCAB, numbers(6, 10, 1)[0]) for _ in range(count)]
    return [prompt if first is None else [first, *prompt] for prompt in made]


def unit(seed: int, width: int = tiny_models.D_MODEL) -> Tensor:
    vector = torch.randn(width, generator=torch.Generator().manual_seed(seed))
    return vector / vector.norm()


@contextmanager
def planted(manager: AblationManager, layer: int, vector: Tensor) -> Iterator[None]:
    """The layer's MLP also writes `vector` wherever a prompt has the marker in it."""
    marked: list[Tensor] = []

    def before(module: Any, args: Any, kwargs: dict[str, Any]) -> None:
        marked[:] = [(kwargs["input_ids"] == MARKER).any(dim=1)[:, None, None]]

    def after(module: Any, args: Any, output: Tensor) -> Tensor:
        return output + marked[0] * vector

    write = manager.sites.layers[layer].mlp_write
    assert write is not None
    removers = [
        manager.sites.stack.register_forward_pre_hook(before, with_kwargs=True),
        write.module.register_forward_hook(after),
    ]
    try:
        yield
    finally:
        for remover in removers:
            remover.remove()


def best(found: Found, key: Callable[[Any], Estimate | None]) -> float:
    return max(
        -math.inf if (score := key(candidate)) is None else score.value for candidate in found.candidates
    )


def test_a_planted_direction_is_found_at_its_layer(tiny: Callable[..., Any]) -> None:
    manager = AblationManager(tiny("llama"))
    positive, negative = prompts(SIDE, 0, MARKER), prompts(SIDE, 1, OTHER)
    for layer, seed in ((0, 5), (1, 6)):
        vector = unit(seed)
        with planted(manager, layer, 30 * vector):
            found = find_directions(manager, positive, negative, end_positions=(1, 3))
        scored = [one for one in found.candidates if one.scores.lowered and one.scores.raised]
        chosen = max(scored, key=lambda one: min(one.scores.lowered.value, one.scores.raised.value))
        assert chosen.layer == layer
        assert torch.dot(chosen.vector, vector) > 0.99
        assert chosen.norm == pytest.approx(30, rel=0.05)
        assert chosen.split_half_cosine > 0.9
        assert chosen.bootstrap_cosine_low > 0.9
        lowered, raised, contrast = chosen.scores.lowered, chosen.scores.raised, chosen.scores.contrast
        # most of the contrast hangs on it: less is left without it, and with it the negatives are positives
        assert lowered.value > 0.6 * contrast.value
        assert raised.value > 0.6 * contrast.value
        for name in ("lowered", "raised"):
            score: Estimate = getattr(chosen.scores, name)
            assert score.value - 5 * score.se > best(found, lambda one, name=name: getattr(one.random, name))


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_labels_without_meaning_find_nothing_that_the_controls_do_not(
    seed: int, tiny: Callable[..., Any]
) -> None:
    manager = AblationManager(tiny("llama"))
    everything = prompts(SIDE, 0, MARKER) + prompts(SIDE, 1, OTHER)
    order = torch.randperm(2 * SIDE, generator=torch.Generator().manual_seed(seed)).tolist()
    shuffled = [everything[index] for index in order]
    with planted(manager, 1, 30 * unit(6)):
        found = find_directions(manager, shuffled[:SIDE], shuffled[SIDE:], seed=seed)
    for one in found.candidates:
        assert one.split_half_cosine < 0.5
        assert one.bootstrap_cosine_low < 0.7
        if one.scores.lowered is None or one.scores.raised is None:
            continue
        # the rule of src/directions/choice.ts: both scores, at their lower ends, above every random one
        assert not all(
            score.value - 3 * score.se > best(found, lambda one, name=name: getattr(one.random, name))
            for name, score in (("lowered", one.scores.lowered), ("raised", one.scores.raised))
        )


def test_without_a_contrast_half_samples_are_orthogonal_and_bootstraps_are_not(
    tiny: Callable[..., Any],
) -> None:
    manager = AblationManager(tiny("llama"))
    found = [find_directions(manager, prompts(SIDE, s), prompts(SIDE, s + 9)) for s in (0, 1, 2, 3)]
    halves = [one.split_half_cosine for each in found for one in each.candidates]
    bootstraps = [one.bootstrap_cosine for each in found for one in each.candidates]
    assert abs(sum(halves) / len(halves)) < 0.25
    assert 0.6 < sum(bootstraps) / len(bootstraps) < 0.85


def test_the_difference_of_means_is_that_of_plain_forward_passes(tiny: Callable[..., Any]) -> None:
    model = tiny("llama")
    positive, negative = prompts(12, 0), prompts(9, 1)
    found = find_directions(AblationManager(model), positive, negative, end_positions=(1, 2), held_out=0.4)
    assert [len(side) for side in found.held_out] == [5, 4]
    assert [(one.layer, one.position) for one in found.candidates] == [
        (layer, position) for layer in range(3) for position in (1, 2)
    ]

    def mean(side: list[list[int]], held: list[int], layer: int, position: int) -> Tensor:
        streams = []
        for index in sorted(set(range(len(side))) - set(held)):
            with torch.inference_mode():
                states = model(torch.tensor([side[index]]), output_hidden_states=True).hidden_states
            streams.append(states[layer + 1][0, -position].double())
        return torch.stack(streams).mean(dim=0)

    for one in found.candidates[:4]:  # transformers normalises the last state
        p, n = (
            mean(side, held, one.layer, one.position)
            for side, held in zip((positive, negative), found.held_out, strict=True)
        )
        assert one.norm == pytest.approx((p - n).norm().item(), rel=1e-5)
        torch.testing.assert_close(one.vector.double() * one.norm, p - n, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("row", ROWS)
def test_a_longer_prompt_beside_it_changes_nothing(row: str, tiny: Callable[..., Any]) -> None:
    sites = AblationManager(tiny(row)).sites
    some = prompts(5, 0)
    for batch in batches(some):
        with torch.inference_mode():
            together = sites.stack(input_ids=batch.ids, use_cache=False)[0]
            for position in (1, 3):
                alone = [
                    sites.stack(input_ids=torch.tensor([some[index]]), use_cache=False)[0][0, -position]
                    for index in batch.indices
                ]
                torch.testing.assert_close(
                    batch.at_end(together, position), torch.stack(alone), rtol=1e-4, atol=1e-5
                )


def test_answer_tokens_give_log_odds_in_nats(tiny: Callable[..., Any]) -> None:
    model = tiny("llama")
    manager = AblationManager(model)
    positive, negative = prompts(12, 0), prompts(12, 1)
    found = find_directions(manager, positive, negative, answers=Answers((5, 6), (7,)))

    def odds(prompt: list[int], specs: list[Any]) -> float:
        with torch.inference_mode(), manager.applied(specs):
            probabilities = model(torch.tensor([prompt])).logits[0, -1].softmax(dim=-1)
        return math.log((probabilities[5] + probabilities[6]) / probabilities[7])

    def contrast(specs: list[Any]) -> float:
        means = [
            sum(odds(side[index], specs) for index in held) / len(held)
            for side, held in zip((positive, negative), found.held_out, strict=True)
        ]
        return means[0] - means[1]

    one = found.candidates[1]
    before = contrast([])
    assert one.scores.contrast is not None
    assert one.scores.lowered is not None
    assert one.scores.contrast.value == pytest.approx(before, abs=1e-4)
    after = contrast([DirectionSpec("project_out", one.vector)])
    assert one.scores.lowered.value == pytest.approx(before - after, abs=1e-4)
    assert found.candidates[-1].scores.raised is not None  # the last layer is read, too


def test_same_seed_same_table_and_held_out_prompts_are_not_averaged(tiny: Callable[..., Any]) -> None:
    manager = AblationManager(tiny("llama"))
    positive, negative = prompts(12, 0), prompts(12, 1)
    first, second, other = (find_directions(manager, positive, negative, seed=seed) for seed in (0, 0, 1))
    assert [one.scores for one in first.candidates] == [one.scores for one in second.candidates]
    assert first.held_out == second.held_out != other.held_out
    changed = [[*prompt] for prompt in positive]
    changed[first.held_out[0][0]] = [9] * 7
    again = find_directions(manager, changed, negative, seed=0)
    for one, two in zip(first.candidates, again.candidates, strict=True):
        assert torch.equal(one.vector, two.vector)
        assert one.scores.kl == two.scores.kl or one.scores != two.scores


@pytest.mark.parametrize(
    ("positive", "negative", "options", "message"),
    [
        (prompts(7, 0), prompts(9, 1), {}, "7 positive prompts; allowed: 8 or more"),
        (prompts(9, 0), prompts(9, 1)[:3], {}, "3 negative prompts"),
        (
            prompts(9, 0),
            prompts(8, 1) + prompts(1, 0),
            {},
            "negative prompt 9 has the same tokens as positive",
        ),
        (prompts(9, 0) + prompts(1, 0), prompts(9, 1), {}, "positive prompt 10 has the same tokens"),
        (prompts(9, 0), [*prompts(9, 1), [4] * 129], {}, "has 129 tokens; the model has 128 positions"),
        (prompts(9, 0), [*prompts(9, 1), [4]], {"end_positions": (2,)}, "1 tokens, none at end position 2"),
    ],
)
def test_prompts_that_do_not_fit_are_refused(
    positive: Any, negative: Any, options: Any, message: str, tiny: Callable[..., Any]
) -> None:
    with pytest.raises(SparkablateError, match=message) as caught:
        find_directions(AblationManager(tiny("llama")), positive, negative, **options)
    assert caught.value.code == "config_invalid"


def test_prompts_that_all_end_alike_are_refused_where_they_give_no_direction() -> None:
    manager = AblationManager(copy.deepcopy(tiny_models.build("llama")))
    for layer in manager.sites.layers:  # nothing but the last token reaches its own position
        assert layer.attention_output is not None
        torch.nn.init.zeros_(layer.attention_output.weight)
    alike = [[*prompt, 50] for prompt in prompts(18, 0)]
    with pytest.raises(SparkablateError, match="both sides have the same mean"):
        find_directions(manager, alike[:9], alike[9:])


def test_it_is_cancelled_between_candidates(tiny: Callable[..., Any]) -> None:
    seen: list[str] = []
    with pytest.raises(SparkablateError) as caught:
        find_directions(
            AblationManager(tiny("llama")),
            prompts(9, 0),
            prompts(9, 1),
            cancelled=lambda: "score" in seen,
            progress=lambda stage, *_: seen.append(stage),
        )
    assert caught.value.code == "interrupted"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("row", ROWS)
def test_nothing_of_a_direction_is_left_after_every_write(
    row: str, dtype: torch.dtype, tiny: Callable[..., Any], record_property: Callable[[str, Any], None]
) -> None:
    """|x·v̂| against the largest write's norm so far at that position, for the stream x after every write."""
    manager = AblationManager(tiny(row, dtype))
    sites, vector = manager.sites, unit(0)
    entries = [*sites.embedding, *(tap for layer in sites.layers for tap in layer.writes.values())]
    streams = [] if sites.norm_on_stream else [layer.stream for layer in sites.layers]
    largest: Tensor | float = 0.0
    total: Tensor | float = 0.0
    worst = 0.0

    def check(component: Tensor) -> None:
        nonlocal worst
        worst = max(worst, (component.abs() / largest).max().item())

    def watch(tap: Tap, tensor: Tensor) -> None:
        nonlocal largest, total
        x = tensor.detach().double().reshape(-1, tensor.shape[-1])  # [batch · pos, d_model]
        if x.shape[0] < tiny_models.tokens().numel():  # learned positions: one row for all sequences
            x = x.repeat(tiny_models.tokens().numel() // x.shape[0], 1)
        component = x @ vector.double()
        if any(tap is stream for stream in streams):
            check(component)
            return
        largest = torch.maximum(torch.as_tensor(largest), x.norm(dim=-1))
        check(component)
        if not sites.norm_on_stream:
            total = total + component
            check(torch.as_tensor(total))

    edit = manager.applied(DirectionSpec("project_out", vector))
    with torch.inference_mode(), edit, recording([*entries, *streams], watch):
        sites.stack(input_ids=tiny_models.tokens(), use_cache=False)
    record_property("largest_component", worst)
    print(f"{row} {dtype}: {worst:.1e}")
    assert worst <= (1e-6 if dtype is torch.float32 else 2e-2)
