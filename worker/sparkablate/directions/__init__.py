"""Directions in the residual stream: found from two sets of prompts, scored, kept in files."""

from __future__ import annotations

from typing import Any

__all__ = ["Candidate", "Found", "SavedDirection", "find_directions", "load_direction", "save_direction"]


def __getattr__(name: str) -> Any:
    """A façade for users; torch is only imported when one of the names is used."""
    if name not in __all__:
        raise AttributeError(f"module 'sparkablate.directions' has no attribute {name!r}")
    from . import find, saved

    return getattr(find if hasattr(find, name) else saved, name)
