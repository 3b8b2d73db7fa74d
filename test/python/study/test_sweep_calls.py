"""Wrong calls of sweep() and Results, each with the sentence that answers it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import tiny_models
from sparkablate import AblationManager, Results, SparkablateError, sweep
from sparkablate.study.planning import plan
from sparkablate.study.subject import subject_of

TEXT = {"text": "It was a dark and stormy night.\n" * 20}

ARGUMENTS = {
    "nothing to measure on": ({}, "sweep() measures on a text or on a task: give text='novel.txt'"),
    "both": ({**TEXT, "task": "x"}, "or task='items.jsonl', not both"),
    "a number as text": ({"text": 3}, "text: give a text, the path of a .txt file, or a dataset like"),
    "no such file": (
        {"text": "no.txt"},
        "text: there is no file 'no.txt'; a text in memory needs at least 200",
    ),
    "a dataset's key": (
        {"text": {"path": "x", "splt": "a"}},
        "text: a dataset has no key 'splt'; its keys: path",
    ),
    "no such task": ({"task": "no.jsonl"}, "task: there is no file 'no.jsonl'"),
    "a task of texts": ({"task": ["a"]}, "task[0]: an item is {prompt, answer, wrong?}, not 'a'"),
    "an empty answer": (
        {"task": [{"prompt": "a", "answer": ""}]},
        "task[0]: answer is a text that is not empty",
    ),
    "a key of an item": ({"task": [{"prompt": "a", "anwser": "b"}]}, "task[0]: 'anwser': an item has prompt"),
    "wrong here, not there": (
        {"task": [{"prompt": "a", "answer": "b", "wrong": "c"}, {"prompt": "a", "answer": "b"}]},
        "task: some items have a wrong answer: give one to all, or to none",
    ),
    "blocks": ({**TEXT, "blocks": 30}, "blocks=30 is not a multiple of batch_size=4: batches are whole"),
    "half a block": ({**TEXT, "blocks": 2.5}, "blocks is a whole number from 1, not 2.5"),
    "True blocks": ({**TEXT, "blocks": True}, "blocks is a whole number from 1, not True"),
    "seq_len": ({**TEXT, "seq_len": 1}, "seq_len is a whole number from 2, not 1"),
    "batch_size": ({**TEXT, "batch_size": 0}, "batch_size is a whole number from 1, not 0"),
    "seed": ({**TEXT, "seed": -1}, "seed is a whole number from 0, not -1"),
    "add_bos": ({**TEXT, "add_bos": "yes"}, "add_bos: allowed: True, False, 'auto', not 'yes'"),
    "metrics": ({**TEXT, "metrics": "ppl"}, "metrics: 'ppl'; allowed: nll, kl, top1"),
    "a task's metric": (
        {**TEXT, "metrics": ["logit_diff"]},
        "metrics: 'logit_diff' needs a task whose items",
    ),
    "dir": ({**TEXT, "dir": 3}, "dir: the path of a run directory is wanted, not 3"),
}


@pytest.mark.parametrize(("options", "sentence"), ARGUMENTS.values(), ids=list(ARGUMENTS))
def test_arguments(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(SparkablateError) as caught:
        sweep(None, None, "layers", **options)
    assert sentence in str(caught.value)


CONDITIONS = {
    "a mistyped sweep": ("haeds", {}, "'haeds' is neither a sweep (heads, kv_groups, attn, mlp, layers) nor"),
    "a sweep of the controller": ("pairs", {}, "'pairs' is a sweep of the command line"),
    "a number": (3, {}, "conditions: give one of 'heads', 'kv_groups'"),
    "nothing": ([], {}, "conditions: the list is empty, so nothing would be measured"),
    "a layer beyond": ("layers", {"layers": [99]}, "layers: the model has layers 0 to"),
    "a layer's name": ("layers", {"layers": "last"}, "layers='last': give 'all', or a list of layer numbers"),
    "a mode": ("heads", {"mode": "zap"}, "mode='zap': allowed: zero, mean, resample, patch"),
    "positions": ("heads", {"positions": "last"}, "positions='last': allowed: all, not_first"),
    "a head beyond": (["L0.head[99].zero"], {}, "L0.head[99].zero: layer 0 has heads 0 to"),
    "an overlap": (["L0.head[0].zero + L0.attn.zero"], {}, "L0.head[0].zero"),
    "a number as given": ("heads", {"given": 3}, "given: edits that all is measured on top of are wanted"),
    "a layer beyond, given": ("heads", {"given": "L99.mlp.zero"}, "L99.mlp.zero"),
    "given twice": ("heads", {"given": ["L0.mlp.zero", "L0.mlp.mean"]}, "mlp of layer 0 is edited twice"),
    "what is given": (
        ["L0.head[1].mean"],
        {"given": "L0.head[1,2].zero"},
        "L0.head[1].mean cannot be measured: L0.head[1].mean lies in what given edits (L0.head[1,2].zero)",
    ),
    "a part of what is given": (
        ["L0.head[1,3].zero"],
        {"given": "L0.head[1,2].zero"},
        "L0.head[1,3].zero overlaps L0.head[1,2].zero of given: a part of it",
    ),
    "all of it given": (
        "layers",
        {"given": ["L0..2.layer.skip"]},
        "'layers' finds nothing to edit in this model",
    ),
    "a spec that is none": ([{"kind": "head"}], {}, "an AblationSpec or a DirectionSpec is wanted"),
}


@pytest.mark.parametrize(("wanted", "options", "sentence"), CONDITIONS.values(), ids=list(CONDITIONS))
def test_conditions(
    wanted: Any, options: dict[str, Any], sentence: str, manager: Callable[[str], AblationManager]
) -> None:
    given = {"mode": "zero", "layers": "all", "positions": "all", "nulls": False, **options}
    with pytest.raises(SparkablateError) as caught:
        plan(wanted, manager("llama").sites, **given)
    assert sentence in str(caught.value)


def test_models() -> None:
    model = tiny_models.build("llama")
    tokenizer = str.split
    for given, sentence in (
        (
            ("gpt2", tokenizer),
            "model: 'gpt2' is a name; load it first: model, tokenizer = load_model('gpt2')",
        ),
        (((model, tokenizer), None), "model: a pair was given; load_model() returns two"),
        ((3, tokenizer), "model: a transformers model is wanted, not 3"),
        ((model, None), "tokenizer: the model's tokenizer is wanted, not None"),
        ((tokenizer, model), "model: a transformers model is wanted"),
    ):
        with pytest.raises(SparkablateError) as caught:
            subject_of(*given)
        assert sentence in str(caught.value)
    with AblationManager(model).applied("L0.mlp.zero"):
        with pytest.raises(SparkablateError, match="call it outside applied"):
            subject_of(model, tokenizer)
        with torch.inference_mode():
            model(tiny_models.tokens())
    model.train()
    with pytest.raises(SparkablateError, match="training mode, where dropout is random; call model"):
        subject_of(model, tokenizer)


def test_results(tmp_path: Path) -> None:
    import pandas

    made = Results(pandas.DataFrame(), pandas.DataFrame(), 1, pandas.DataFrame(), {"config": ""}, None)
    with pytest.raises(SparkablateError, match="made by hand, so there is no run to save"):
        made.save(tmp_path / "new")
    assert not (tmp_path / "new").exists()
    with pytest.raises(SparkablateError, match="the path of a run directory"):
        made.save(3)  # type: ignore[arg-type]
