"""What this worker was started from, told in hello.

A controller uses a worker that it finds only where one of its own would be the same: src/link/origin.ts
compares. Nothing but Python's own modules: it is asked before torch is imported.
"""

from __future__ import annotations

import hashlib
import os
import platform
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sparkablate.catalog import DECIDING_VARIABLES

_PACKAGE = Path(__file__).resolve().parent.parent
_STATUS = Path("/proc/self/status")


def told() -> dict[str, Any]:
    """The fixed part of the wire's ``origin``; to be asked before this process changes its environment."""
    return {
        "pid": os.getpid(),
        "host": platform.node(),
        "code_sha256": code_sha256(_PACKAGE),
        "python": sys.executable,
        "cpus": allowed_cpus(),
        "environment": deciding(os.environ),
    }


def code_sha256(package: Path) -> str:
    """Of every file of a package and its path in it. The controller computes it likewise."""
    files = sorted(
        (path.relative_to(package).as_posix(), path)
        for path in package.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    )
    lines = [f"{name} {hashlib.sha256(path.read_bytes()).hexdigest()}" for name, path in files]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def deciding(environment: Mapping[str, str]) -> dict[str, str]:
    """Digests, since a value may be nobody else's business."""
    return {
        name: hashlib.sha256(value.encode(errors="surrogateescape")).hexdigest()
        for name, value in environment.items()
        if DECIDING_VARIABLES.match(name)
    }


def allowed_cpus() -> str | None:
    """How many threads torch takes by itself follows from them."""
    try:
        lines = _STATUS.read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return None
    return next((line.split()[1] for line in lines if line.startswith("Cpus_allowed_list:")), None)
