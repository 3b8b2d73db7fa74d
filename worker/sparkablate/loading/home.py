"""Where sparkablate keeps what it may delete and make again."""

from __future__ import annotations

import os
from pathlib import Path


def home() -> Path:
    """``$SPARKABLATE_HOME``, or ``~/.cache/sparkablate``. Not created here."""
    return Path(os.environ.get("SPARKABLATE_HOME") or Path.home() / ".cache" / "sparkablate").expanduser()
