"""A side of the bench as a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]

Conditions = list[dict[str, Any]]


class Process:
    """A running side, of this checkout or of another one."""

    def __init__(self, python: str, name: str, arguments: list[str], checkout: Path = ROOT) -> None:
        command = [python, str(checkout / "test" / "bench" / "side.py"), name, *arguments]
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(checkout / "worker")},
        )
        self.read()

    def measure(self, conditions: Conditions) -> dict[str, Any]:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(conditions) + "\n")
        self.process.stdin.flush()
        return self.read()

    def read(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"{' '.join(self.process.args[1:3])} ended with code {self.process.wait()}")  # type: ignore[index]
        return json.loads(line)

    def finish(self) -> int:
        """Ends the process; its peak memory in bytes."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        peak = self.read()["peak_bytes"]
        self.process.wait()
        return peak


@contextmanager
def running(python: str, name: str, arguments: list[str], checkout: Path = ROOT) -> Iterator[Process]:
    side = Process(python, name, arguments, checkout)
    try:
        yield side
    finally:
        if side.process.poll() is None:
            side.process.kill()
