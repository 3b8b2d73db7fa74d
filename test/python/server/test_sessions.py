"""Who holds the worker, by a clock that the test moves."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest

from sparkablate.errors import SparkablateError
from sparkablate.server.session import IDLE_LIMIT_S, Session, Sessions


@dataclass
class Scene:
    now: float = 1000.0
    ended: list[Session] = field(default_factory=list)
    sessions: Sessions = field(init=False)

    def __post_init__(self) -> None:
        self.sessions = Sessions(self.ended.append, lambda: self.now)


def owner(run_id: str, pid: int = 1) -> dict[str, Any]:
    return {"run_id": run_id, "pid": pid, "host": "here"}


@pytest.fixture
def scene() -> Scene:
    return Scene()


def test_another_run_is_told_who_holds_the_worker_and_since_when(scene: Scene) -> None:
    held = scene.sessions.hello(b"first", owner("run a", 4711))
    with pytest.raises(SparkablateError) as caught:
        scene.sessions.hello(b"second", owner("run b"))
    assert caught.value.code == "worker_busy"
    assert "run a (pid 4711 on here)" in caught.value.message
    assert held.since in caught.value.message
    assert scene.sessions.check(held.id, b"first") is held
    assert scene.ended == []


def test_the_same_run_takes_over_at_once(scene: Scene) -> None:
    old = scene.sessions.hello(b"first", owner("run a", 1))
    new = scene.sessions.hello(b"second", owner("run a", 2))
    assert new.id != old.id
    assert scene.ended == [old]
    assert scene.sessions.check(new.id, b"second") is new
    with pytest.raises(SparkablateError) as caught:
        scene.sessions.check(old.id, b"first")
    assert caught.value.code == "session_lost"
    assert scene.sessions.current is new


def test_silence_ends_a_session_and_any_frame_keeps_it(scene: Scene) -> None:
    held = scene.sessions.hello(b"first", owner("run a"))
    for _ in range(4):
        scene.now += IDLE_LIMIT_S
        scene.sessions.expire()
        assert scene.sessions.check(held.id, b"first") is held
    scene.now += IDLE_LIMIT_S + 0.001
    scene.sessions.expire()
    assert scene.ended == [held]
    with pytest.raises(SparkablateError) as caught:
        scene.sessions.check(held.id, b"first")
    assert caught.value.code == "session_lost"
    assert scene.sessions.hello(b"second", owner("run b")).owner["run_id"] == "run b"


def test_a_refused_hello_does_not_keep_a_session_alive(scene: Scene) -> None:
    scene.sessions.hello(b"first", owner("run a"))
    scene.now += IDLE_LIMIT_S
    with pytest.raises(SparkablateError):
        scene.sessions.hello(b"second", owner("run b"))
    scene.now += 1
    scene.sessions.expire()
    assert scene.sessions.current is None


def test_a_frame_over_another_connection_ends_the_session(scene: Scene) -> None:
    """What was sent to the old connection is lost, so its controller must ask again."""
    held = scene.sessions.hello(b"first", owner("run a"))
    with pytest.raises(SparkablateError) as caught:
        scene.sessions.check(held.id, b"reconnected")
    assert caught.value.code == "session_lost"
    assert scene.ended == [held]
    assert scene.sessions.current is None


def test_a_guessed_session_ends_nothing(scene: Scene) -> None:
    held = scene.sessions.hello(b"first", owner("run a"))
    with pytest.raises(SparkablateError):
        scene.sessions.check("0" * 32, b"stranger")
    assert scene.sessions.check(held.id, b"first") is held


def test_end_is_told_once(scene: Scene) -> None:
    held = scene.sessions.hello(b"first", owner("run a"))
    scene.sessions.end()
    scene.sessions.end()
    assert scene.ended == [held]


def test_sessions_cannot_be_guessed(scene: Scene) -> None:
    ids = {scene.sessions.hello(b"first", owner("run a")).id for _ in range(100)}
    assert len(ids) == 100
    assert min(len(one) for one in ids) >= 32
