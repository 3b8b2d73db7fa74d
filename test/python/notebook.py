"""Runs a notebook's cells as Jupyter would and keeps what they show.

usage: python test/python/notebook.py docs/python-api.ipynb        writes the outputs into it
"""

from __future__ import annotations

import ast
import base64
import contextlib
import io
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any


def run(path: Path, directory: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The notebook with fresh outputs, and the names that its cells left. It is run in ``directory``/docs,
    beside the checkout's configs."""
    import matplotlib

    here = directory / "docs"
    here.mkdir()
    (directory / "configs").symlink_to(path.parents[1] / "configs")

    matplotlib.use("agg")
    notebook: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    names: dict[str, Any] = {}
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    before = os.getcwd()
    os.chdir(here)
    try:
        for number, cell in enumerate(code, 1):
            cell["execution_count"] = number
            cell["outputs"] = _run_cell("".join(cell["source"]), f"{path.name}, code cell {number}", names)
    finally:
        os.chdir(before)
    return notebook, names


def _run_cell(source: str, name: str, names: dict[str, Any]) -> list[dict[str, Any]]:
    tree = ast.parse(source)
    last = tree.body[-1] if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    said = io.StringIO()
    value = None
    with contextlib.redirect_stdout(said):
        body = tree.body[:-1] if last is not None else tree.body
        exec(compile(ast.Module(body, []), name, "exec"), names)
        if last is not None:
            value = eval(compile(ast.Expression(last.value), name, "eval"), names)
    outputs: list[dict[str, Any]] = []
    if said.getvalue():
        outputs.append({"output_type": "stream", "name": "stdout", "text": _lines(said.getvalue())})
    if value is not None:
        outputs.append({"output_type": "display_data", "metadata": {}, "data": _shown(value)})
    return outputs


def _shown(value: Any) -> dict[str, Any]:
    figure = getattr(value, "figure", None)
    if figure is not None:
        image = io.BytesIO()
        figure.savefig(image, format="png", dpi=80)
        return {"image/png": base64.b64encode(image.getvalue()).decode(), "text/plain": ["a figure"]}
    data: dict[str, Any] = {"text/plain": _lines(repr(value))}
    html = getattr(value, "_repr_html_", None)
    if html is not None:
        data["text/html"] = _lines(html())
    return data


def _lines(text: str) -> list[str]:
    return text.splitlines(keepends=True)


def main() -> None:
    path = Path(sys.argv[1]).resolve()
    with tempfile.TemporaryDirectory() as directory:
        notebook, _ = run(path, Path(directory))
    path.write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
