"""Tables: mode → function of a tensor; site kind → which tensor and which of its columns.

Every function returns a new tensor and never looks at the values it replaces, so that a NaN does
not survive a zero.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from sparkablate.anatomy.sites import LayerSites, Tap


def zero(values: Tensor, given: Tensor | None) -> Tensor:
    return torch.zeros_like(values)


def replace(values: Tensor, given: Tensor | None) -> Tensor:
    """`given`, in the values' dtype: the site's mean [width], or its source [..., width]."""
    assert given is not None
    return given.expand_as(values).clone()


@dataclass(frozen=True)
class Mode:
    """What becomes of the edited values [..., width], given what is needed for it, if anything."""

    function: Callable[[Tensor, Tensor | None], Tensor]
    #: The site's mean over the calibration tokens  # [width]
    needs_mean: bool = False
    #: The site's activation at the same positions of another forward pass  # [..., width]
    needs_source: bool = False


MODES: Mapping[str, Mode] = {
    "zero": Mode(zero),
    "mean": Mode(replace, needs_mean=True),
    # The same edit; they differ in where the source comes from: drawn at random, or aligned by the user.
    "resample": Mode(replace, needs_source=True),
    "patch": Mode(replace, needs_source=True),
}

#: The mode of a specification that names none.
DEFAULT_MODE = "zero"

#: The mode of `layer`: the layer's output is its input. Not a function of one tensor: see manager.py.
SKIP = "skip"


@dataclass(frozen=True)
class SiteKind:
    """A kind of site that a mode acts on."""

    #: Which tensor of the layer; None where the layer does not have it.
    tap: Callable[[LayerSites], Tap | None]
    #: Field of the specification that lists which parts of the tensor; None: the whole tensor.
    parts: str | None
    #: Part → its query heads. Only where `parts` is set.
    heads_of: Callable[[LayerSites, int], range]
    #: How many parts there are.
    count: Callable[[LayerSites], int]
    #: Whose calibrated mean it uses.
    mean: str


def _no_heads(layer: LayerSites, part: int) -> range:
    return range(0)


KINDS: Mapping[str, SiteKind] = {
    "head": SiteKind(
        tap=lambda layer: layer.heads,
        parts="heads",
        heads_of=lambda layer, head: range(head, head + 1),
        count=lambda layer: layer.n_heads,
        mean="head",
    ),
    "kv_group": SiteKind(
        tap=lambda layer: layer.heads,
        parts="groups",
        heads_of=lambda layer, group: layer.group_heads(group),
        count=lambda layer: layer.n_kv_heads,
        mean="head",
    ),
    "attn": SiteKind(
        tap=lambda layer: layer.attention_write,
        parts=None,
        heads_of=_no_heads,
        count=lambda layer: 0,
        mean="attn",
    ),
    "mlp": SiteKind(
        tap=lambda layer: layer.mlp_write, parts=None, heads_of=_no_heads, count=lambda layer: 0, mean="mlp"
    ),
}


def project_out(basis: Tensor, coefficient: float) -> Callable[[Tensor], Tensor]:
    """x ← x − c · (x · Q) Qᵀ for an orthonormal basis Q [d_model, k], in the dtype of x.

    c = 0 returns x itself: −0.0 − (−0.0) would not have the same bits.
    """

    def edit(x: Tensor) -> Tensor:
        if coefficient == 0:
            return x
        q = basis.to(x.dtype).to(x.device)  # [d_model, k]; cast first, for devices without float64
        return x - coefficient * ((x @ q) @ q.T)

    return edit


def add(offset: Tensor) -> Callable[[Tensor], Tensor]:
    """x ← x + c·s·v̂, where `offset` [d_model] is c·s·v̂ in float64."""

    def edit(x: Tensor) -> Tensor:
        return x + offset.to(x.dtype).to(x.device)

    return edit


#: Most that a unit vector's length may be off.
UNIT_TOLERANCE = 1e-3


def orthonormal_basis(vectors: list[Tensor]) -> Tensor:
    """Basis of the vectors' span by QR in float64; vectors that lie in the span of others add nothing.

    Args: vectors, each [d_model]. Returns [d_model, rank].
    """
    stacked = torch.stack([vector.double() / vector.double().norm() for vector in vectors], dim=1)
    basis = stacked[:, :1]
    for column in range(1, stacked.shape[1]):
        candidate = torch.cat([basis, stacked[:, column : column + 1]], dim=1)
        q, r = torch.linalg.qr(candidate)
        if r[-1, -1].abs() > 1e-6:
            basis = q
    return basis
