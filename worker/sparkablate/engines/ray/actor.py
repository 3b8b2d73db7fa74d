"""The inside of one Ray actor: an engine on a thread of its own, and the stream of what it reports."""

from __future__ import annotations

import os
import queue
import time
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import ray

from sparkablate.engines.requests import Caller, Engine, Request
from sparkablate.errors import SparkablateError
from sparkablate.loading import memory
from sparkablate.wording import speak_to_controller

#: A group goes out this often, also an empty one: whoever reads it looks whether the task is still wanted.
REPORT_EVERY_S = 1.0

#: ``progress`` or ``report`` and what the caller is told; last ``answer``, or ``failure`` (code, message,
#: detail).
Report = tuple[str, tuple[Any, ...]]


@dataclass(frozen=True)
class Place:
    """Where an actor runs. ``node``: Ray's id of the machine."""

    node: str
    address: str
    pid: int

    def __str__(self) -> str:
        return f"{self.address} (pid {self.pid})"


class Actor:
    """One engine. Its methods run one after the other; only ``cancel`` is answered while one runs."""

    def __init__(self, make_engine: Callable[[], Engine]) -> None:
        self._working = True
        speak_to_controller()
        memory.watch(memory.end_process, lambda: self._working)
        self._engine = make_engine()
        self._working = False
        # One thread for good: torch keeps its number of threads by thread.
        self._compute = ThreadPoolExecutor(max_workers=1, thread_name_prefix="compute")
        self._unwanted = -1

    def where(self) -> Place:
        context = ray.get_runtime_context()
        return Place(context.get_node_id(), ray.util.get_node_ip_address(), os.getpid())

    @ray.method(concurrency_group="control")
    def cancel(self, task: int) -> None:
        self._unwanted = task

    def run(self, task: int, request: Request[Any]) -> Iterator[list[Report]]:
        """Asks the engine; what it tells its caller comes in groups, its answer or failure last."""
        reports: queue.SimpleQueue[Report | None] = queue.SimpleQueue()
        caller = Caller(
            progress=lambda *values: reports.put(("progress", values)),
            report=lambda *values: reports.put(("report", values)),
            cancelled=lambda: self._unwanted == task,
        )

        def work() -> None:
            self._working = True
            try:
                reports.put(("answer", (self._engine.answer(request, caller),)))
            except SparkablateError as error:
                reports.put(("failure", (error.code, error.message, error.detail)))
            except BaseException as error:  # also the sys.exit() of a model's own code
                text = f"{type(error).__name__}: {error}"
                reports.put(("failure", ("internal", text, traceback.format_exc())))
            finally:
                self._working = False
                reports.put(None)

        self._compute.submit(work)
        yield from _groups(reports)


def _groups(reports: queue.SimpleQueue[Report | None]) -> Iterator[list[Report]]:
    """What comes within a second together, up to the None: a message costs Ray far more than its content."""
    ended = False
    while not ended:
        group: list[Report] = []
        until = time.monotonic() + REPORT_EVERY_S
        while not ended and (left := until - time.monotonic()) > 0:
            try:
                report = reports.get(timeout=left)
            except queue.Empty:
                break
            if report is None:
                ended = True
            else:
                group.append(report)
        yield group
