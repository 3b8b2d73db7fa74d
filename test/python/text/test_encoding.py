"""Prompts as ids: BOS where the model needs it, no EOS behind them, chat templates that can do no harm."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import model_directory
import pytest
from transformers import AutoTokenizer

import tiny_models
from sparkablate.anatomy.architectures import ARCHITECTURES, locate, needs_bos
from sparkablate.errors import SparkablateError
from sparkablate.text import chat_templates, corpus
from sparkablate.text.encoding import encode_prompts

DAY = "2026-11-29"
CHATML = (
    "{%- for message in messages %}{{ '<|' + message.role + '|>' + message['content'] + '\n' }}"
    "{% generation %}{% endgeneration %}{%- endfor %}"
    "{%- if add_generation_prompt %}{{ bos_token }}{% endif %}{{ tools is none }}{{ {'é': 1} | tojson }}"
)


@pytest.fixture(scope="module")
def tokenizer_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Any]:
    root = tmp_path_factory.mktemp("tokenizers")

    def make(template: str | None = None, **adds: bool) -> Any:
        directory = root / "-".join(["tokenizer", *adds])
        if not directory.exists():
            model_directory.save(directory, **adds)
        tokenizer = AutoTokenizer.from_pretrained(directory)
        tokenizer.chat_template = template
        return tokenizer

    return make


def text_of(tokenizer: Any, ids: list[int]) -> str:
    return str(tokenizer.decode(ids, clean_up_tokenization_spaces=False))


def test_prompts_are_encoded_as_the_tokenizer_does(tokenizer_of: Callable[..., Any]) -> None:
    tokenizer = tokenizer_of(adds_bos=True)
    prompts = ["ab", " <s>c", "é"]
    encoded = encode_prompts(tokenizer, prompts)
    assert encoded.ids == [tokenizer(prompt)["input_ids"] for prompt in prompts]
    assert (encoded.notices, encoded.template_date) == ([], None)
    assert encoded.ids[0][0] == tokenizer.bos_token_id


@pytest.mark.parametrize("adds_bos", [False, True])
def test_eos_behind_a_prompt_is_taken_off_and_typed_eos_stays(
    tokenizer_of: Callable[..., Any], adds_bos: bool
) -> None:
    front = "<s>" if adds_bos else ""
    tokenizer = tokenizer_of(adds_eos=True, **({"adds_bos": True} if adds_bos else {}))
    prompts = ["ab", "ab</s>", "</s></s>", "a</s>b"]
    assert [text_of(tokenizer, tokenizer(text)["input_ids"]) for text in prompts] == [
        f"{front}{text}</s>" for text in prompts
    ]
    encoded = encode_prompts(tokenizer, prompts)
    assert [text_of(tokenizer, ids) for ids in encoded.ids] == [front + text for text in prompts]
    assert any("ends a prompt with '</s>': it is removed" in notice for notice in encoded.notices)
    tokenizer.chat_template = "{{ messages[0].content + eos_token }}"
    encoded = encode_prompts(tokenizer, ["ab"], template_date=DAY)
    assert text_of(tokenizer, encoded.ids[0]) == "ab"
    assert "is removed" in encoded.notices[0]


def test_bos_is_put_where_the_model_needs_it_once(tokenizer_of: Callable[..., Any]) -> None:
    without = tokenizer_of()
    bare = encode_prompts(without, ["ab"])
    assert text_of(without, bare.ids[0]) == "ab"
    assert "BOS token ('<s>')" in bare.notices[0]
    needed = encode_prompts(without, ["ab", "<s>ab"], needs_bos=True)
    assert [text_of(without, ids) for ids in needed.ids] == ["<s>ab", "<s>ab"]
    assert needed.notices == []
    without.chat_template = "{{ messages[0].content }}"
    templated = encode_prompts(without, ["ab"], needs_bos=True, template_date=DAY)
    assert text_of(without, templated.ids[0]) == "<s>ab"
    # What the template does not write is its own choice.
    assert encode_prompts(without, ["ab"], template_date=DAY).notices == []


def test_gemmas_rows_need_bos_and_no_others() -> None:
    assert {name for row in ARCHITECTURES if row.needs_bos for name in row.model_types} == {
        name for row in ARCHITECTURES for name in row.model_types if "gemma" in name
    }
    for name in ("gemma2", "llama"):
        model = tiny_models.make(tiny_models.TINY[name])
        assert needs_bos(model) is (name == "gemma2")


def test_what_is_added_is_said(tokenizer_of: Callable[..., Any]) -> None:
    sites = locate(tiny_models.make(tiny_models.TINY["gemma2"]))
    (notice,) = corpus.bos_notices(tokenizer_of(), sites, True)
    assert "gemma2 needs a BOS token" in notice
    assert "eval.add_bos" in notice
    assert corpus.bos_notices(tokenizer_of(adds_bos=True), sites, True) == []
    assert corpus.bos_notices(tokenizer_of(), sites, False) == []


@pytest.mark.parametrize("prompt", ["ab", "it's\n", "{{ x }}", "日本🙂", "<s>"])
def test_templates_render_as_transformers_does(tokenizer_of: Callable[..., Any], prompt: str) -> None:
    tokenizer = tokenizer_of(CHATML)
    message = [{"role": "user", "content": prompt}]
    whole = tokenizer.apply_chat_template(message, tokenize=False, add_generation_prompt=True)
    assert render(tokenizer, [prompt, "x"]).texts[0] == whole
    encoded = encode_prompts(tokenizer, [prompt], template_date=DAY)
    assert encoded.ids == [tokenizer(whole, add_special_tokens=False)["input_ids"]]
    assert encoded.template_date is None


def render(tokenizer: Any, prompts: list[str], day: str = DAY) -> chat_templates.Rendered:
    return chat_templates.render(tokenizer, prompts, day, lambda: False, lambda *_: None)


def test_a_template_writes_the_day_that_it_is_given(tokenizer_of: Callable[..., Any]) -> None:
    tokenizer = tokenizer_of("{{ strftime_now('%d %b %Y %H:%M:%S.%f') }}{{ [1, 2, 3, 4, 5] | random }}")
    first, again = render(tokenizer, ["a", "b"]), render(tokenizer, ["a", "b"])
    assert first == again
    assert first.dated
    assert first.texts[0][:-1] == "29 Nov 2026 00:00:00.000000"
    assert encode_prompts(tokenizer, ["a"], template_date="2024-02-29").template_date == "2024-02-29"
    unused = tokenizer_of("{% if false %}{{ strftime_now('%Y') }}{% endif %}x")
    assert not render(unused, ["a"]).dated


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{{ raise_exception('only roles that alternate') }}", "only roles that alternate"),
        ("a\n{% if %}", "line 2: "),
        ("{{ messages[7].content }}", "has no element 7"),
        ("{{ nothing() }}", "'nothing' is undefined"),
        ("{{ 'x' * 10**10 }}", "MiB of memory"),
        ("{% for a in range(99999) %}{{ 'x' * 10000 }}{% endfor %}", "MiB of memory|characters"),
        ("{{ ''.__class__.__mro__ }}", "unsafe"),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "recursion"),
    ],
)
def test_a_template_that_fails_is_the_inputs_error(
    tokenizer_of: Callable[..., Any], template: str, message: str
) -> None:
    with pytest.raises(SparkablateError, match=message) as caught:
        encode_prompts(tokenizer_of(template), ["ab"], template_date=DAY)
    assert caught.value.code == "config_invalid"
    assert "chat template cannot write prompt 1 ('ab')" in caught.value.message


ENDLESS = (
    "{% if messages[0].content == 'b' %}"
    "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}{% endif %}x"
)


def test_an_endless_template_ends_by_the_clock_of_its_processor(
    tokenizer_of: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chat_templates, "MOST_SECONDS", 1)
    with pytest.raises(SparkablateError, match=r"prompt 2 .'b'.: it takes more than 1 seconds") as caught:
        encode_prompts(tokenizer_of(ENDLESS), ["a", "b", "c"], template_date=DAY)
    assert caught.value.code == "config_invalid"


def test_an_endless_template_can_be_cancelled(
    tokenizer_of: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chat_templates, "MOST_SECONDS", 3600)
    looks: list[float] = []

    def cancelled() -> bool:
        looks.append(time.monotonic())
        return len(looks) > 2

    with pytest.raises(SparkablateError) as caught:
        encode_prompts(tokenizer_of(ENDLESS), ["b"], template_date=DAY, cancelled=cancelled)
    assert caught.value.code == "interrupted"


def test_thousands_of_prompts_are_one_process(
    tokenizer_of: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    started = []
    popen = chat_templates.subprocess.Popen
    monkeypatch.setattr(
        chat_templates.subprocess, "Popen", lambda *a, **b: started.append(a) or popen(*a, **b)
    )
    prompts = [f"prompt {number} 🙂" for number in range(4000)]
    assert render(tokenizer_of("{{ messages[0].content }}!"), prompts).texts == [
        f"{text}!" for text in prompts
    ]
    assert len(started) == 1


def test_what_has_no_token_or_no_template_or_no_text_is_refused(
    tokenizer_of: Callable[..., Any], tmp_path: Path
) -> None:
    for tokenizer, prompt, day, message in (
        (tokenizer_of(), "", None, "no tokens"),
        (tokenizer_of("{# nothing #}"), "a", DAY, "no tokens"),
        (tokenizer_of(), "a", DAY, "no chat template"),
        (tokenizer_of(), "\ud800", None, "prompt 1 holds half a surrogate pair"),
        (tokenizer_of({"b": "x", "c": "y"}), "a", DAY, "multiple chat templates"),
    ):
        with pytest.raises(SparkablateError, match=message) as caught:
            encode_prompts(tokenizer, [prompt], template_date=day)
        assert caught.value.code == "config_invalid"
    with pytest.raises(SparkablateError, match="no tokenizer"):
        encode_prompts(None, ["a"])
