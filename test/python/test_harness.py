"""docs/other-harnesses.md: lm-evaluation-harness on the edited model, against weights edited by hand."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import model_directory
import pytest
import torch
from transformers import AutoModelForCausalLM

ROOT = Path(__file__).parents[2]
FENCE = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def test_the_harness_measures_the_edited_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("lm_eval", reason="lm-evaluation-harness is not installed: pip install lm-eval")
    directory = model_directory.save(tmp_path / "model")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    (code,) = FENCE.findall((ROOT / "docs" / "other-harnesses.md").read_text(encoding="utf-8"))
    names: dict[str, Any] = {}
    exec(compile(code.replace("builtin:smollm2-135m", str(directory)), "page", "exec"), names)

    def answers(result: Any) -> list[Any]:
        return [one["resps"] for one in result["samples"]["agreement"]]

    before, without, after = (answers(names[name]) for name in ("before", "without", "after"))
    assert after == before
    assert without != before

    # Zeroed columns of the output projection are the same edit; stock transformers computes it.
    edited = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()
    width = edited.config.head_dim
    with torch.no_grad():
        edited.model.layers[1].self_attn.o_proj.weight[:, : 2 * width] = 0
        for example, answer in zip(names["examples"], without, strict=True):
            for choice, ((logprob, _),) in zip(("good", "bad"), answer, strict=True):
                start = names["tokenizer"](example["sentence"], return_tensors="pt")["input_ids"]
                end = names["tokenizer"](example[choice], return_tensors="pt")["input_ids"]
                ids = torch.cat([start, end], dim=1)
                scores = edited(ids).logits.log_softmax(-1)[0, start.shape[1] - 1 : -1]
                assert logprob == pytest.approx(scores.gather(1, end.T).sum().item(), abs=1e-4)
