"""The Python in README.md and docs/ is executed, and generated pages are current."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path
from typing import Any

import generated_pages
import notebook
import pytest
import python_reference
import torch

import sparkablate
from sparkablate.loading.configuration import BUILTIN_MODELS
from sparkablate.loading.home import home
from sparkablate.results import load

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
FENCE = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def test_generated_pages_are_current() -> None:
    assert [page.name for page in generated_pages.stale()] == []


def test_every_public_name_has_a_docstring_that_names_its_parameters() -> None:
    seen = set()
    for module, files in python_reference.PUBLIC.items():
        for name, node, _ in python_reference.public(files):
            seen.add(name)
            text = ast.get_docstring(node)
            assert text, f"{module}: {name} has no docstring"
            words = set(re.findall(r"[a-z]{3,}", text.lower())) - set(re.findall(r"[a-z]+", name.lower()))
            assert len(words) > 2, f"{module}: the docstring of {name} says nothing: {text}"
            if isinstance(node, ast.FunctionDef) and len(node.args.args + node.args.kwonlyargs) > 2:
                for argument in node.args.args[1:] + node.args.kwonlyargs:
                    # From the wire to the wire: its one parameter is the protocol's.
                    assert re.search(rf"\b{argument.arg}\b", text), (
                        f"{module}: {name} is silent on {argument.arg}"
                    )
    assert set(sparkablate.__all__) - {"__version__"} <= seen
    page = python_reference.python_page()
    assert all(f"`{name}`\n" in page for name in seen)


def test_what_the_documentation_imports_is_public() -> None:
    offered = {
        (module, name)
        for module, files in python_reference.PUBLIC.items()
        for names in files.values()
        for name in names
    }
    pages = [ROOT / "README.md", *sorted(DOCS.glob("*.md"))]
    # extending.md is about the inside; the reference is made out of the names.
    pages = [page for page in pages if page.name not in ("extending.md", "api-python.md")]
    code = [block for page in pages for block in FENCE.findall(page.read_text(encoding="utf-8"))]
    cells = json.loads((DOCS / "python-api.ipynb").read_text(encoding="utf-8"))["cells"]
    code += ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    imported = {
        (module, name.strip())
        for block in code
        for module, names in re.findall(r"^from (sparkablate[\w.]*) import (.+)$", block, re.MULTILINE)
        for name in names.split(",")
    }
    assert imported
    assert imported <= offered


needs_builtin = pytest.mark.skipif(
    not (home() / "models" / BUILTIN_MODELS["smollm2-135m"]).is_dir(),
    reason="the built-in model is not there: run 'sparkablate setup'",
)


@needs_builtin
def test_the_readme_examples_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    names: dict[str, Any] = {}
    for example in FENCE.findall((ROOT / "README.md").read_text(encoding="utf-8")):
        exec(compile(example, "README.md", "exec"), names)
    assert names["results"].ranked["condition"].iloc[0] == "L0.layer.skip"
    assert names["logits"].shape[-1] == names["model"].config.vocab_size
    assert names["without"].shape[1] > names["prompt"]["input_ids"].shape[1]


@needs_builtin
def test_the_notebook_runs(tmp_path: Path) -> None:
    path = DOCS / "python-api.ipynb"
    stored = json.loads(path.read_text(encoding="utf-8"))
    ran, names = notebook.run(path, tmp_path)
    assert torch.equal(names["restored"], names["plain"])
    assert not torch.equal(names["edited"], names["plain"])
    assert names["effects"].index.str.endswith((".zero", ".mean")).all()
    assert load(tmp_path / "docs" / "results" / "notebook").rows.equals(names["results"].rows)
    assert (tmp_path / "docs" / "baked" / "no-3-7" / "model.safetensors").is_file()
    # What it shows is kept; the numbers' last digits are this machine's.
    kinds = [[sorted(one.get("data", one)) for one in cell.get("outputs", ())] for cell in stored["cells"]]
    assert kinds == [
        [sorted(one.get("data", one)) for one in cell.get("outputs", ())] for cell in ran["cells"]
    ]
    (shown,) = [cell for cell in stored["cells"] if "results.ranked[[" in "".join(cell["source"])]
    for condition in names["results"].ranked["condition"]:
        assert condition in "".join(shown["outputs"][0]["data"]["text/plain"])
