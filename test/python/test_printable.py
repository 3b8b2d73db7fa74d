"""What others wrote, on a terminal: nothing in it is obeyed."""

import subprocess
import sys
import unicodedata

from sparkablate.errors import SparkablateError
from sparkablate.printable import printable

STEERING = {"Cc", "Cf", "Zl", "Zp", "Cs"}


def steering(text: str) -> list[str]:
    return [mark for mark in text if unicodedata.category(mark) in STEERING and mark not in "\n\t"]


def test_no_character_steers_and_the_others_stay() -> None:
    every = "".join(map(chr, range(sys.maxunicode + 1)))
    kept = [mark for mark in every if unicodedata.category(mark) not in STEERING or mark in "\n\t"]
    assert steering(printable(every)) == []
    assert printable("".join(kept)) == "".join(kept)
    assert printable("a\x1b[31m\r\u202e\ud800") == "a\\x1b[31m\\r\\u{202e}\\u{d800}"


def test_an_error_says_it_in_text_and_keeps_its_message() -> None:
    error = SparkablateError("usage", "bad \x1b[31m name")
    assert str(error) == "bad \\x1b[31m name"
    assert error.message == error.to_wire()["message"] == "bad \x1b[31m name"


def test_a_workers_words_are_text_whoever_writes_them() -> None:
    hostile = "ipc:///nowhere/\x1b[31m\u202e\x9b2J"
    worker = subprocess.run(
        [sys.executable, "-m", "sparkablate.server", "--bind", hostile, f"--{hostile}"],
        capture_output=True,
        text=True,
        encoding="utf-8",
    )
    assert worker.returncode == 2
    assert "\\x1b[31m\\u{202e}\\x9b2J" in worker.stderr
    assert steering(worker.stderr) == []
