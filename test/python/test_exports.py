"""What the Python package exports is what this list says."""

from __future__ import annotations

import subprocess
import sys

EXPORTS = [
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


def test_bake_is_called_by_its_short_name_whatever_was_imported_before() -> None:
    for before in ("", "from sparkablate.bake import bake as it\n", "import sparkablate.bake.live\n"):
        script = f"{before}import sparkablate\nfrom sparkablate import bake\n"
        script += "for one in (bake, sparkablate.bake, sparkablate.bake.bake):\n    print(callable(one))\n"
        script += "try:\n    bake('x', 3, 'y')\n"
        script += "except sparkablate.SparkablateError as error:\n    print(error.code)"
        ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
        assert ran.stdout.split() == ["True", "True", "True", "config_invalid"]


def test_names_that_0_1_0_documented_are_where_it_had_them() -> None:
    from sparkablate import calibration, direction_scores, directions, fingerprints, model
    from sparkablate.directions import find, scores
    from sparkablate.edits import means
    from sparkablate.loading import fingerprints as files
    from sparkablate.loading import open as loading

    assert calibration.MeanKey is means.MeanKey
    assert directions.find_directions is find.find_directions
    assert (directions.Found, directions.Candidate) == (find.Found, find.Candidate)
    assert direction_scores.Scores is scores.Scores
    assert fingerprints.digest_files is files.digest_files
    assert model.load_model is loading.load_model
