"""The bound: multiply-adds that a plain pass and the walk have to do, counted from the model's own shapes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn

from sparkablate.anatomy.architectures import locate


@dataclass(frozen=True)
class Operations:
    """Multiply-adds a token. ``projection``: the attention's output projection; ``attention``: the rest."""

    n_layers: int
    attention: int
    projection: int
    mlp: int
    head: int

    @property
    def layer(self) -> int:
        return self.attention + self.projection + self.mlp

    @property
    def plain(self) -> int:
        return self.n_layers * self.layer + self.head

    def plain_condition(self, kind: str) -> int:
        """A skipped layer costs nothing in a plain pass either; zeroed tensors are computed first."""
        return self.plain - self.layer if kind == "layer" else self.plain

    def walked_condition(self, kind: str, layer: int) -> int:
        above = (self.n_layers - 1 - layer) * self.layer + self.head
        return above + {"head": self.projection + self.mlp, "mlp": self.mlp, "layer": 0}[kind]

    def bound(self, conditions: list[dict[str, Any]]) -> float:
        """How many times faster the walk can be on single-layer conditions, all of them in one batch; the
        baseline is one more on either side, and the walk's own way up is counted."""
        edits = [condition["interventions"][0] for condition in conditions]
        plain = self.plain + sum(self.plain_condition(edit["kind"]) for edit in edits)
        way_up = (max(edit["layer"] for edit in edits) + 1) * self.layer
        last = (self.n_layers - 1 - max(edit["layer"] for edit in edits)) * self.layer + self.head
        walked = way_up + last + sum(self.walked_condition(edit["kind"], edit["layer"]) for edit in edits)
        return plain / walked


def count_operations(model: Any, seq_len: int) -> Operations:
    """Counts every Linear, and the two attention products over the whole ``seq_len`` × ``seq_len`` square."""
    sites = locate(model)
    layer = sites.layers[0]
    assert layer.attention is not None
    assert layer.attention_output is not None
    assert layer.mlp is not None
    projection = _linear(layer.attention_output)
    products = 2 * seq_len * layer.n_heads * layer.d_head
    return Operations(
        n_layers=sites.n_layers,
        attention=_linear(layer.attention) - projection + products,
        projection=projection,
        mlp=_linear(layer.mlp),
        head=_linear(sites.head),
    )


def _linear(module: nn.Module) -> int:
    linears = [linear for linear in module.modules() if isinstance(linear, nn.Linear)]
    return sum(linear.in_features * linear.out_features for linear in linears)
