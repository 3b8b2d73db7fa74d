"""Text of others for people: what a terminal would obey, or a reader could not see, is written out."""

from __future__ import annotations

import io
import sys
import unicodedata

#: Controls, what turns the direction of writing and zero-width characters, line separators, half characters.
_HIDDEN = frozenset({"Cc", "Cf", "Zl", "Zp", "Cs"})


def printable(text: str) -> str:
    """`text` with its line breaks and tabs, and nothing else in it that a terminal would obey."""
    if text.isascii() and text.replace("\n", "").replace("\t", "").isprintable():
        return text
    return "".join(_written_out(character) for character in text)


def is_unicode(text: str) -> bool:
    """Half a surrogate pair, which JSON and file names may hold, is no text."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _written_out(character: str) -> str:
    if character in "\n\t" or unicodedata.category(character) not in _HIDDEN:
        return character
    if character == "\r":
        return "\\r"
    code = ord(character)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{{{code:x}}}"


class _Stream(io.TextIOWrapper):
    """Where nothing but such text is written; a progress bar may go back to its line's start."""

    def write(self, text: str, /) -> int:
        bar = text.startswith("\r") and "\n" not in text
        return super().write("\r" + printable(text[1:]) if bar else printable(text))


def guard_stderr() -> None:
    """From here on all that this process writes to ``sys.stderr`` is printable: libraries quote files too."""
    if sys.stderr is None:  # whoever started this process closed it
        return
    encoding = sys.stderr.encoding
    sys.stderr = _Stream(sys.stderr.buffer, encoding, errors="backslashreplace", line_buffering=True)
