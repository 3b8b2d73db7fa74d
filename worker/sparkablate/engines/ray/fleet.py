"""The actors of a Ray cluster: placed, loaded, compared with each other, lent to one slice at a time.

Ray places actors and starts them again. What an actor was measuring when it died is lost, and the loss is
reported; here nothing is measured twice.
"""

from __future__ import annotations

import itertools
import json
import queue
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, cast

import ray
from ray.exceptions import ActorUnavailableError, RayActorError, RayError

from sparkablate.engines.ray.actor import Actor
from sparkablate.engines.ray.member import Member, Needs, Standing, State
from sparkablate.engines.requests import NOBODY, Answer, Baseline, Caller, Engine, Load, Request, Wire
from sparkablate.errors import SparkablateError
from sparkablate.progress import Progress

#: Once one actor has loaded the model, those without a place are waited for this long; the rest join later.
PLACE_LIMIT_S = 60.0
#: Without any actor that could work for this long, a slice fails.
ABSENCE_LIMIT_S = 600.0
#: An actor that died this often while it loaded the model is given up.
MOST_DEATHS_AT_LOAD = 3
#: How often new nodes are looked for, and whoever waits looks whether it still should.
LOOK_EVERY_S = 1.0


class Fleet:
    """As many actors as the cluster has room for, also where its nodes change. Safe in several threads."""

    def __init__(self, make_engine: Callable[[], Engine], needs: Needs, most: int | None = None) -> None:
        self._make_engine = make_engine
        self._needs = needs
        self._most = most
        self._home = ray.get_runtime_context().get_node_id()
        self._members: list[Member] = []
        self._changed = threading.Condition()
        self._tasks = itertools.count()
        self._epoch = 0
        self._request: Load | None = None
        self._reference: Standing | None = None
        self._puts: dict[object, Request[None]] = {}
        self._notes: list[str] = []
        threading.Thread(target=self._watch, name="fleet", daemon=True).start()

    @property
    def usable(self) -> int:
        """Actors that measure or could."""
        with self._changed:
            return sum(member.state in (State.IDLE, State.BUSY) for member in self._members)

    def capacity(self) -> int:
        """Actors that the living nodes have room for."""
        room = sum(self._needs.room(node["Resources"]) for node in ray.nodes() if node["Alive"])
        return room if self._most is None else min(room, self._most)

    def take_notes(self) -> tuple[str, ...]:
        """What a person should know since the last time, e.g. who was excluded."""
        with self._changed:
            notes, self._notes = tuple(self._notes), []
        return notes

    # ── loading ──────────────────────────────────────────────────────────────────────────────
    def load(self, request: Load, progress: Progress) -> Wire:
        """Loads the model on every actor and keeps those that agree.

        Raises ``device_unavailable`` where no actor finds a place, and what the actors' engines do.
        """
        began = time.perf_counter()
        inbox: queue.SimpleQueue[tuple[Member, tuple[Any, ...]]] = queue.SimpleQueue()
        with self._changed:
            self._epoch += 1
            self._request, self._reference = request, None
            self._grow()
            if not self._members:
                raise SparkablateError("device_unavailable", f"no node of the cluster has {self._needs} free")
            members = list(self._members)
            for member in members:
                member.state, member.standing, member.failure = State.COMING, None, None
                self._start_preparing(member, lambda *values, member=member: inbox.put((member, values)))
        self._await(members, inbox, progress)
        with self._changed:
            reference = self._reference = self._choose(members)
            if not reference.loaded["reused"]:
                self._puts.clear()
            for member in members:
                if member.standing is not None:
                    self._admit(member)
            self._changed.notify_all()
        excluded = self.take_notes()
        loaded = reference.loaded
        return {
            **loaded,
            "notices": [*loaded["notices"], *excluded],
            "seconds": time.perf_counter() - began,
        }

    def _await(
        self,
        members: list[Member],
        inbox: queue.SimpleQueue[tuple[Member, tuple[Any, ...]]],
        progress: Progress,
    ) -> None:
        """Until every actor that has a place has loaded, failed, or was given up."""
        deadline = time.monotonic() + ABSENCE_LIMIT_S
        lead: Member | None = None
        while True:
            with self._changed:
                coming = [m for m in members if m.standing is None and m.failure is None]
                some_loaded = any(m.standing is not None for m in members)
            if not coming:
                return
            if some_loaded:
                deadline = min(deadline, time.monotonic() + PLACE_LIMIT_S)
            full = len(members) - len(coming) >= self.capacity()  # of a dead node's actors, none has a place
            if (full or time.monotonic() > deadline) and not any(m.place for m in coming):
                return
            try:
                member, values = inbox.get(timeout=LOOK_EVERY_S / 2)
            except queue.Empty:
                continue
            lead = lead or member
            if member is lead:
                progress(*values)

    def _choose(self, members: list[Member]) -> Standing:
        """The largest group that agrees; among equal ones the one with an actor on this machine, then the
        first. Raises what kept every actor from loading."""
        groups: dict[str, list[Member]] = {}
        for member in members:
            if member.standing is not None:
                key = json.dumps(member.standing.facts(), sort_keys=True)
                groups.setdefault(key, []).append(member)
        if not groups:
            for member in members:
                if member.failure is not None:
                    raise member.failure
            raise SparkablateError("device_unavailable", f"no node of the cluster has {self._needs} free")

        def rank(group: list[Member]) -> tuple[int, bool, int]:
            at_home = any(member.place is not None and member.place.node == self._home for member in group)
            return len(group), at_home, -group[0].number

        first = max(groups.values(), key=rank)[0]
        assert first.standing is not None
        return first.standing

    def _start_preparing(self, member: Member, progress: Callable[..., Any]) -> None:
        arguments = (member, self._epoch, progress)
        threading.Thread(target=self._prepare, args=arguments, daemon=True).start()

    def _prepare(self, member: Member, epoch: int, progress: Callable[..., Any]) -> None:
        """Waits until Ray has placed the actor, and loads the model there; its own thread."""
        deaths = 0
        while self._epoch == epoch:
            try:
                member.place = ray.get(member.handle.where.remote())
                assert self._request is not None
                loaded = self.call(member, self._request, Caller(progress))
                standing = Standing(loaded, self.call(member, Baseline()))
                self._arrive(member, epoch, standing)
                return
            except ActorUnavailableError as error:
                if member.place is not None:
                    deaths += 1
                    member.place = None
                if deaths >= MOST_DEATHS_AT_LOAD:
                    self._give_up(member, epoch, member.died(error))
                    return
                time.sleep(LOOK_EVERY_S / 4)
            except SparkablateError as error:
                self._give_up(member, epoch, error)
                return
            except RayError as error:  # it can never start: no sparkablate on its node, for one
                self._give_up(member, epoch, member.died(error))
                return

    def _arrive(self, member: Member, epoch: int, standing: Standing) -> None:
        """A loaded actor is given what the others were given meanwhile, and admitted if it agrees."""
        given: set[object] = set()
        while True:
            with self._changed:
                if self._epoch != epoch:
                    return
                missing = [key for key in self._puts if key not in given]
                if self._reference is None or not missing:
                    member.standing = standing
                    if self._reference is not None:
                        self._admit(member)
                    self._changed.notify_all()
                    return
                puts = {key: self._puts[key] for key in missing}
            for key, request in puts.items():
                self.call(member, request)
                given.add(key)

    def _admit(self, member: Member) -> None:
        assert self._reference is not None
        assert member.standing is not None
        if difference := member.standing.differences(self._reference):
            member.state = State.EXCLUDED
            self._note(f"{member} is excluded, since it would not compute the same numbers: {difference}")
        else:
            member.state = State.IDLE

    def _give_up(self, member: Member, epoch: int, error: SparkablateError) -> None:
        with self._changed:
            if self._epoch == epoch:
                member.failure, member.state = error, State.EXCLUDED
                self._note(f"{member} is excluded, since it could not load the model: {error.message}")
                self._changed.notify_all()

    def _note(self, text: str) -> None:
        print(f"sparkablate worker: {text}", file=sys.stderr, flush=True)
        self._notes.append(text[:4096])

    # ── working ──────────────────────────────────────────────────────────────────────────────
    def put(self, key: object, request: Request[None]) -> None:
        """Gives every actor something to keep, also those that come later."""
        with self._changed:
            self._puts[key] = request
            present = [member for member in self._members if member.state is State.IDLE]
        for member in present:
            try:
                self.call(member, request)
            except RayActorError:
                self.lost(member)

    def take(self, cancelled: Callable[[], bool], waiting: Callable[[], None]) -> Member | None:
        """An actor for one task, to be given back or reported lost; None where it was cancelled before.

        Raises ``device_unavailable`` where there has been no actor for ``ABSENCE_LIMIT_S``.
        """
        absent_since = time.monotonic()
        with self._changed:
            while True:
                for member in self._members:
                    if member.state is State.IDLE:
                        member.state = State.BUSY
                        return member
                if cancelled():
                    return None
                if any(member.state is State.BUSY for member in self._members):
                    absent_since = time.monotonic()
                elif time.monotonic() - absent_since > ABSENCE_LIMIT_S:
                    raise SparkablateError(
                        "device_unavailable", f"for {ABSENCE_LIMIT_S:g} s the cluster had no actor to work"
                    )
                waiting()
                self._changed.wait(LOOK_EVERY_S)

    def give_back(self, member: Member) -> None:
        with self._changed:
            if member.state is State.BUSY:
                member.state = State.IDLE
            self._changed.notify_all()

    def lost(self, member: Member) -> None:
        """The actor died: Ray starts it again, and it loads the model again."""
        with self._changed:
            member.state, member.place, member.standing = State.COMING, None, None
            self._start_preparing(member, lambda *_: None)

    def call(self, member: Member, request: Request[Answer], caller: Caller = NOBODY) -> Answer:
        """Asks the actor's engine. Raises what that raised, and ``RayActorError`` where the actor died."""
        task = next(self._tasks)
        stream = member.run.remote(task, request)
        told = ended = False
        try:
            for group in stream:
                for name, values in ray.get(group):
                    if name == "answer":
                        ended = True
                        return cast(Answer, values[0])
                    if name == "failure":
                        ended = True
                        raise SparkablateError(*values)
                    getattr(caller, name)(*values)
                if not told and caller.cancelled():
                    told = True
                    member.handle.cancel.remote(task)
        finally:
            if not ended:
                member.handle.cancel.remote(task)
        raise SparkablateError("internal", f"{member}: {type(request).__name__} ended without an answer")

    # ── nodes that come ──────────────────────────────────────────────────────────────────────
    def _grow(self) -> list[Member]:
        """Actors for room that has none yet; Ray itself moves those of a dead node."""
        options = {"num_cpus": self._needs.num_cpus, "num_gpus": self._needs.num_gpus}
        new = []
        for number in range(len(self._members) + 1, self.capacity() + 1):
            handle = _REMOTE.options(**options).remote(self._make_engine)
            new.append(Member(number, handle, handle.run.options(num_returns="streaming")))
        self._members += new
        return new

    def _watch(self) -> None:
        while True:
            time.sleep(LOOK_EVERY_S)
            with self._changed:
                if self._reference is None:
                    continue
                try:
                    new = self._grow()
                except RayError:
                    if not ray.is_initialized():
                        return  # the worker ends
                    raise
                for member in new:
                    self._start_preparing(member, lambda *_: None)


# Ray's annotations know no concurrency_groups. Nobody looks at its record of every task.
_REMOTE = cast(Any, ray.remote)(
    max_restarts=-1, max_task_retries=0, concurrency_groups={"control": 1}, enable_task_events=False
)(Actor)
