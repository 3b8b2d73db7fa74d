"""Which intervention has an exact weight equivalent in which architecture, and why not elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence

from sparkablate.anatomy.additions import writes_first
from sparkablate.anatomy.architectures import ARCHITECTURES, Architecture
from sparkablate.catalog import MODED_SITES, SITES, VALUE_SITES, is_own, refusal
from sparkablate.edits.functions import MODES, SKIP
from sparkablate.errors import SparkablateError
from sparkablate.specs import AblationSpec, DirectionSpec, Spec, spec_id
from sparkablate.wording import flag

AFTER_WRITE = "a norm follows the projection, so no weights give this write"
ON_STREAM = "the stream itself goes through norms here"
NO_BIAS = (
    "the projection has no bias that could hold the mean, and no key of its stock configuration adds one"
)
NO_LAYER_BELOW = "no layer below it stays whose MLP's bias could hold its constant"
EXPERTS = "several experts make this write, and no one bias can hold its mean"
EMBEDDING = "a norm follows the embedding; name the layers instead of all"
#: Sites with values of their own whose mean is one projection's to hold.
ONE_PROJECTION = tuple(site for site in VALUE_SITES if SITES[site].parts or site == "attn")
RUN_ONLY = "measure it with 'sparkablate run' instead"


def mean_refusal(row: Architecture, projections: int, experts: bool, has_bias: bool) -> str | None:
    """Why a mean does not bake; None where it does."""
    if row.no_bake:
        return row.no_bake
    if row.norm_after_write:
        return AFTER_WRITE
    if projections != 1 or experts:
        return EXPERTS
    return None if has_bias else NO_BIAS


def deleted(specs: Sequence[Spec], prune: bool) -> frozenset[int]:
    """Layers that a bake deletes."""
    skipped = {spec.layer for spec in specs if isinstance(spec, AblationSpec) and spec.kind == "layer"}
    return frozenset(skipped if prune else ())


def constant_receiver(spec: AblationSpec, pruned: Collection[int]) -> int | None:
    """The layer whose MLP's bias is to hold the constant of `spec`'s layer: itself, or of a deleted one the
    nearest below that stays; None where there is none."""
    return next((index for index in range(spec.layer, -1, -1) if index not in pruned), None)


def no_one_mlp(layer: int) -> str:
    return f"no one MLP makes a write of layer {layer}, whose bias could hold its constant"


def _mean(row: Architecture) -> str | None:
    """Like `mean_refusal`, as far as the row alone can tell: None means "where there is a bias"."""
    return mean_refusal(row, 1, False, True)


def _mlp_mean(row: Architecture) -> str | None:
    return mean_refusal(row, 1, any(made.experts for made in dict(row.outputs).get("mlp", ())), True)


def _layer_mean(row: Architecture) -> str | None:
    return row.no_bake or (ON_STREAM if row.norm_on_stream else _mlp_mean(row))


def _skip(row: Architecture) -> str | None:
    on_stream = f"{ON_STREAM}; prune the layer" if row.norm_on_stream else None
    return row.no_bake or on_stream


def _direction(row: Architecture) -> str | None:
    norms = AFTER_WRITE if row.norm_after_write else ON_STREAM if row.norm_on_stream else None
    return row.no_bake or norms


def _everywhere(row: Architecture) -> str | None:
    embedding = EMBEDDING if row.norm_after_embedding else row.no_embedding_bake or None
    return _direction(row) or embedding


def _none(row: Architecture) -> str | None:
    return row.no_bake or None


#: Column of the printed table → why it does not bake in a row (None: it does).
COLUMNS: Mapping[str, Callable[[Architecture], str | None]] = {
    f"{', '.join(MODED_SITES)} zero": _none,
    f"{', '.join(ONE_PROJECTION)} mean": _mean,
    "mlp mean": _mlp_mean,
    "layer mean": _layer_mean,
    "layer skip": _skip,
    "layer pruned": _none,
    "project_out, layers listed": _direction,
    "project_out, layers: all": _everywhere,
}


def check(specs: Sequence[Spec], row: Architecture, prune: bool) -> None:
    """Raises "bake_refused" with every reason at once. Whether a mean has a bias is known to edits.py."""
    reasons = [f"{spec_id(spec)}: {why}" for spec in specs if (why := _refusal(spec, row, prune)) is not None]
    if prune and not any(isinstance(spec, AblationSpec) and spec.kind == "layer" for spec in specs):
        reasons.append(f"{flag('prune-layers', True)}: no layer is skipped, so none can be pruned")
    if not specs:
        reasons.append("there is no intervention, so the result would be a copy")
    if reasons:
        raise SparkablateError("bake_refused", "\n".join(reasons))


def _refusal(spec: Spec, row: Architecture, prune: bool) -> str | None:
    if row.no_bake:
        return row.no_bake
    if spec.positions != "all":
        return refusal("bake", "not_first")[1]
    if isinstance(spec, DirectionSpec):
        if spec.op != "project_out":
            return f"adding to the stream would need a new bias in every layer; {RUN_ONLY}"
        if spec.at != "writes":
            return f"at: stream has no weight equivalent; bake at: writes, or {RUN_ONLY}"
        return _everywhere(row) if spec.layers == "all" else _direction(row)
    if is_own(spec.kind):
        return "no weights are known for a site of your own; measure it inside applied() instead"
    if spec.kind == "layer":
        if spec.mode != SKIP and row.norm_after_write:
            return AFTER_WRITE
        if spec.mode != SKIP and row.norm_on_stream:
            return ON_STREAM
        why = None if prune else _skip(row)
        return why and f"{why} ({flag('prune-layers', True)})"
    if MODES[spec.mode].needs == "donor":
        return refusal("bake", spec.mode)[1]
    return AFTER_WRITE if spec.mode == "mean" and row.norm_after_write else None


def table() -> list[list[str]]:
    """Rows of the printed table: model types, then yes, yes if biased, or the reason, a column each."""
    return [
        [", ".join(row.model_types) + _variant(row), *(_cell(name, row) for name in COLUMNS)]
        for row in ARCHITECTURES
    ]


def _cell(name: str, row: Architecture) -> str:
    made = {write for write, _ in row.writes}
    if name.endswith("mean") and (
        row.attention is None or (name in ("mlp mean", "layer mean") and "shared" in made)
    ):
        return "–"
    why = COLUMNS[name](row)
    if why is not None:
        return f"no: {why}"
    return "where there is a bias or a key for one" if name.endswith("mean") else "yes"


def _variant(row: Architecture) -> str:
    """Tells the rows of one model type apart."""
    if row.variant:
        return f" ({row.variant})"
    same = [other for other in ARCHITECTURES if other.model_types == row.model_types]
    if len(same) == 1:
        return ""
    if row.norm_on_stream:
        return " (norms on the stream)"
    return " (parallel)" if row.additions is writes_first else " (sequential)"
