"""api-python.md: the public names of the Python package, as its source writes them, with docstrings.

`npm run reference` and `npm run package` print it from here.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import sparkablate

#: The package that is imported: a checkout's, or an installed wheel's.
PACKAGE = Path(sparkablate.__file__).parent

#: Where a reader imports them from → where they are defined, and their names.
PUBLIC = {
    "sparkablate": {
        "study/sweep.py": ("sweep",),
        "results.py": ("Results",),
        "manager.py": ("AblationManager",),
        "specs.py": ("AblationSpec", "DirectionSpec"),
        "condition_ids.py": ("parse_condition", "Condition"),
        "errors.py": ("SparkablateError",),
        "proofs/discovery.py": ("discover",),
        "bake/__init__.py": ("bake",),
        "anatomy/sites.py": ("register_site",),
        "measure/metrics.py": ("register_metric",),
        "directions/saved.py": ("save_direction", "load_direction"),
    },
    "sparkablate.model": {"loading/open.py": ("load_model",)},
    "sparkablate.results": {"results.py": ("load", "Results")},
    "sparkablate.edits.means": {"edits/means.py": ("MeanKey",)},
    "sparkablate.directions": {
        "directions/find.py": ("find_directions", "Found", "Candidate"),
        "directions/saved.py": ("SavedDirection",),
    },
    "sparkablate.directions.scores": {"directions/scores.py": ("Scores", "Estimate", "Answers")},
}

HEAD = """# Python API

What notebooks and other harnesses import; no controller is needed. This page is made from the docstrings
when the package is made, and by `npm run reference`. Examples: [README.md](../README.md#python),
[python-api.ipynb](python-api.ipynb), [directions.md](directions.md#in-python). The controller has a page
of its own, [api-typescript.md](api-typescript.md). Every error is a `SparkablateError`;
[errors.md](errors.md) explains its `code`.
"""

#: A longer signature has one parameter a line.
LINE = 100


def python_page() -> str:
    """The text of api-python.md."""
    parts = [HEAD]
    for module, files in PUBLIC.items():
        parts.append(f"## `{module}`\n")
        for name, node, depth in public(files):
            heading = f"{'#' * (3 + depth)} `{name}`\n"
            parts += [heading, f"```python\n{_signature(node)}\n```\n", _text(node)]
    return "\n".join(parts)


Definition = ast.ClassDef | ast.FunctionDef


def public(files: dict[str, tuple[str, ...]]) -> Iterator[tuple[str, Definition, int]]:
    """Name, definition and depth of what a module offers: classes are followed by their public members."""
    for file, names in files.items():
        defined = _definitions(ast.parse((PACKAGE / file).read_text(encoding="utf-8")))
        for name in names:
            yield name, defined[name], 0
            if isinstance(defined[name], ast.ClassDef):
                for member, node in _definitions(defined[name]).items():
                    if not member.startswith("_"):
                        yield f"{name}.{member}", node, 1


def _definitions(node: ast.Module | Definition) -> dict[str, Definition]:
    return {one.name: one for one in node.body if isinstance(one, ast.ClassDef | ast.FunctionDef)}


def _signature(node: Definition) -> str:
    if isinstance(node, ast.ClassDef):
        init = _definitions(node).get("__init__")
        return _call(f"class {node.name}", _fields(node) if init is None else _parameters(init), "")
    returns = ast.unparse(node.returns) if node.returns else ""
    decorators = {ast.unparse(one) for one in node.decorator_list}
    if "property" in decorators:
        return f"{node.name}: {returns}"
    return _call(f"def {node.name}", _parameters(node), f" -> {returns}")


def _call(opening: str, parameters: list[str], closing: str) -> str:
    line = f"{opening}({', '.join(parameters)}){closing}"
    if len(line) <= LINE:
        return line
    return "\n".join([f"{opening}(", *(f"    {one}," for one in parameters), f"){closing}"])


def _parameters(node: ast.FunctionDef) -> list[str]:
    named = [one for one in node.args.args if one.arg not in ("self", "cls")]
    defaults = [None] * (len(named) - len(node.args.defaults)) + list(node.args.defaults)
    shown = [_parameter(one, default) for one, default in zip(named, defaults, strict=True)]
    if node.args.kwonlyargs:
        keywords = zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True)
        shown += ["*", *(_parameter(one, default) for one, default in keywords)]
    return shown


def _parameter(argument: ast.arg, default: ast.expr | None) -> str:
    text = f"{argument.arg}: {ast.unparse(argument.annotation)}" if argument.annotation else argument.arg
    return text if default is None else f"{text} = {ast.unparse(default)}"


def _fields(node: ast.ClassDef) -> list[str]:
    """Of a dataclass or named tuple, the public ones. What `field(…)` says beside its default is not for
    readers."""
    shown = []
    for one in node.body:
        if not isinstance(one, ast.AnnAssign) or not isinstance(one.target, ast.Name):
            continue
        if one.target.id.startswith("_"):
            continue
        default = one.value
        if isinstance(default, ast.Call):
            default = next(keyword.value for keyword in default.keywords if keyword.arg == "default")
        shown.append(_parameter(ast.arg(one.target.id, one.annotation), default))
    return shown


def _text(node: Definition) -> str:
    """The docstring; its "Args:" as a list."""
    out: list[str] = []
    in_arguments = False
    for line in (ast.get_docstring(node) or "").split("\n"):
        if line == "Args:":
            in_arguments = True
            continue
        in_arguments = in_arguments and (line == "" or line.startswith(" "))
        argument = re.match(r" {4}(\w[\w, ]*): (.*)", line) if in_arguments else None
        if argument:
            names = ", ".join(f"`{name.strip()}`" for name in argument[1].split(","))
            out.append(f"- {names}: {argument[2]}")
        else:
            out.append(f"  {line.strip()}" if in_arguments and line else line)
    return "\n".join(out) + "\n"


if __name__ == "__main__":
    print(python_page(), end="")
