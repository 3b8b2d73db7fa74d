"""A request costs its value and its answer: neither the handlers nor Ray's engine know one by name."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from sparkablate import __file__ as package_file

#: File → what comes before its table, and the table's new row.
EDITS = {
    "engines/requests.py": (
        "#: On the wire under these names",
        """
@dataclass(frozen=True)
class Weigh(Request[Wire]):
    words: list[str]
    unit: str = "letters"


""",
        "PLAIN: ",
        '    "weigh": Weigh,\n',
    ),
    "engines/local.py": (
        "_ANSWERS: ",
        """
from sparkablate.engines.requests import Weigh


def _weigh(engine: LocalEngine, request: Any, caller: Caller) -> Wire:
    caller.progress("weigh", 1.0, None, request.unit)
    return {"sum": sum(map(len, request.words)), "unit": request.unit}


""",
        "_ANSWERS: ",
        "    Weigh: _weigh,\n",
    ),
}

SCRIPT = """
import pickle
from sparkablate.engines.local import LocalEngine
from sparkablate.engines.ray.actor import Actor
from sparkablate.engines.ray.engine import _OTHERWISE
from sparkablate.engines.requests import PLAIN
from sparkablate.server import handlers
from sparkablate.server.protocol import Request

class Context:
    sent = []
    def send(self, event, payload=b""):
        self.sent.append(event)
    def cancelled(self):
        return False

fields = {"type": "weigh", "id": 7, "session": "s", "words": ["one", "three"]}
reply = handlers.answer(LocalEngine(), Request("weigh", 7, fields, b""), Context())
assert reply == ({"sum": 8, "unit": "letters"}, b""), reply
(event,) = Context.sent
assert event["id"] == 7 and event["unit"] == "letters", event

request = pickle.loads(pickle.dumps(PLAIN["weigh"](["one", "three"], "runes")))
assert type(request) not in _OTHERWISE
told = [report for group in Actor(LocalEngine).run(1, request) for report in group]
assert told[-1] == ("answer", ({"sum": 8, "unit": "runes"},)), told
"""


def test_a_new_request_is_one_value_and_one_answer(tmp_path: Path) -> None:
    package = tmp_path / "sparkablate"
    shutil.copytree(Path(package_file).parent, package, ignore=shutil.ignore_patterns("__pycache__"))
    for file, (before, definition, table, row) in EDITS.items():
        text = (package / file).read_text(encoding="utf-8")
        assert text.count(f"\n{before}") == 1
        text = text.replace(f"\n{before}", f"\n{definition.lstrip()}{before}")
        begin = text.index(f"\n{table}")
        end = text.index("\n}\n", begin) + 1
        (package / file).write_text(text[:end] + row + text[end:], encoding="utf-8")
    env = {**os.environ, "PYTHONPATH": str(tmp_path), "OMP_NUM_THREADS": "1"}
    ran = subprocess.run(
        [sys.executable, "-c", SCRIPT], env=env, cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr
