"""A message names its remedy as its reader can type it."""

from __future__ import annotations

import subprocess
import sys

SCRIPT = """
import sys
from sparkablate import wording
if "controller" in sys.argv:
    wording.speak_to_controller()
print(wording.setting("model.dtype"), wording.setting("model.device_map", "auto"), sep=" | ", end=" | ")
print(wording.setting("model.trust_remote_code", True), wording.flag("out"), sep=" | ", end=" | ")
print(wording.flag("prune-layers", True), wording.flag("dtype", "float32"), sep=" | ")
"""


def said(*arguments: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, *arguments], capture_output=True, text=True, check=True
    )
    return done.stdout.strip().split(" | ")


def test_python_is_answered_in_python() -> None:
    assert said() == [
        "dtype",
        'device_map="auto"',
        "trust_remote_code=True",
        "out",
        "prune_layers=True",
        'dtype="float32"',
    ]


def test_a_worker_speaks_the_language_of_configs_and_flags() -> None:
    assert said("controller") == [
        "model.dtype",
        "model.device_map: auto",
        "model.trust_remote_code: true",
        "--out",
        "--prune-layers",
        "--dtype float32",
    ]
