"""★ Table: mode → function of a tensor.

Every function returns a new tensor and never looks at the values it replaces, so that a NaN does
not survive a zero.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from sparkablate import catalog
from sparkablate.catalog import complete


def zero(values: Tensor, given: Tensor | None) -> Tensor:
    return torch.zeros_like(values)


def replace(values: Tensor, given: Tensor | None) -> Tensor:
    """`given`, in the values' dtype: the site's mean [width], or its donor [..., width]."""
    assert given is not None
    return given.expand_as(values).clone()


@dataclass(frozen=True)
class Mode:
    """What becomes of the edited values [..., width], given what is needed for it, if anything.

    That is the site's mean over the calibration tokens [width], or a donor: its activation at the same
    positions of another forward pass [..., width].
    """

    function: Callable[[Tensor, Tensor | None], Tensor]
    needs: Literal["mean", "donor"] | None = None


FUNCTIONS: Mapping[str, Callable[[Tensor, Tensor | None], Tensor]] = {
    "zero": zero,
    "mean": replace,
    # The same edit; they differ in where the donor comes from: drawn at random, or aligned by the user.
    "resample": replace,
    "patch": replace,
}
complete("FUNCTIONS", FUNCTIONS, catalog.MODES)
MODES: Mapping[str, Mode] = {name: Mode(FUNCTIONS[name], row.needs) for name, row in catalog.MODES.items()}

#: The mode of a specification that names none.
DEFAULT_MODE = "zero"

#: The mode of `layer`: the layer's output is its input. Not a function of one tensor: see edits/bypass.py.
SKIP = "skip"


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
