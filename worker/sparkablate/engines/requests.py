"""What an engine can be asked for, and by whom: a value a request, which crosses processes as it is.

``server/handlers.py`` makes the values of what comes over the wire. What their fields mean, and what stands
in a ``Wire`` that is answered, is in src/protocol/messages.ts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar

import numpy as np

from sparkablate.directions.on_texts import Search
from sparkablate.measure.items import EncodedItem
from sparkablate.measure.slice import EvaluateSummary
from sparkablate.progress import Progress, silent

#: Of a request: what is answered.
Answer = TypeVar("Answer")
#: An object of the wire.
Wire = dict[str, Any]


@dataclass(frozen=True)
class Caller:
    """Who asked. ``report`` is given each Measurement, SiteSums or Generation as it is
    done; ``cancelled``: whether the
    rest is wanted no longer."""

    progress: Progress = silent
    report: Callable[[Any], None] = lambda done: None
    cancelled: Callable[[], bool] = lambda: False


NOBODY = Caller()


@dataclass(frozen=True)
class Request(Generic[Answer]):
    """``Answer``: what an engine answers."""


class Engine(Protocol):
    """What a worker measures with."""

    @property
    def slots(self) -> int:
        """How many slices it measures beside each other."""

    @property
    def loaded(self) -> str | None:
        """Name of the loaded model."""

    def state(self) -> Wire | None:
        """The part of the wire's ``origin`` that is the engine's; None where it is not one process."""

    def answer(self, request: Request[Answer], caller: Caller = NOBODY) -> Answer:
        """Raises what the request says, and ``session_lost`` where it needs a model and none is loaded."""


@dataclass(frozen=True)
class Load(Request[Wire]):
    """Loads, fingerprints and checks a model in the shape it will be run in; one that is there is kept.
    Raises what ``open_model`` and ``locate`` do; ``config_invalid`` beyond the model's positions."""

    model: Wire
    seq_len: int
    batch_size: int
    may_offload: bool = False


@dataclass(frozen=True)
class Inspect(Request[Wire]):
    """The model's map; ``meta``: from its configuration alone, without weights and self-test."""

    model: Wire
    meta: bool


@dataclass(frozen=True)
class Baseline(Request[str]):
    """Sha256 of the loaded model's losses on a fixed batch of the run's shape: equal where two engines
    compute the same bits."""


@dataclass(frozen=True)
class Tokenize(Request[tuple[np.ndarray, bool, list[str]]]):
    """Ids (int32 [tokens]) of a text or a dataset, whether there is more of it (``max_tokens`` cut it), and
    what a person should know of it."""

    text: str | None
    dataset: Wire | None
    max_tokens: int


@dataclass(frozen=True)
class TokenizeTask(Request[tuple[list[EncodedItem], list[str]]]):
    """A task's items as ids, and what a person should know of them. Raises what ``encode_items`` does."""

    items: list[dict[str, str]]
    name: str
    max_tokens: int


@dataclass(frozen=True)
class TokenBytes(Request[list[bytes]]):
    """What tokens (int32 [tokens]) stand for. Raises what ``sparkablate.text.token_bytes`` does."""

    ids: np.ndarray


@dataclass(frozen=True)
class Calibrate(Request[tuple[list[Wire], np.ndarray]]):
    """Means of the sites over ``rows`` (each int32 [pos]): the sites with their widths, and the float32
    means one after the other."""

    rows: Sequence[np.ndarray]
    batch_size: int
    sites: list[Wire]


@dataclass(frozen=True)
class PutMeans(Request[None]):
    """Keeps means (float32, one after the other) for conditions that name them by ``sha256``."""

    sha256: str
    sites: list[Wire]
    values: np.ndarray


@dataclass(frozen=True)
class PutDirection(Request[None]):
    """Keeps a unit vector (float32 [d_model]) for interventions that name it by ``sha256``."""

    sha256: str
    vector: np.ndarray
    norm: float


@dataclass(frozen=True)
class Evaluate(Request[EvaluateSummary]):
    """Measures every condition on ``ids`` (int32 [blocks, pos]), one batch, and reports each as it is done.
    ``answers``: of a task's items, which ``ids`` then are, padded. ``donors``: mode → the tokens whose
    activations it puts in, row i into row i; same shape as ``ids``. ``given``: edits that act in every
    condition and in the baseline.

    Raises ``means_missing`` where means or a direction were not put, ``baseline_changed`` where the unedited
    model is no longer what it was. What concerns one condition alone is in its ``Measurement.error``."""

    ids: np.ndarray
    conditions: list[Wire]
    metrics: list[str]
    means_sha256: str | None = None
    answers: list[Wire] | None = None
    per_token: bool = False
    donors: Mapping[str, np.ndarray] = field(default_factory=dict)
    given: list[Wire] = field(default_factory=list)


@dataclass(frozen=True)
class Attribute(Request[np.ndarray]):
    """First-order effects of every condition on ``ids``, one batch: float64 [conditions, blocks]. Reports a
    ``SiteSums`` for each layer of each of ``sites``. The other fields are those of ``Evaluate``.

    Raises as ``Evaluate``, and what ``Attribution.run`` does: one condition that cannot be attributed refuses
    them all."""

    ids: np.ndarray
    conditions: list[Wire]
    sites: list[Wire] = field(default_factory=list)
    metric: str = "nll"
    means_sha256: str | None = None
    answers: list[Wire] | None = None
    donors: Mapping[str, np.ndarray] = field(default_factory=dict)
    given: list[Wire] = field(default_factory=list)


@dataclass(frozen=True)
class Generate(Request[Wire]):
    """Continues every prompt greedily under every condition, and reports each text as it is done. Raises as
    ``Evaluate``; what concerns one text alone is in ``Generation.error``."""

    prompts: list[str]
    conditions: list[Wire]
    max_new_tokens: int
    template_date: str | None = None
    means_sha256: str | None = None


@dataclass(frozen=True)
class FindDirection(Search, Request[tuple[Wire, np.ndarray]]):
    """The candidates, and their vectors, float32 [candidates, d_model]. Raises as ``find_on_texts``."""


@dataclass(frozen=True)
class CheckBake(Request[Wire]):
    """The form that is written. Raises what ``Bake`` would, as far as the configuration alone can tell."""

    model: Wire
    condition: Wire
    out: str
    dtype: str
    prune_layers: bool
    force: bool
    prune_kv_groups: bool = False
    prune_neurons: bool = False


@dataclass(frozen=True)
class Bake(Request[Wire]):
    """Bakes one condition of the loaded model; then no model is loaded, since the check needs the memory.
    Raises ``means_missing`` as ``Evaluate``, ``interrupted``, and what ``sparkablate.bake.bake`` does."""

    condition: Wire
    out: str
    dtype: str
    prune_layers: bool
    force: bool
    prune_kv_groups: bool = False
    prune_neurons: bool = False
    means_sha256: str | None = None
    timed: bool = False
    card: Wire | None = None


#: On the wire under these names, without a payload either way: server/handlers.py needs no more of them.
PLAIN: Mapping[str, type[Request[Wire]] | type[Request[None]]] = {
    "load": Load,
    "inspect": Inspect,
    "check_bake": CheckBake,
    "bake": Bake,
}
