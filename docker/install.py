"""While the image is built: the worker's dependencies beside the image's own torch, which must not change."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

#: What a worker needs of the groups in pyproject.toml.
EXTRAS = ("server", "datasets", "builtin")


def requirements(pyproject: str) -> list[str]:
    """The dependencies and the extras' ones, read without a TOML library, which Python 3.10 has not."""
    lists = [r"^dependencies", *(rf"^{extra}" for extra in EXTRAS)]
    found = []
    for name in lists:
        body = re.search(rf"{name} = \[(.*?)\]$", pyproject, re.MULTILINE | re.DOTALL)
        if body is None:
            raise SystemExit(f"pyproject.toml has no list {name.lstrip('^')}")
        found += re.findall(r'"([^"]+)"', body[1])
    return found


def torch_as_it_is() -> tuple[str, str]:
    """torch's version, and a fingerprint of its files."""
    code = "import torch; print(torch.__version__, torch.__file__)"
    version, file = subprocess.check_output([sys.executable, "-c", code], text=True).split()
    files = sorted(Path(file).parent.rglob("*"))
    return version, str(
        [(str(path), path.stat().st_mtime_ns) for path in files if path.suffix in (".py", ".so")]
    )


def main() -> None:
    before = torch_as_it_is()
    # Named with their exact versions, so that pip may not move them; NGC's own pins hold as well.
    kept = [f"{name}=={metadata.version(name)}" for name in ("torch", "numpy")]
    wanted = [
        one for one in requirements(Path(sys.argv[1]).read_text(encoding="utf-8")) if one[:5] != "torch"
    ]
    pip = [sys.executable, "-m", "pip", "install", "--no-input", "--no-cache-dir", "--progress-bar", "off"]
    subprocess.run([*pip, *kept, *wanted], check=True, env={**os.environ, "PIP_ROOT_USER_ACTION": "ignore"})
    if torch_as_it_is() != before:
        raise SystemExit(f"pip changed the image's torch {before[0]}: choose another BASE_IMAGE")
    print(f"torch {before[0]} is the image's own")


main()
