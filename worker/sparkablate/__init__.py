"""Component ablation for open-weight causal language models.

from sparkablate import AblationManager, AblationSpec, sweep
from sparkablate.model import load_model

model, tokenizer = load_model("builtin:smollm2-135m")
results = sweep(model, tokenizer, "layers", text="novel.txt")  # what each layer is worth
with AblationManager(model).applied(AblationSpec(kind="head", layer=14, heads=(3, 7))):
    ...  # model.generate(...), lm-eval, anything
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sparkablate.version import __version__

if TYPE_CHECKING:
    from sparkablate.anatomy.sites import register_site
    from sparkablate.bake import bake
    from sparkablate.condition_ids import Condition, parse_condition
    from sparkablate.directions.saved import load_direction, save_direction
    from sparkablate.errors import SparkablateError
    from sparkablate.manager import AblationManager
    from sparkablate.measure.metrics import register_metric
    from sparkablate.proofs.discovery import discover
    from sparkablate.results import Results
    from sparkablate.specs import AblationSpec, DirectionSpec
    from sparkablate.study.sweep import sweep

__all__ = [
    "AblationManager",
    "AblationSpec",
    "Condition",
    "DirectionSpec",
    "Results",
    "SparkablateError",
    "__version__",
    "bake",
    "discover",
    "load_direction",
    "parse_condition",
    "register_metric",
    "register_site",
    "save_direction",
    "sweep",
]

# Name → module that defines it. Torch is only imported when one of them is used.
_EXPORTS = {
    "AblationManager": "manager",
    "AblationSpec": "specs",
    "Condition": "condition_ids",
    "DirectionSpec": "specs",
    "Results": "results",
    "SparkablateError": "errors",
    # The package of that name, which can be called: importing it would take the function's place anyway.
    "bake": "bake",
    "discover": "proofs.discovery",
    "load_direction": "directions.saved",
    "parse_condition": "condition_ids",
    "register_metric": "measure.metrics",
    "register_site": "anatomy.sites",
    "save_direction": "directions.saved",
    "sweep": "study.sweep",
}


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module 'sparkablate' has no attribute {name!r}")
    from importlib import import_module

    module = import_module(f".{_EXPORTS[name]}", __name__)
    return module if name == _EXPORTS[name] else getattr(module, name)


def __dir__() -> list[str]:
    return sorted(__all__)
