"""Tasks: where prompt and answer divide, that padding changes nothing, values against their definitions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from model_directory import VOCABULARY
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from sparkablate.errors import SparkablateError
from sparkablate.manager import AblationManager
from sparkablate.measure.items import Answers, EncodedItem, encode_items
from sparkablate.measure.likelihood import Likelihood
from sparkablate.measure.metrics import METRICS, metrics_of
from sparkablate.measure.walk import Walk, first_edit, prove_entries
from sparkablate.progress import silent
from sparkablate.specs import AblationSpec
from tiny_models import TINY, VOCAB, tokens

#: Prompt and answer tokens of each item of a batch: different lengths, answers of one token and of several.
LENGTHS = ((3, 1), (9, 3), (5, 2), (11, 1))
LENGTH = 14
MANY = 10**6


def batch(seed: int = 1) -> tuple[list[Tensor], list[dict[str, Any]]]:
    """Items as ids [pos], and their answers as the wire has them; the wrong ones differ at the last token."""
    rows = tokens(len(LENGTHS), LENGTH, seed)
    items, answers = [], []
    for row, (prompt, answer) in zip(rows, LENGTHS, strict=True):
        end = prompt + answer
        items.append(row[:end])
        wrong = {"at": end - 1, "token": int((row[end - 1] + 1) % VOCAB)}
        answers.append({"begin": prompt, "end": end, "wrong": wrong})
    return items, answers


def padded(items: list[Tensor], padding: int) -> Tensor:
    ids = torch.full((len(items), LENGTH), padding)
    for row, item in zip(ids, items, strict=True):
        row[: len(item)] = item
    return ids


def values(model: Any, ids: Tensor, answers: Answers, hidden: Tensor | None = None) -> Tensor:
    """Every metric, one value an item  # float64 [columns, batch]"""
    likelihood = Likelihood(model, AblationManager(model).sites)
    metrics = metrics_of(list(METRICS))
    baseline = likelihood.final_hidden(ids)
    if hidden is None:
        hidden = baseline
    measured = likelihood.measure(hidden, ids, metrics, baseline, answers.wrong)
    return torch.from_numpy(answers.item_values(answers.only(measured), metrics))


COLUMNS = [column for metric in METRICS.values() for column in metric.columns]


@pytest.mark.parametrize("name", TINY)
def test_an_item_in_a_padded_batch_is_the_item_alone(tiny: Callable[..., Any], name: str) -> None:
    """Against the item by itself, of which another batch shape makes the last bits differ; and what stands in
    the padding does not matter."""
    model = tiny(name)
    items, wire = batch()
    ids = padded(items, 5)
    together = values(model, ids, Answers.from_wire(wire, ids, VOCAB))
    for row, (item, answer) in enumerate(zip(items, wire, strict=True)):
        alone = values(model, item[None], Answers.from_wire([answer], item[None], VOCAB))
        torch.testing.assert_close(together[:, row], alone[:, 0], rtol=1e-4, atol=1e-4)
    other = padded(items, 7)
    torch.testing.assert_close(
        values(model, other, Answers.from_wire(wire, other, VOCAB)), together, rtol=1e-5, atol=1e-5
    )


def test_values_are_what_their_names_say(tiny: Callable[..., Any]) -> None:
    model = tiny("llama")
    items, wire = batch()
    ids = padded(items, 5)
    manager = AblationManager(model)
    with torch.inference_mode():
        base = model(input_ids=ids).logits.double()
        with manager.applied(AblationSpec("mlp", layer=1)):
            edited = model(input_ids=ids).logits.double()
            hidden = Likelihood(model, manager.sites).final_hidden(ids)
    measured = values(model, ids, Answers.from_wire(wire, ids, VOCAB), hidden)
    for row, answer in enumerate(wire):
        at = range(answer["begin"], answer["end"])
        q, p = edited[row].log_softmax(-1), base[row].log_softmax(-1)
        wrong = answer["wrong"]
        right, other = (
            float(edited[row, wrong["at"] - 1, t]) for t in (ids[row, wrong["at"]], wrong["token"])
        )
        expected = {
            "nll": sum(-float(q[i - 1, ids[row, i]]) for i in at) / len(at),
            "kl": sum(float((p[i - 1].exp() * (p[i - 1] - q[i - 1])).sum()) for i in at) / len(at),
            "top1": sum(float(q[i - 1].argmax() != p[i - 1].argmax()) for i in at) / len(at),
            "top1_ties": 0.0,
            "logit_diff": right - other,
            "accuracy": float(right > other),
        }
        assert dict(zip(COLUMNS, measured[:, row].tolist(), strict=True)) == pytest.approx(expected, abs=1e-4)


def test_without_wrong_answers_accuracy_is_that_of_the_whole_answer(tiny: Callable[..., Any]) -> None:
    """Answers of two tokens that the model itself would give, wholly, or but for one of them."""
    model = tiny("llama")
    prompt = tokens(batch=3, length=6)
    with torch.inference_mode():
        first = model(input_ids=prompt).logits[:, -1].argmax(dim=-1, keepdim=True)
        ids = torch.cat([prompt, first], dim=1)
        ids = torch.cat([ids, model(input_ids=ids).logits[:, -1].argmax(dim=-1, keepdim=True)], dim=1)
    ids = ids.clone()
    ids[1, 6] = (ids[1, 6] + 1) % VOCAB
    ids[2, 7] = (ids[2, 7] + 1) % VOCAB
    wire = [{"begin": 6, "end": 8, "wrong": None}] * 3
    answers = Answers.from_wire(wire, ids, VOCAB)
    likelihood = Likelihood(model, AblationManager(model).sites)
    metrics = metrics_of(["accuracy"])
    measured = answers.only(likelihood.measure(likelihood.final_hidden(ids), ids, metrics, None))
    accuracy = answers.item_values(measured, metrics)[0]
    assert accuracy.tolist() == [1.0, 0.0, 0.0]


@pytest.mark.parametrize("name", ["llama", "gpt2", "mixtral", "gemma2"])
def test_walk_equals_plain_pass_on_items_bit_for_bit(tiny: Callable[..., Any], name: str) -> None:
    model = tiny(name)
    manager = AblationManager(model)
    manager.calibrate_means([tokens(seed=7)])
    items, wire = batch()
    ids = padded(items, 5)
    answers = Answers.from_wire(wire, ids, VOCAB)
    likelihood = Likelihood(model, manager.sites)
    walk = Walk(likelihood, prove_entries(likelihood, tokens(batch=1)), ids)
    for layer in range(manager.sites.n_layers):
        for spec in (
            AblationSpec("head", layer=layer, heads=(1,)),
            AblationSpec("mlp", layer=layer, mode="mean"),
            AblationSpec("layer", layer=layer),
        ):
            hidden = walk.final_hidden(
                first_edit([spec], manager.sites), lambda spec=spec: manager.applied(spec)
            )
            with manager.applied(spec):
                plain = likelihood.final_hidden(ids)
            assert torch.equal(values(model, ids, answers, hidden), values(model, ids, answers, plain))


def test_nothing_but_the_answer_is_looked_at(tiny: Callable[..., Any]) -> None:
    """Infinite and undefined values at prompt and padding are not the item's."""
    items, wire = batch()
    answers = Answers.from_wire(wire, padded(items, 5), VOCAB)
    measured = torch.full((len(items), LENGTH - 1), float("nan"))
    measured[answers.scored] = 2.0
    only = answers.only({"nll": measured})
    assert bool(torch.isfinite(only["nll"]).all())
    assert answers.item_values(only, metrics_of(["nll"])).tolist() == [[2.0] * len(items)]
    counts = [answer["end"] - answer["begin"] for answer in wire]
    assert answers.scored.sum(dim=1).tolist() == counts


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ({"begin": 3, "end": 20, "wrong": None}, "from 3 to 20 of 14"),
        ({"begin": 4, "end": 4, "wrong": None}, "from 4 to 4"),
        ({"begin": 3, "end": 5, "wrong": {"at": 5, "token": 3}}, "with 3 at 5"),
        ({"begin": 3, "end": 5, "wrong": {"at": 2, "token": 3}}, "with 3 at 2"),
        ({"begin": 3, "end": 5, "wrong": {"at": 3, "token": VOCAB}}, f"with {VOCAB} at 3"),
    ],
)
def test_answers_that_are_not_there_are_refused(answer: dict[str, Any], words: str) -> None:
    with pytest.raises(SparkablateError, match=words) as caught:
        Answers.from_wire([answer], tokens(1, LENGTH), VOCAB)
    assert caught.value.code == "invalid_message"


def test_a_wrong_token_that_is_the_right_one_is_refused() -> None:
    ids = tokens(1, LENGTH)
    wrong = {"at": 3, "token": int(ids[0, 3])}
    with pytest.raises(SparkablateError, match="a wrong answer"):
        Answers.from_wire([{"begin": 3, "end": 5, "wrong": wrong}], ids, VOCAB)


def byte_pairs(*merges: tuple[str, str]) -> PreTrainedTokenizerFast:
    """Bytes, of which the given pairs are one token; Ġ is the space."""
    vocabulary = {**VOCABULARY, **{a + b: len(VOCABULARY) + index for index, (a, b) in enumerate(merges)}}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=list(merges)))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>")


def encoded(*items: dict[str, str], merges: tuple[tuple[str, str], ...] = ()) -> list[EncodedItem]:
    return encode_items(byte_pairs(*merges), items, "t.jsonl", MANY, silent)[0]


def item(prompt: str, answer: str, wrong: str | None = None) -> dict[str, str]:
    return {"prompt": prompt, "answer": answer, **({} if wrong is None else {"wrong": wrong})}


def test_items_divide_where_prompt_and_answer_do() -> None:
    tokenizer = byte_pairs(("Ġ", "b"))
    (one, two) = encoded(item("xa", " by", " bz"), item("xa", "c"), merges=(("Ġ", "b"),))
    assert one.ids == tokenizer("xa by", add_special_tokens=False)["input_ids"]
    assert (one.begin, len(one.ids)) == (2, 4)
    assert (one.at, one.wrong) == (3, VOCABULARY["z"])
    assert (two.begin, two.at, two.wrong) == (2, -1, -1)


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        (
            item("x ", "b"),
            r"t\.jsonl:2: answer: .*divide 'x b'.*the space that ends the prompt at the beginning",
        ),
        (item("x", "b", " b"), None),
        (item("xq", "u"), r"t\.jsonl:2: answer: the tokenizer does not divide 'xqu'"),
        (item("xq", "a", "u"), r"t\.jsonl:2: wrong: the tokenizer does not divide 'xqu'"),
        (item("x", "ab", "a"), r"t\.jsonl:2: wrong: of 'ab' and 'a' one begins with all tokens of the other"),
        (item("x", "a", "ab"), r"t\.jsonl:2: wrong: of 'a' and 'ab' one begins with all tokens"),
    ],
)
def test_lines_that_the_tokenizer_cannot_divide_are_named(bad: dict[str, str], words: str | None) -> None:
    merges = (("Ġ", "b"), ("q", "u"))
    if words is None:
        assert len(encoded(item("x", " a"), bad, merges=merges)) == 2
        return
    with pytest.raises(SparkablateError, match=words) as caught:
        encoded(item("x", " a"), bad, merges=merges)
    assert caught.value.code == "config_invalid"


def test_a_wrong_answer_with_the_answers_tokens_is_named() -> None:
    """Two texts, one row of tokens: this tokenizer knows no capitals."""
    tokenizer = byte_pairs()
    inner = tokenizer.backend_tokenizer
    inner.normalizer = normalizers.Lowercase()
    folded = PreTrainedTokenizerFast(tokenizer_object=inner)
    with pytest.raises(SparkablateError, match=r"t\.jsonl:1: wrong: ' A' has the answer's tokens"):
        encode_items(folded, [item("x", " a", " A")], "t.jsonl", MANY, silent)


def test_a_message_quotes_the_beginning_of_a_long_text() -> None:
    for bad in (item("x ", "b" * 10**6), item("x", "ab" * 10**6, "ab" * 10**6 + "c")):
        with pytest.raises(SparkablateError) as caught:
            encode_items(byte_pairs(("Ġ", "b")), [bad], "t.jsonl", 10 * MANY, silent)
        assert len(str(caught.value)) < 500


def test_five_lines_are_shown_and_the_others_counted() -> None:
    bad = [item(f"{index} ", "b") for index in range(9)]
    with pytest.raises(SparkablateError) as caught:
        encoded(*bad, merges=(("Ġ", "b"),))
    lines = str(caught.value).splitlines()
    assert len(lines) == 6
    assert lines[-1] == "… and 4 more lines"


def test_an_answer_inside_a_word_is_pointed_out() -> None:
    items = [item("the capital is", "Paris"), item("x", " a"), item("The war lasted from 17", "42")]
    _, notices = encode_items(byte_pairs(), items, "t.jsonl", MANY, silent)
    assert len(notices) == 1
    assert notices[0].startswith("t.jsonl:1: the answer continues the prompt's last word ('capital isParis')")


def test_too_many_tokens_are_refused() -> None:
    with pytest.raises(SparkablateError, match="more than 3 tokens"):
        encode_items(byte_pairs(), [item("abc", "d")], "t.jsonl", 3, silent)
