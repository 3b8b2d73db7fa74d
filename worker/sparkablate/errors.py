"""One error class. Its codes are the closed table of src/errors.ts, which says what each one means."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from sparkablate.printable import printable

_SCHEMA = json.loads((Path(__file__).parent / "server" / "schema.json").read_bytes())
CODES = frozenset(_SCHEMA["failure"]["properties"]["error"]["properties"]["code"]["enum"])


def first_line(error: BaseException) -> str:
    """Of another library's error, whose other lines are advice and traces."""
    return str(error).strip().split("\n")[0] or type(error).__name__


class SparkablateError(Exception):
    """What went wrong (`code`), in words for a person (`message`), with facts for debugging (`detail`).

    Raises ValueError for a code that is not in the table.
    """

    def __init__(self, code: str, message: str, detail: str = "") -> None:
        if code not in CODES:
            raise ValueError(f"{code!r} is not a code of src/errors.ts")
        super().__init__(message)
        self.code = code
        self.message = message
        self.detail = detail

    def __str__(self) -> str:
        return printable(self.message)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.code, self.message, self.detail)

    def to_wire(self) -> dict[str, str]:
        """The `wireError` of src/protocol/messages.ts."""
        return {"code": self.code, "message": self.message[:65_536], "detail": self.detail[-262_144:]}
