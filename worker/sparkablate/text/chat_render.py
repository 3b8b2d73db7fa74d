"""Renders a model's chat template for many prompts, in a process of its own.

usage: python chat_render.py < JOB   (chat_templates.py writes it and reads what comes)

A template is a program out of the model's files: it may loop for ever, or ask for all the memory. Here the
system ends it: one prompt may take ``seconds`` of the processor, all of it ``bytes`` of memory.
"""

from __future__ import annotations

import ctypes
import json
import os
import random
import resource
import signal
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

#: PR_SET_PDEATHSIG of linux/prctl.h.
_SET_PARENT_DEATH_SIGNAL = 1


def main() -> None:
    job: dict[str, Any] = json.load(sys.stdin)
    _end_with(job["parent"])
    from transformers.utils import chat_template_utils

    now = datetime.fromisoformat(job["date"])
    dated = False

    def strftime_now(form: str) -> str:
        nonlocal dated
        dated = True
        return now.strftime(form)

    _limit_memory(job["bytes"])
    characters = 0
    for prompt in job["prompts"]:
        signal.setitimer(signal.ITIMER_PROF, job["seconds"])  # its signal ends the process
        random.seed(0)  # jinja's filter `random`
        try:
            compiled = chat_template_utils._compile_jinja_template(job["template"])
            compiled.environment.globals["strftime_now"] = strftime_now
            rendered: Any = chat_template_utils.render_jinja_template(
                [[{"role": "user", "content": prompt}]],
                chat_template=job["template"],
                add_generation_prompt=True,
                **job["special_tokens"],
            )
            text: str = rendered[0][0]
            characters += len(text)
            if characters > job["characters"]:
                raise ValueError(f"it writes more than {job['characters']} characters")
            line = json.dumps({"text": text, "dated": dated})
        except MemoryError:
            _fail(f"it takes more than {job['bytes'] >> 20} MiB of memory")
            return
        except Exception as error:  # whatever the template makes of the prompt
            number = getattr(error, "lineno", None)
            place = "" if number is None else f"line {number}: "
            _fail(f"{place}{str(error) or type(error).__name__}")
            return
        print(line, flush=True)


def _fail(why: str) -> None:
    print(json.dumps({"failure": why[:1000]}), flush=True)


def _end_with(parent: int) -> None:
    """Nobody would read what an orphan writes."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_SET_PARENT_DEATH_SIGNAL, signal.SIGKILL)
    if os.getppid() != parent:
        sys.exit(1)


def _limit_memory(most: int) -> None:
    """So many bytes more than the interpreter has. Other systems than Linux do not keep to such a limit."""
    if sys.platform == "linux":
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
        limit = pages * resource.getpagesize() + most
        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        resource.setrlimit(resource.RLIMIT_AS, (limit if hard < 0 else min(limit, hard), hard))


if __name__ == "__main__":
    main()
