"""What the Python package exports is what this list says."""

from __future__ import annotations

import subprocess
import sys

EXPORTS = ["AblationManager", "AblationSpec", "DirectionSpec", "SparkablateError", "__version__"]

SCRIPT = """
import sparkablate
print(*dir(sparkablate))
from sparkablate import *
print(*sorted(name for name in vars() if name not in ("sparkablate", *BEFORE)))
"""


def test_the_package_exports_these_names_and_no_other() -> None:
    # A process of its own: submodules that other tests import become attributes.
    script = "BEFORE = (*vars(), 'BEFORE')\n" + SCRIPT
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert [line.split() for line in ran.stdout.splitlines()] == [EXPORTS, EXPORTS]
