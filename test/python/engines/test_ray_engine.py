"""What of the Ray engine needs no cluster: its interface, who agrees with whom, what a node has room for."""

from __future__ import annotations

import inspect
import pickle
from typing import Any

import numpy as np
import pytest

from sparkablate.engines.local import LocalEngine
from sparkablate.engines.ray.actor import Actor
from sparkablate.engines.ray.engine import RayEngine
from sparkablate.engines.ray.member import Needs, Standing
from sparkablate.errors import SparkablateError
from sparkablate.measure.slice import Measurement


def test_both_engines_take_the_same_requests() -> None:
    def parameters(engine: type) -> dict[str, list[str]]:
        return {
            name: [str(parameter) for parameter in inspect.signature(method).parameters.values()]
            for name, method in inspect.getmembers(engine, inspect.isfunction)
            if not name.startswith("_")
        }

    local, ray = parameters(LocalEngine), parameters(RayEngine)
    refused = {"bake"}
    assert ray.keys() == local.keys()
    assert {name: ray[name] for name in ray.keys() - refused} == {
        name: local[name] for name in local.keys() - refused
    }


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


class Engine:
    """Calls back, and ends as it is told."""

    def work(self, ending: str, progress: Any, cancelled: Any) -> str:
        progress("stage", 1.0, None, "steps")
        if ending == "refuses":
            raise SparkablateError("means_missing", "none here", "the traceback")
        if ending == "exits":
            raise SystemExit(3)
        return "cancelled" if cancelled() else "done"


def test_an_actor_gives_what_its_engine_reports_and_one_end() -> None:
    actor = Actor(Engine)  # type: ignore[arg-type]
    actor.cancel(6)  # of a task that is over

    def run(task: int, ending: str) -> list[Any]:
        groups = actor.run(task, "work", {"ending": ending}, ("progress", "cancelled"))
        return [report for group in groups for report in group]

    report = ("progress", ("stage", 1.0, None, "steps"))
    assert run(7, "returns") == [report, ("result", ("done",))]
    assert run(8, "refuses") == [report, ("failure", ("means_missing", "none here", "the traceback"))]
    _, (name, (code, message, detail)) = run(9, "exits")
    assert (name, code, message) == ("failure", "internal", "SystemExit: 3")
    assert "raise SystemExit" in detail
    actor.cancel(10)
    assert run(10, "returns")[-1] == ("result", ("cancelled",))


def test_a_failed_measurement_travels_between_processes() -> None:
    error = SparkablateError("hook_failed", "what happened", "where")
    failed = Measurement("L0.mlp.zero", ("nll",), np.empty((0, 0)), 31, 0.5, (), error)
    arrived = pickle.loads(pickle.dumps(failed))
    assert arrived.error is not None
    assert arrived.error.to_wire() == error.to_wire()
