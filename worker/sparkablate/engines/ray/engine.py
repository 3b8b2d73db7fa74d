"""The Ray engine: the local engine on every actor of a cluster, to the server one engine with many slots."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

import ray
from ray.exceptions import RayActorError

from sparkablate.catalog import refusal
from sparkablate.engines import requests
from sparkablate.engines.local import LocalEngine, inspect
from sparkablate.engines.ray.fleet import Fleet
from sparkablate.engines.ray.member import Member, Needs
from sparkablate.engines.requests import NOBODY, Answer, Caller, Request, Wire
from sparkablate.errors import SparkablateError
from sparkablate.measure.slice import EvaluateSummary


class RayEngine:
    """Any request is answered by the engine of one actor, but for the few of the table below. Slices may be
    evaluated beside each other; any other request has the cluster alone."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._name: str | None = None

    @property
    def slots(self) -> int:
        """Actors that measure; before the first load, those that the cluster has room for."""
        return max(1, self._fleet.usable or self._fleet.capacity())

    def state(self) -> None:
        return None

    @property
    def loaded(self) -> str | None:
        return self._name

    def answer(self, request: Request[Answer], caller: Caller = NOBODY) -> Answer:
        return _OTHERWISE.get(type(request), RayEngine._forward)(self, request, caller)

    def _forward(self, request: Request[Answer], caller: Caller) -> Answer:
        member = self._take(caller, lambda: None)
        if member is None:
            raise SparkablateError("interrupted", "cancelled before an actor was free")
        return self._call(member, request, caller)

    # ── What one actor alone does not answer ─────────────────────────────────────────────────
    def _load(self, request: requests.Load, caller: Caller) -> Wire:
        """Raises what ``Fleet.load`` does, ``usage`` for what is to be baked."""
        if request.may_offload:
            self._refuse(request, caller)
        self._name = None
        loaded = self._fleet.load(request, caller.progress)
        self._name = str(request.model["name"])
        return loaded

    def _inspect(self, request: requests.Inspect, caller: Caller) -> Wire:
        return inspect(request, lambda load: self._load(load, caller))

    def _put(self, request: requests.PutMeans | requests.PutDirection, caller: Caller) -> None:
        self._need()
        self._fleet.put((type(request), request.sha256), request)

    def _evaluate(self, request: requests.Evaluate, caller: Caller) -> EvaluateSummary:
        """One slice on the first actor that is free. Raises ``actor_died`` where it is lost with it."""
        waiting = functools.partial(
            caller.progress, "evaluate", 0.0, float(len(request.conditions)), "conditions"
        )
        member = self._take(caller, waiting)
        if member is None:
            return EvaluateSummary(measured=0, failed=0, cancelled=True, seconds=0.0)
        summary = self._call(member, request, caller)
        return dataclasses.replace(summary, notices=self._fleet.take_notes())

    def _refuse(self, request: Request[Any], caller: Caller) -> NoReturn:
        raise SparkablateError(*refusal("bake", "ray"))

    # ── Actors ───────────────────────────────────────────────────────────────────────────────
    def _need(self) -> None:
        if self._name is None:
            raise SparkablateError("session_lost", "this worker has no model loaded")

    def _take(self, caller: Caller, waiting: Callable[[], None]) -> Member | None:
        self._need()
        return self._fleet.take(caller.cancelled, waiting)

    def _call(self, member: Member, request: Request[Answer], caller: Caller) -> Answer:
        try:
            answer = self._fleet.call(member, request, caller)
        except RayActorError as error:
            died = member.died(error)
            self._fleet.lost(member)
            raise died from None
        except BaseException:
            self._fleet.give_back(member)
            raise
        self._fleet.give_back(member)
        return answer


_OTHERWISE: Mapping[type[Request[Any]], Callable[[RayEngine, Any, Caller], Any]] = {
    requests.Load: RayEngine._load,
    requests.Inspect: RayEngine._inspect,
    requests.PutMeans: RayEngine._put,
    requests.PutDirection: RayEngine._put,
    requests.Evaluate: RayEngine._evaluate,
    requests.CheckBake: RayEngine._refuse,
    requests.Bake: RayEngine._refuse,
}


def start(num_cpus: float | None, actors: int | None) -> RayEngine:
    """The engine of the cluster that this process is connected to: an actor a GPU, or ``num_cpus`` each where
    there is none; at most so many ``actors``. Raises ``usage`` where neither says how large an actor is."""
    gpus = ray.cluster_resources().get("GPU", 0) >= 1
    if not gpus and num_cpus is None:
        raise SparkablateError(
            "usage",
            "this cluster has no GPU: set --num-cpus, the CPUs of each actor, and model.threads, the "
            "threads that it computes with",
        )
    needs = Needs(num_cpus=1.0 if num_cpus is None else num_cpus, num_gpus=1.0 if gpus else 0.0)
    return RayEngine(Fleet(LocalEngine, needs, actors))
