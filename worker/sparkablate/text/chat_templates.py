"""Prompts as a user's message in the model's chat template, bounded in time and memory."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from sparkablate.errors import SparkablateError
from sparkablate.progress import Progress

SCRIPT = Path(__file__).with_name("chat_render.py")

#: Of the processor, for one prompt; templates in use take about a millisecond.
MOST_SECONDS = 5
MOST_BYTES = 1 << 30
#: Of all prompts together: four times what the controller may send.
MOST_CHARACTERS = 64 << 20
#: Between two looks at whether the work is still wanted.
POLL_S = 0.1


class Rendered(NamedTuple):
    """``dated``: whether the template writes a date, by ``strftime_now``."""

    texts: list[str]
    dated: bool


def render(
    tokenizer: Any, prompts: Sequence[str], date: str, cancelled: Callable[[], bool], progress: Progress
) -> Rendered:
    """What ``apply_chat_template`` makes of each prompt on a date (ISO, at midnight).

    Raises ``config_invalid`` where there is no template, or it does not parse, refuses a prompt, takes too
    long or too much memory; ``interrupted`` where it was cancelled.
    """
    if not getattr(tokenizer, "chat_template", None):
        raise SparkablateError(
            "config_invalid", "the model's tokenizer has no chat template; leave --chat-template out"
        )
    try:
        template = tokenizer.get_chat_template()
    except ValueError as error:  # several by name, and none of them the default
        raise SparkablateError("config_invalid", f"the model's chat template: {error}") from error
    job = {
        "template": template,
        "prompts": list(prompts),
        "special_tokens": tokenizer.special_tokens_map,
        "date": date,
        "parent": os.getpid(),
        "seconds": MOST_SECONDS,
        "bytes": MOST_BYTES,
        "characters": MOST_CHARACTERS,
    }
    messages, code, errors = _run(json.dumps(job, default=str), len(prompts), cancelled, progress)
    texts = [message["text"] for message in messages if "text" in message]
    if len(texts) < len(prompts):
        failures = [message["failure"] for message in messages if "failure" in message]
        if not failures and code > 0:
            raise SparkablateError("internal", f"{SCRIPT.name} ended with code {code}", errors)
        why = failures[0] if failures else _ended_by(-code)
        raise SparkablateError(
            "config_invalid",
            f"the model's chat template cannot write prompt {len(texts) + 1} "
            f"({prompts[len(texts)]!r:.80}): {why}; leave --chat-template out",
        )
    return Rendered(texts, bool(messages and messages[-1]["dated"]))


def _run(
    job: str, prompts: int, cancelled: Callable[[], bool], progress: Progress
) -> tuple[list[dict[str, Any]], int, str]:
    """What the process said, its exit code, and what it wrote for people."""
    # -I: no PYTHONPATH, no user packages, not the directory one stands in.
    process = subprocess.Popen(
        [sys.executable, "-I", str(SCRIPT)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf-8",
        # Threads reserve memory, each on its own; torch and its like are not needed.
        env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
    )
    # By a thread: of a long input, communicate() does not write the rest after its first time-out.
    stdin, process.stdin = process.stdin, None
    writer = threading.Thread(target=_write, args=(stdin, job))
    writer.start()
    try:
        while True:
            try:
                out, errors = process.communicate(timeout=POLL_S)
                break
            except subprocess.TimeoutExpired:
                if cancelled():
                    raise SparkablateError("interrupted", "the chat template was cancelled") from None
                progress("template", 0.0, float(prompts), "prompts")
    finally:
        if process.poll() is None:
            process.kill()
            process.communicate()
        writer.join()
    # Of a process that was ended the last line may be torn.
    lines = [line for line in out.splitlines(keepends=True) if line.endswith("\n")]
    return [json.loads(line) for line in lines], process.returncode, errors


def _write(stdin: Any, job: str) -> None:
    """A process that ended early has said why, or its code does."""
    with contextlib.suppress(BrokenPipeError), stdin:
        stdin.write(job)


def _ended_by(number: int) -> str:
    if number == signal.SIGPROF:
        return f"it takes more than {MOST_SECONDS} seconds"
    return f"it ended its process ({signal.Signals(number).name})"
