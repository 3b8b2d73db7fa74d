"""The worker's side of an authenticated TCP link: its secret key, and the controllers that it lets in."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

from sparkablate.errors import SparkablateError

#: 32 bytes in ZeroMQ's base 85.
_KEY = re.compile(r"[0-9a-zA-Z.\-:+=^!/*?&<>()\[\]{}@%$#]{40}")


@dataclass(frozen=True)
class WorkerKeys:
    """Keys as ZeroMQ's Z85 text. ``controllers``: public keys; any other client is refused."""

    secret: bytes = field(repr=False)
    controllers: frozenset[bytes]

    def callback(self, domain: str, key: bytes) -> bool:
        """Whether a client is one of them; the name is pyzmq's."""
        return key in self.controllers


def read_keys(directory: Path) -> WorkerKeys:
    """``worker.key`` and ``controller.pub`` (one public key a line: a worker may serve several controllers).

    Raises ``usage`` for what is missing, is no key, or is open to others.
    """
    secret, controllers = directory / "worker.key", directory / "controller.pub"
    lines = _lines(secret)
    if len(lines) != 1:
        raise SparkablateError("usage", f"--keys: {secret} holds {len(lines)} lines, and must hold one key")
    if secret.stat().st_mode & 0o077:
        raise SparkablateError("usage", f"--keys: others may read {secret}; run 'chmod 600 {secret}' first")
    if not (listed := _lines(controllers)):
        raise SparkablateError("usage", f"--keys: {controllers} lists no controller")
    if controllers.stat().st_mode & 0o022:
        raise SparkablateError(
            "usage", f"--keys: others may add to {controllers}; run 'chmod go-w {controllers}' first"
        )
    return WorkerKeys(lines[0], frozenset(listed))


def _lines(file: Path) -> list[bytes]:
    try:
        text = file.read_text(encoding="ascii")
    except (OSError, UnicodeDecodeError) as error:
        raise SparkablateError(
            "usage", f"--keys: {file} cannot be read ({error}); run 'sparkablate keys init'"
        ) from error
    lines = text.split()
    for number, line in enumerate(lines, 1):
        if _KEY.fullmatch(line) is None:  # never quoted: it may be a secret with a slip in it
            raise SparkablateError("usage", f"--keys: {file}: entry {number} is not a key of 40 characters")
    return [line.encode() for line in lines]
