"""The Ray engine: the local engine on every actor of a cluster, to the server one engine with many slots."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import ray
from ray.exceptions import RayActorError

from sparkablate.engines.local import INSPECT_SHAPE, Generation, LocalEngine, Measurement
from sparkablate.engines.ray.fleet import Callbacks, Fleet
from sparkablate.engines.ray.member import Member, Needs, actor_died
from sparkablate.errors import SparkablateError
from sparkablate.measure.items import EncodedItem
from sparkablate.measure.slice import EvaluateSummary
from sparkablate.progress import Progress


class RayEngine:
    """Answers what ``LocalEngine`` does, but for bakes. Slices may be evaluated beside each other; any other
    request has the cluster alone."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._name: str | None = None

    @property
    def slots(self) -> int:
        """Actors that measure; before the first load, those that the cluster has room for."""
        return max(1, self._fleet.usable or self._fleet.capacity())

    @property
    def loaded(self) -> str | None:
        return self._name

    def load(
        self,
        model: dict[str, Any],
        seq_len: int,
        batch_size: int,
        progress: Progress,
        may_offload: bool = False,
    ) -> dict[str, Any]:
        """Raises what ``LocalEngine.load`` and ``Fleet.load`` do, ``usage`` for what is to be baked."""
        if may_offload:
            raise SparkablateError("usage", "the Ray engine does not bake: use a worker of --engine local")
        self._name = None
        request = {"model": model, "seq_len": seq_len, "batch_size": batch_size}
        loaded = self._fleet.load(request, progress)
        self._name = str(model["name"])
        return loaded

    def inspect(self, model: dict[str, Any], meta: bool, progress: Progress) -> dict[str, Any]:
        if meta:
            return LocalEngine().inspect(model, meta, progress)
        batch_size, seq_len = INSPECT_SHAPE
        loaded = self.load(model, seq_len, batch_size, progress)
        return {key: loaded[key] for key in ("model_map", "self_test", "notices")}

    def tokenize(
        self, text: str | None, dataset: dict[str, Any] | None, max_tokens: int, progress: Progress
    ) -> tuple[np.ndarray, bool, list[str]]:
        arguments = {"text": text, "dataset": dataset, "max_tokens": max_tokens}
        return self._on_one("tokenize", arguments, {"progress": progress})

    def tokenize_task(
        self, items: list[dict[str, str]], name: str, max_tokens: int, progress: Progress
    ) -> tuple[list[EncodedItem], list[str]]:
        arguments = {"items": items, "name": name, "max_tokens": max_tokens}
        return self._on_one("tokenize_task", arguments, {"progress": progress})

    def token_bytes(self, ids: np.ndarray) -> list[bytes]:
        return self._on_one("token_bytes", {"ids": ids}, {})

    def calibrate(
        self, rows: Sequence[np.ndarray], batch_size: int, sites: list[dict[str, Any]], progress: Progress
    ) -> tuple[list[dict[str, Any]], np.ndarray]:
        arguments = {"rows": rows, "batch_size": batch_size, "sites": sites}
        return self._on_one("calibrate", arguments, {"progress": progress})

    def put_means(self, sha256: str, sites: list[dict[str, Any]], values: np.ndarray) -> None:
        self._need()
        self._fleet.put(f"means {sha256}", "put_means", {"sha256": sha256, "sites": sites, "values": values})

    def put_direction(self, sha256: str, vector: np.ndarray, norm: float) -> None:
        self._need()
        arguments = {"sha256": sha256, "vector": vector, "norm": norm}
        self._fleet.put(f"direction {sha256}", "put_direction", arguments)

    def evaluate(
        self,
        ids: np.ndarray,
        conditions: list[dict[str, Any]],
        metrics: list[str],
        means_sha256: str | None,
        on_measurement: Callable[[Measurement], None],
        cancelled: Callable[[], bool],
        progress: Progress,
        answers: list[dict[str, Any]] | None = None,
        per_token: bool = False,
        sources: Mapping[str, np.ndarray] | None = None,
    ) -> EvaluateSummary:
        """One slice on the first actor that is free. Raises ``actor_died`` where it is lost with it."""
        arguments = {
            "ids": ids,
            "conditions": conditions,
            "metrics": metrics,
            "means_sha256": means_sha256,
            "answers": answers,
            "per_token": per_token,
            "sources": sources,
        }
        callbacks: Callbacks = {
            "on_measurement": on_measurement,
            "cancelled": cancelled,
            "progress": progress,
        }
        waiting = functools.partial(progress, "evaluate", 0.0, float(len(conditions)), "conditions")
        member = self._take(cancelled, waiting)
        if member is None:
            return EvaluateSummary(measured=0, failed=0, cancelled=True, seconds=0.0)
        summary: EvaluateSummary = self._call(member, "evaluate", arguments, callbacks)
        return dataclasses.replace(summary, notices=self._fleet.take_notes())

    def generate(
        self,
        prompts: list[str],
        conditions: list[dict[str, Any]],
        max_new_tokens: int,
        template_date: str | None,
        means_sha256: str | None,
        on_generation: Callable[[Generation], None],
        cancelled: Callable[[], bool],
        progress: Progress,
    ) -> dict[str, Any]:
        arguments = {
            "prompts": prompts,
            "conditions": conditions,
            "max_new_tokens": max_new_tokens,
            "template_date": template_date,
            "means_sha256": means_sha256,
        }
        callbacks: Callbacks = {"on_generation": on_generation, "cancelled": cancelled, "progress": progress}
        return self._on_one("generate", arguments, callbacks)

    def find_direction(
        self,
        positive: list[str],
        negative: list[str],
        options: dict[str, Any],
        cancelled: Callable[[], bool],
        progress: Progress,
    ) -> tuple[dict[str, Any], np.ndarray]:
        arguments = {"positive": positive, "negative": negative, "options": options}
        callbacks: Callbacks = {"cancelled": cancelled, "progress": progress}
        return self._on_one("find_direction", arguments, callbacks)

    def check_bake(
        self,
        model: dict[str, Any],
        condition: dict[str, Any],
        out: str,
        dtype: str,
        prune_layers: bool,
        force: bool,
    ) -> None:
        """Nothing is loaded for a bake."""
        raise SparkablateError("usage", "the Ray engine does not bake: use a worker of --engine local")

    def bake(self, *_: Any, **__: Any) -> dict[str, Any]:
        """A model that is to be baked is refused at its load; this one was loaded for something else."""
        raise SparkablateError("usage", "the Ray engine does not bake: use a worker of --engine local")

    def _need(self) -> None:
        if self._name is None:
            raise SparkablateError("session_lost", "this worker has no model loaded")

    def _take(self, cancelled: Callable[[], bool], waiting: Callable[[], None]) -> Member | None:
        self._need()
        return self._fleet.take(lambda: not cancelled(), waiting)

    def _on_one(self, method: str, arguments: dict[str, Any], callbacks: Callbacks) -> Any:
        member = self._take(lambda: False, lambda: None)
        assert member is not None
        return self._call(member, method, arguments, callbacks)

    def _call(self, member: Member, method: str, arguments: dict[str, Any], callbacks: Callbacks) -> Any:
        try:
            result = self._fleet.call(member, method, arguments, callbacks)
        except RayActorError as error:
            died = actor_died(member, error)
            self._fleet.lost(member)
            raise died from None
        except BaseException:
            self._fleet.give_back(member)
            raise
        self._fleet.give_back(member)
        return result


def start(num_cpus: float | None, actors: int | None) -> RayEngine:
    """The engine of the cluster that this process is connected to: an actor a GPU, or ``num_cpus`` each where
    there is none; at most so many ``actors``. Raises ``usage`` where neither says how large an actor is."""
    gpus = ray.cluster_resources().get("GPU", 0) >= 1
    if not gpus and num_cpus is None:
        raise SparkablateError(
            "usage",
            "this cluster has no GPU: --num-cpus says how many CPUs each actor gets, model.threads how "
            "many threads it computes with",
        )
    needs = Needs(num_cpus=1.0 if num_cpus is None else num_cpus, num_gpus=1.0 if gpus else 0.0)
    return RayEngine(Fleet(LocalEngine, needs, actors))
