"""Modules by path, and the refusal that names what is missing. Paths: see architectures.py."""

from __future__ import annotations

from typing import Any, Literal

from torch import nn

from sparkablate.errors import SparkablateError


def input_width(projection: Any) -> int:
    """Input features of a Linear (quantised or not) or of GPT-2's Conv1D."""
    return projection.nx if hasattr(projection, "nx") else projection.in_features


def output_width(projection: Any) -> int:
    """Output features of a Linear (quantised or not) or of GPT-2's Conv1D."""
    return projection.nf if hasattr(projection, "nf") else projection.out_features


_ABSENT = object()


def resolve(root: Any, path: str) -> Any:
    """What is at the path; of a module that torch.compile wraps, the module."""
    for name in path.split("."):
        root = plain(getattr(root, name, _ABSENT))
        if root is None or root is _ABSENT:
            return root
    return root


def plain(value: Any) -> Any:
    """A module that torch.compile wraps; anything else as it is."""
    while isinstance(value, nn.Module) and "_orig_mod" in value._modules:
        value = value._modules["_orig_mod"]
    return value


def find_named(
    model: nn.Module,
    root: nn.Module,
    path: str,
    need: Literal["required", "may_be_none", "optional"] = "may_be_none",
) -> tuple[str, nn.Module] | None:
    """First alternative that is a module, or None: where the attribute is None, or absent and optional."""
    resolved = {name: resolve(root, name) for name in path.split("|")}
    for name, module in resolved.items():
        if isinstance(module, nn.Module):
            return name, module
    absent = all(value is _ABSENT for value in resolved.values())
    if need == "required" or (need == "may_be_none" and absent):
        raise unsupported(model, f"its row names {path!r}, which {type(root).__name__} does not have")
    return None


def require_named(model: nn.Module, root: nn.Module, path: str) -> tuple[str, nn.Module]:
    found = find_named(model, root, path, "required")
    assert found is not None
    return found


def find(model: nn.Module, root: nn.Module, path: str) -> nn.Module | None:
    found = find_named(model, root, path)
    return None if found is None else found[1]


def require(model: nn.Module, root: nn.Module, path: str) -> nn.Module:
    return require_named(model, root, path)[1]


def unsupported(model: nn.Module, reason: str) -> SparkablateError:
    return SparkablateError(
        "architecture_unsupported",
        f"{type(model).__name__} cannot be ablated: {reason}.\n"
        f"Its modules:\n{module_tree(model)}\n"
        "Hint: load it with AutoModelForCausalLM; if it is a new architecture, add a row to "
        "worker/sparkablate/anatomy/architectures.py that says where its sites are.",
    )


def module_tree(model: nn.Module, depth: int = 5) -> str:
    """Indented module names and classes; of a list of layers only the first."""
    lines: list[str] = []

    def walk(module: nn.Module, indent: int) -> None:
        for name, child in module.named_children():
            if isinstance(module, nn.ModuleList) and name != "0":
                lines.append(f"{'  ' * indent}… {len(module) - 1} more")
                return
            lines.append(f"{'  ' * indent}{name}: {type(child).__name__}")
            if indent + 1 < depth:
                walk(child, indent + 1)

    walk(model, 0)
    return "\n".join(lines)
