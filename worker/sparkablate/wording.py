"""What options are called in messages: Python's arguments; in a worker, keys of the config and flags.

Whoever reads a message can type what it says.
"""

from __future__ import annotations

import json

_reader = "Python"


def speak_to_controller() -> None:
    """From now on, messages of this process are read by somebody at a config or a command line."""
    global _reader
    _reader = "controller"


def setting(key: str, value: str | bool | None = None) -> str:
    """`model.dtype`, or `model.dtype: float32`; in Python `dtype`, or `dtype="float32"`."""
    if _reader == "Python":
        # What `load_model` calls `name` is `bake`'s `model`.
        return "model" if key == "model.name" else _argument(key.rpartition(".")[2], value)
    return key if value is None else f"{key}: {value if isinstance(value, str) else json.dumps(value)}"


def flag(name: str, value: str | bool | None = None) -> str:
    """`--dtype`, or `--dtype float32`; in Python `dtype`, or `dtype="float32"`. A switch's value is True."""
    if _reader == "Python":
        return _argument(name.replace("-", "_"), value)
    return f"--{name} {value}" if isinstance(value, str) else f"--{name}"


def _argument(name: str, value: str | bool | None) -> str:
    if value is None:
        return name
    return f'{name}="{value}"' if isinstance(value, str) else f"{name}={value}"
