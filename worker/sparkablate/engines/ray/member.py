"""One actor as the fleet knows it: what it needs of a node, whether it works and agrees with others."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Any

from sparkablate.engines.ray.actor import Place
from sparkablate.errors import SparkablateError, first_line


@dataclass(frozen=True)
class Needs:
    """What one actor takes of its node."""

    num_cpus: float
    num_gpus: float

    def room(self, resources: dict[str, float]) -> int:
        """How many actors a node with these resources holds."""
        wanted = {"CPU": self.num_cpus, "GPU": self.num_gpus}
        return min(int(resources.get(name, 0.0) / each + 1e-9) for name, each in wanted.items() if each > 0)

    def __str__(self) -> str:
        parts = {"GPU": self.num_gpus, "CPU": self.num_cpus}
        return " and ".join(f"{each:g} {name}" for name, each in parts.items() if each > 0)


@dataclass(frozen=True)
class Standing:
    """A loaded model as one actor has it: ``load``'s result and the sha256 of its losses on a fixed batch."""

    loaded: dict[str, Any]
    baseline: str

    def facts(self) -> dict[str, Any]:
        """Name → value of all that must be equal for two actors' numbers to be one run's."""
        numerics = self.loaded["numerics"]
        versions = {f"{name}'s version": version for name, version in numerics["versions"].items()}
        own = {name: value for name, value in numerics.items() if name != "versions"}
        files = {name: self.loaded[name] for name in ("weights_sha256", "tokenizer_sha256")}
        files |= {file["name"]: file["sha256"] for file in self.loaded["model_files"]["files"]}
        return {**files, **own, **versions, "the baseline's losses": self.baseline}

    def differences(self, other: Standing) -> str:
        """In words, seen from the actor of ``self``; empty where there are none."""
        mine, theirs = self.facts(), other.facts()
        return ", ".join(
            f"{name}: {str(mine.get(name))[:40]} instead of {str(theirs.get(name))[:40]}"
            for name in theirs | mine
            if mine.get(name) != theirs.get(name)
        )


class State(Enum):
    COMING = "not placed, starting, or loading"
    IDLE = "idle"
    BUSY = "busy"
    EXCLUDED = "excluded"


@dataclass(eq=False)
class Member:
    """One actor, through all its restarts."""

    number: int
    handle: Any
    #: The actor's method of this name, as a stream of reports.
    run: Any
    state: State = State.COMING
    place: Place | None = None
    standing: Standing | None = None
    failure: SparkablateError | None = None

    def __str__(self) -> str:
        return f"actor {self.number} on {self.place or 'no node'}"

    def died(self, error: Exception) -> SparkablateError:
        return SparkablateError("actor_died", f"{self} ended", f"{type(error).__name__}: {first_line(error)}")
