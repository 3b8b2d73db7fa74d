"""docs/healing.md: LoRA on a pruned checkpoint, in a text of three words that a tiny model can learn."""

from __future__ import annotations

import re
from pathlib import Path

import model_directory
import pytest
from transformers import AutoModelForCausalLM

from sparkablate import AblationSpec, bake

PAGE = Path(__file__).parents[2] / "docs" / "healing.md"
FENCE = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def test_the_script_heals(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("peft", reason="PEFT is not installed: pip install peft")
    monkeypatch.chdir(tmp_path)
    bake(str(model_directory.save(tmp_path / "model")), AblationSpec("layer", 1), "pruned", prune_layers=True)
    (tmp_path / "text.txt").write_text("the cat sat on the mat. " * 400)
    (script,) = FENCE.findall(PAGE.read_text(encoding="utf-8"))
    changed = {
        "results/pruned/model": "pruned",
        "configs/corpora/sense-and-sensibility.txt": "text.txt",
        "results/healed": "healed",
        "LENGTH, BATCH, STEPS = 256, 4, 200": "LENGTH, BATCH, STEPS = 32, 4, 30",
        "lr=2e-4": "lr=1e-2",
    }
    for old, new in changed.items():
        assert old in script
        script = script.replace(old, new)
    exec(compile(script, PAGE.name, "exec"), {})
    before, after = map(float, re.findall(r"\d+\.\d+", capsys.readouterr().out))
    assert after < before - 0.1
    healed, pruned = (AutoModelForCausalLM.from_pretrained(name) for name in ("healed", "pruned"))
    assert healed.num_parameters() == pruned.num_parameters()
    assert healed.config.num_hidden_layers == 2
