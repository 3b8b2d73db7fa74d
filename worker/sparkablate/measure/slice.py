"""One slice: the conditions of one batch of blocks, measured in the order of the walk."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sparkablate.anatomy.sites import Stage
from sparkablate.edits.given import between, joined
from sparkablate.edits.hooks import editing
from sparkablate.edits.rounding import one_ulp
from sparkablate.errors import SparkablateError
from sparkablate.manager import AblationManager
from sparkablate.measure.cost import Cost, measured_nll
from sparkablate.measure.donors import Donors
from sparkablate.measure.failures import condition_failure
from sparkablate.measure.given import applied
from sparkablate.measure.items import Answers
from sparkablate.measure.likelihood import Likelihood, block_sums
from sparkablate.measure.metrics import Metric, metrics_of
from sparkablate.measure.walk import Start, Walk, first_edit
from sparkablate.progress import Progress
from sparkablate.specs import EMBEDDING, Spec, first_layer, from_wire, layers_of, validate

#: Flag of a condition that ran out of memory and was measured block by block.
DEGRADED = "degraded"


@dataclass(frozen=True)
class Measurement:
    """One condition on the slice's blocks. ``sums``: float64 [columns, blocks], over ``tokens`` predicted
    tokens a block; with a task, the items' own values, and ``tokens`` is 1. Empty where ``error`` is set."""

    condition: str
    columns: tuple[str, ...]
    sums: np.ndarray
    tokens: int
    seconds: float
    flags: tuple[str, ...] = ()
    error: SparkablateError | None = None
    #: float32 [blocks, pos - 1]: the NLL at every predicted token, where it was asked for; 0 at what is not
    #: measured.
    per_token: np.ndarray | None = None


@dataclass(frozen=True)
class EvaluateSummary:
    measured: int
    failed: int
    cancelled: bool
    seconds: float
    #: What a person should know, e.g. an actor that was excluded.
    notices: tuple[str, ...] = ()


@dataclass(frozen=True)
class Canary:
    """A baseline measured when the model was loaded: ids [batch, pos] → NLL [batch, pos - 1]; its cost."""

    ids: Tensor
    nll: Tensor
    cost: Cost

    @classmethod
    def measure(cls, likelihood: Likelihood, ids: Tensor) -> Canary:
        return cls(ids, *measured_nll(likelihood, ids))

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.nll.cpu().numpy().tobytes()).hexdigest()

    def check(self, likelihood: Likelihood, when: str = "after a failed condition") -> None:
        """Raises ``baseline_changed`` unless the model still computes exactly what it did."""
        again = Canary.measure(likelihood, self.ids)
        if not torch.equal(again.nll, self.nll):
            raise SparkablateError(
                "baseline_changed",
                f"{when} the unedited model no longer computes the same bits",
            )


@dataclass(frozen=True)
class _Planned:
    """A condition, read: where it leaves the baseline (None: it is the baseline), or why it is refused."""

    id: str
    #: All that acts, what is given included.
    specs: tuple[Spec, ...] = ()
    #: What of it acts from ``start`` on.
    above: tuple[Spec, ...] = ()
    start: Start | None = None
    error: SparkablateError | None = None
    #: Layer and seed of a null condition.
    nudge: tuple[int, int] | None = None


@dataclass
class SliceRun:
    """``walk`` may come from the slice before it: the same blocks go on from the layer where it stopped, and
    so may ``donors``.

    ``answers``: of the walk's rows, where they are a task's items. ``per_token``: measurements carry the
    NLL at every predicted token.
    """

    manager: AblationManager
    walk: Walk
    donors: Donors
    canary: Canary
    metrics: list[str]
    progress: Progress
    answers: Answers | None = None
    per_token: bool = False
    _metrics: list[Metric] = field(init=False)
    _columns: tuple[str, ...] = field(init=False)
    _baseline: Tensor | None = field(init=False, default=None)
    _upcoming: Sequence[_Planned] = field(init=False, default=())

    def __post_init__(self) -> None:
        self._metrics = metrics_of(self.metrics)
        unmet = [
            metric.columns[0] for metric in self._metrics if metric.needs == "wrong" and self._wrong is None
        ]
        if unmet:
            raise SparkablateError("config_invalid", f"{unmet[0]} needs a task with wrong answers")
        if self.per_token and "nll" not in self.metrics:
            raise SparkablateError("invalid_message", "values a token are the metric nll's")
        self._columns = tuple(column for metric in self._metrics for column in metric.columns)

    def run(
        self,
        conditions: Sequence[dict[str, Any]],
        on_measurement: Callable[[Measurement], None],
        cancelled: Callable[[], bool],
    ) -> EvaluateSummary:
        """Measures every condition; one that fails is reported as such, and the others go on.

        Raises ``baseline_changed`` where the model does not compute the same after a failure.
        """
        began = time.perf_counter()
        planned = sorted((self._plan(condition) for condition in conditions), key=self._order)
        measured = failed = 0
        for done, condition in enumerate(planned):
            if cancelled():
                return EvaluateSummary(measured, failed, True, time.perf_counter() - began)
            self._upcoming = planned[done + 1 :]
            measurement = self._measure(condition)
            on_measurement(measurement)
            measured += measurement.error is None
            failed += measurement.error is not None
            self.progress("evaluate", done + 1, len(planned), "conditions")
        return EvaluateSummary(measured, failed, False, time.perf_counter() - began)

    def _plan(self, condition: dict[str, Any]) -> _Planned:
        nudge = condition.get("nudge")
        if nudge is not None:
            layer = nudge["layer"]
            if layer >= self.manager.sites.n_layers:
                error = SparkablateError("config_invalid", f"{condition['id']}: there is no layer {layer}")
                return _Planned(condition["id"], error=error)
            start = Start(layer, Stage.LEFT)
            above = self._between(self._given, layer + 1)
            return _Planned(condition["id"], self._given, above, start, nudge=(layer, nudge["seed"]))
        try:
            specs = tuple(from_wire(intervention) for intervention in condition["interventions"])
            validate(specs, self.manager.sites)
            joint = joined(self._given, specs, self.manager.sites)
        except SparkablateError as error:
            return _Planned(condition["id"], error=error)
        if not specs:
            return _Planned(condition["id"], self._given)
        layer = first_layer([*specs, *joint.replaced])
        if layer == EMBEDDING:
            return _Planned(condition["id"], joint.specs, joint.specs, Start(EMBEDDING, Stage.ATTENTION))
        above = self._between(joint.specs, layer)
        # Entered below all that acts in the layer: what is given there acts again.
        here = [*(spec for spec in above if layer in layers_of(spec, self.manager.sites.n_layers))]
        return _Planned(condition["id"], joint.specs, above, first_edit(here, self.manager.sites))

    @property
    def _given(self) -> tuple[Spec, ...]:
        return () if self.walk.given is None else self.walk.given.specs

    def _between(self, specs: Sequence[Spec], layer: int) -> tuple[Spec, ...]:
        """What of the specs acts from the layer on."""
        sites = self.manager.sites
        return tuple(between(specs, layer, sites.n_layers - 1, sites))

    def _order(self, condition: _Planned) -> tuple[int, int]:
        """Up the layers; the baseline last, since it is cheapest from where the walk has come to."""
        if condition.start is None:
            return (self.manager.sites.n_layers, 0)
        return (condition.start.layer, condition.start.stage)

    def _measure(self, condition: _Planned) -> Measurement:
        began = time.perf_counter()
        flags: tuple[str, ...] = ()
        values: dict[str, Tensor] | SparkablateError
        if condition.error is not None:
            values = condition.error
        else:
            values = self._attempt(lambda: self._values(condition))
            if isinstance(values, SparkablateError):
                self._recover()
                if values.code == "out_of_memory":
                    smaller = self._attempt(lambda: self._values_by_block(condition))
                    if isinstance(smaller, SparkablateError):
                        self._recover()
                    else:
                        values, flags = smaller, (DEGRADED,)
        tokens = self.walk.ids.shape[1] - 1 if self.answers is None else 1
        seconds = time.perf_counter() - began
        if isinstance(values, SparkablateError):
            return Measurement(condition.id, self._columns, np.empty((0, 0)), tokens, seconds, flags, values)
        sums = (
            block_sums(values, self._columns)
            if self.answers is None
            else self.answers.item_values(values, self._metrics)
        )
        nll = values["nll"].cpu().numpy() if self.per_token else None
        return Measurement(
            condition.id, self._columns, sums, tokens, time.perf_counter() - began, flags, per_token=nll
        )

    def _attempt(self, measure: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor] | SparkablateError:
        """The values, or the failure."""
        try:
            values = measure()
        except Exception as error:  # a hook may raise anything; it is reported with its traceback
            return condition_failure(error)
        bad = [column for column, value in values.items() if not bool(torch.isfinite(value).all())]
        if bad:
            return SparkablateError("nonfinite_logits", f"{', '.join(bad)} is NaN or infinite at some token")
        return values

    def _values(self, condition: _Planned) -> dict[str, Tensor]:
        likelihood, ids = self.walk.likelihood, self.walk.ids
        # What a condition replaces of the given edits still acts on the way up to it.
        self.donors.provide([*self._given, *condition.specs], (other.specs for other in self._upcoming))
        baseline = self._baseline_hidden()
        start = condition.start
        if start is not None:
            specs = condition.above if self.walk.enters(start) else condition.specs
            hidden = self.walk.final_hidden(start, lambda: self._edits(condition, specs))
        elif baseline is not None:
            hidden = baseline
        elif self.walk.state is not None and self.walk.entries.walkable:
            at = self.walk.state.index
            above = self._between(self._given, at + 1)
            hidden = self.walk.final_hidden(Start(at, Stage.LEFT), lambda: applied(self.manager, above))
        else:
            with applied(self.manager, self._given):
                hidden = likelihood.final_hidden(ids)
        return self._scored(likelihood.measure(hidden, ids, self._metrics, baseline, self._wrong))

    @property
    def _wrong(self) -> Tensor | None:
        return None if self.answers is None else self.answers.wrong

    def _scored(self, values: dict[str, Tensor]) -> dict[str, Tensor]:
        return values if self.answers is None else self.answers.only(values)

    @contextmanager
    def _edits(self, condition: _Planned, specs: Sequence[Spec]) -> Iterator[None]:
        with applied(self.manager, specs), ExitStack() as stack:
            if condition.nudge is not None:
                layer, seed = condition.nudge
                stack.enter_context(editing([(self.manager.sites.layers[layer].stream, one_ulp(seed))]))
            yield

    def _values_by_block(self, condition: _Planned) -> dict[str, Tensor]:
        """The plain pass, a block at a time: the least memory there is, but another batch shape."""
        likelihood = self.walk.likelihood
        baseline = self._baseline_hidden()
        parts: list[dict[str, Tensor]] = []
        for row in range(len(self.walk.ids)):
            ids = self.walk.ids[row : row + 1]
            self.donors.provide_row(condition.specs, row)
            with self._edits(condition, condition.specs):
                hidden = likelihood.final_hidden(ids)
            reference = None if baseline is None else baseline[row : row + 1]
            wrong = None if self._wrong is None else self._wrong[row : row + 1]
            parts.append(likelihood.measure(hidden, ids, self._metrics, reference, wrong))
            self.progress("evaluate", row + 1, len(self.walk.ids), "blocks")
        self.donors.forget()
        return self._scored({column: torch.cat([part[column] for part in parts]) for column in self._columns})

    def _baseline_hidden(self) -> Tensor | None:
        if self._baseline is None and any(metric.needs == "baseline" for metric in self._metrics):
            with applied(self.manager, self._given):
                self._baseline = self.walk.likelihood.final_hidden(self.walk.ids)
        return self._baseline

    def _recover(self) -> None:
        """Forgets what the failure may have touched, and proves that the model is what it was."""
        self.walk.state = None
        self.donors.forget()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        self.canary.check(self.walk.likelihood)
