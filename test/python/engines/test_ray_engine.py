"""What of the Ray engine needs no cluster: who agrees with whom, room on a node, what an actor tells."""

from __future__ import annotations

import pickle
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from sparkablate.engines.ray.actor import Actor
from sparkablate.engines.ray.member import Needs, Standing
from sparkablate.engines.requests import NOBODY, Caller, Request
from sparkablate.errors import SparkablateError
from sparkablate.measure.slice import Measurement


@pytest.mark.parametrize(
    ("needs", "resources", "room"),
    [
        (Needs(num_cpus=1, num_gpus=1), {"CPU": 96.0, "GPU": 8.0}, 8),
        (Needs(num_cpus=16, num_gpus=1), {"CPU": 96.0, "GPU": 8.0}, 6),
        (Needs(num_cpus=1, num_gpus=1), {"CPU": 96.0}, 0),
        (Needs(num_cpus=3, num_gpus=0), {"CPU": 8.0, "memory": 1e9}, 2),
        (Needs(num_cpus=0.01, num_gpus=0), {"CPU": 1.0}, 100),
    ],
)
def test_room_of_a_node(needs: Needs, resources: dict[str, float], room: int) -> None:
    assert needs.room(resources) == room


def standing(baseline: str = "a", template: str = "j", **numerics: Any) -> Standing:
    facts = {"dtype": "float32", "threads": 1, "versions": {"torch": "2.13.0"}, **numerics}
    files = {"weights_sha256": "w" * 64, "tokenizer_sha256": "t" * 64}
    listed = {"files": [{"name": "chat_template.jinja", "sha256": template * 64, "stamp": "1 2 3 4"}]}
    return Standing({**files, "model_files": listed, "numerics": facts, "seconds": 1.0}, baseline)


def test_actors_agree_on_all_that_changes_bits_and_on_nothing_else() -> None:
    assert standing().differences(standing()) == ""
    assert standing(threads=2).differences(standing()) == "threads: 2 instead of 1"
    assert standing(template="k").differences(standing()).startswith("chat_template.jinja: kkk")
    assert standing(dtype="bfloat16").differences(standing()) == "dtype: bfloat16 instead of float32"
    # The same settings and other bits: another processor, whatever it calls itself.
    assert standing(baseline="b").differences(standing()) == "the baseline's losses: b instead of a"
    other = standing(versions={"torch": "2.12.0", "cuda": "13.0"})
    assert other.differences(standing()) == (
        "torch's version: 2.12.0 instead of 2.13.0, cuda's version: 13.0 instead of None"
    )


@dataclass(frozen=True)
class Work(Request[str]):
    """A request that no product code knows."""

    ending: str


class Engine:
    """Tells its caller, and ends as it is told."""

    slots = 1
    loaded = None

    def answer(self, request: Any, caller: Caller = NOBODY) -> Any:
        caller.progress("stage", 1.0, None, "steps")
        caller.report("a measurement")
        if request.ending == "refuses":
            raise SparkablateError("means_missing", "none here", "the traceback")
        if request.ending == "exits":
            raise SystemExit(3)
        return "cancelled" if caller.cancelled() else "done"


def test_an_actor_gives_what_its_engine_tells_and_one_end() -> None:
    actor = Actor(Engine)
    actor.cancel(6)  # of a task that is over

    def run(task: int, ending: str) -> list[Any]:
        return [report for group in actor.run(task, Work(ending)) for report in group]

    told = [("progress", ("stage", 1.0, None, "steps")), ("report", ("a measurement",))]
    assert run(7, "returns") == [*told, ("answer", ("done",))]
    assert run(8, "refuses") == [*told, ("failure", ("means_missing", "none here", "the traceback"))]
    *_, (name, (code, message, detail)) = run(9, "exits")
    assert (name, code, message) == ("failure", "internal", "SystemExit: 3")
    assert "raise SystemExit" in detail
    actor.cancel(10)
    assert run(10, "returns")[-1] == ("answer", ("cancelled",))


def test_a_failed_measurement_travels_between_processes() -> None:
    error = SparkablateError("hook_failed", "what happened", "where")
    failed = Measurement("L0.mlp.zero", ("nll",), np.empty((0, 0)), 31, 0.5, (), error)
    arrived = pickle.loads(pickle.dumps(failed))
    assert arrived.error is not None
    assert arrived.error.to_wire() == error.to_wire()
