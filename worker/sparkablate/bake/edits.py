"""Interventions → edits of checkpoint tensors, stated before anything is written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from sparkablate.anatomy.architectures import Architecture
from sparkablate.anatomy.modules import resolve
from sparkablate.anatomy.projections import Projection, linear
from sparkablate.anatomy.sites import SITE_ROWS, LayerSites, SiteMap
from sparkablate.bake.biases import StockBiases
from sparkablate.bake.checkpoint import FLOATS, Checkpoint, Entry, Names
from sparkablate.bake.cuts import Cutter, Removal, positions
from sparkablate.bake.rules import NO_LAYER_BELOW, constant_receiver, mean_refusal, no_one_mlp
from sparkablate.catalog import SITES
from sparkablate.edits.bound import edited_columns
from sparkablate.edits.functions import MODES, SKIP, orthonormal_basis
from sparkablate.edits.means import MeanKey
from sparkablate.errors import SparkablateError
from sparkablate.specs import AblationSpec, DirectionSpec, Spec, spec_id


@dataclass(frozen=True)
class Fill:
    """Every number, or those at `indices` of `axis`, becomes `value`."""

    value: float
    axis: int | None = None
    indices: tuple[int, ...] = ()

    def apply(self, tensor: Tensor) -> Tensor:
        if self.axis is None:
            return torch.full_like(tensor, self.value)
        return tensor.index_fill(self.axis, torch.tensor(self.indices), self.value)


@dataclass(frozen=True)
class Shift:
    """A bias grows by `vector` [d_model]."""

    vector: Tensor

    def apply(self, tensor: Tensor) -> Tensor:
        return tensor + self.vector


@dataclass(frozen=True)
class Assign:
    """A bias becomes `vector` [d_model]."""

    vector: Tensor

    def apply(self, tensor: Tensor) -> Tensor:
        return self.vector.expand_as(tensor).clone()


@dataclass(frozen=True)
class Keep:
    """Of `axis` these positions stay, in their order."""

    axis: int
    indices: tuple[int, ...]

    def apply(self, tensor: Tensor) -> Tensor:
        return tensor.index_select(self.axis, torch.tensor(self.indices))


@dataclass(frozen=True)
class ProjectOut:
    """x ← x − c · (x·Q)Qᵀ along `axis`, for an orthonormal basis Q [d_model, k] in float64."""

    basis: Tensor
    coefficient: float
    axis: int

    def apply(self, tensor: Tensor) -> Tensor:
        x = tensor.movedim(self.axis, -1)
        x = x - self.coefficient * ((x @ self.basis) @ self.basis.T)
        return x.movedim(-1, self.axis)


#: Acts on a float64 copy of a checkpoint tensor.
Edit = Fill | Shift | Assign | ProjectOut | Keep


@dataclass(frozen=True)
class Edits:
    """What becomes of the checkpoint's tensors.

    `by_tensor`: source tensor → edits in the order in which they act. `untied_head`: the tensor that has to
    be written besides, an unedited copy of the tied embedding, and that embedding's name; None where the head
    stays as it is. `added`: tensors that the source lacks, of zeros before they are edited: the biases that
    these `bias_keys` of its configuration switch on.
    """

    by_tensor: Mapping[str, tuple[Edit, ...]]
    untied_head: tuple[str, str] | None
    added: Mapping[str, Entry] = field(default_factory=dict)
    bias_keys: tuple[str, ...] = ()


class Planner:
    """Collects the edits of one condition on one checkpoint."""

    def __init__(
        self,
        model: nn.Module,
        sites: SiteMap,
        row: Architecture,
        checkpoint: Checkpoint,
        names: Names,
        means: Mapping[MeanKey, Tensor],
    ) -> None:
        self.model: Any = model
        self.sites = sites
        self.row = row
        self.checkpoint = checkpoint
        self.names = names
        self.means = means
        self._edits: dict[str, list[Edit]] = {}
        self._biases = StockBiases(model, sites)
        self._bias_keys: set[str] = set()
        self._added: dict[str, Entry] = {}

    def plan(self, specs: Sequence[Spec], pruned: frozenset[int], removed: Sequence[Removal] = ()) -> Edits:
        """`specs`: canonical and validated. Raises "bake_refused" where a mean has no bias to go to, or the
        stock class builds no model without what is removed.
        """
        for spec in specs:
            if isinstance(spec, AblationSpec) and spec.layer not in pruned:
                self._site(spec)
        directions = [spec for spec in specs if isinstance(spec, DirectionSpec)]
        self._directions(directions, pruned)
        for spec in specs:
            if isinstance(spec, AblationSpec) and spec.kind == "layer" and needs_mean(spec):
                self._constant(spec, directions, pruned)
        self._cut(removed)
        return Edits(
            {name: tuple(edits) for name, edits in self._edits.items()},
            self._untied(),
            self._added,
            tuple(sorted(self._bias_keys)),
        )

    # ── Sites ────────────────────────────────────────────────────────────────────────────────
    def _site(self, spec: AblationSpec) -> None:
        layer = self.sites.layers[spec.layer]
        if spec.kind == "layer":
            for write in layer.writes:
                self._zero(layer, write)
            if self.row.stream_scale is not None:
                self._add(self.names.layer(layer.index) + self.row.stream_scale, Fill(1.0))
        elif spec.parts:
            self._parts(spec, layer)
        elif MODES[spec.mode].needs == "mean":
            self._tensors(layer, spec.kind)
            _, bias = self._biased(spec_id(spec), spec.kind, self._found_projections(layer, spec.kind), layer)
            self._zero(layer, spec.kind)
            self._edits[bias] = [Assign(self._mean(spec))]
        else:
            self._zero(layer, spec.kind)

    def _cut(self, removed: Sequence[Removal]) -> None:
        cutter = Cutter(self.model, self.sites, self._bias_keys)
        for removal in removed:
            for one in cutter.shorter(removal):
                if one.layer in removal.removed:
                    name = self.names.layer(one.layer) + one.name
                    self._add(name, Keep(one.axis, tuple(positions(one, removal))))

    def _constant(
        self, spec: AblationSpec, directions: Sequence[DirectionSpec], pruned: frozenset[int]
    ) -> None:
        """A layer's constant write, less the directions that its writes lack, goes into the MLP's bias of the
        layer that stays in its place or, of a deleted one, of the nearest below that stays: after what that
        layer's own edits have made of it."""
        receiver = constant_receiver(spec, pruned)
        if receiver is None:
            raise SparkablateError("bake_refused", f"{spec_id(spec)}: {NO_LAYER_BELOW}")
        layer = self.sites.layers[receiver]
        if "mlp" not in layer.writes:
            raise SparkablateError("bake_refused", f"{spec_id(spec)}: {no_one_mlp(receiver)}")
        asked = f"{spec_id(spec)}, into layer {receiver}"
        _, bias = self._biased(asked, "mlp", self._found_projections(layer, "mlp"), layer)
        constant = self._mean(spec)
        here = [one for one in directions if spec.layer in one.indices(self.sites.n_layers)]
        if here:
            constant = ProjectOut(*_span(here), -1).apply(constant)
        ones = {write: torch.full_like(constant, 1.0 if write == "mlp" else 0.0) for write in layer.writes}
        self._add(bias, Shift(constant / layer.added(ones)))

    def _parts(self, spec: AblationSpec, layer: LayerSites) -> None:
        """Columns of the projection that reads the site's values."""
        projection = self._reader(spec, layer)
        columns = edited_columns(spec, layer).tolist()
        weight = self.names.layer(layer.index) + projection.weight
        if MODES[spec.mode].needs == "mean":
            write = SITE_ROWS[spec.kind].write
            weight, bias = self._biased(spec_id(spec), write, [projection], layer)
            read = self.checkpoint.read(weight).double().movedim(projection.input_axis, -1)
            self._add(bias, Shift(read[..., columns] @ self._mean(spec)[columns]))
        self._add(weight, Fill(0.0, projection.input_axis, tuple(columns)))

    def _reader(self, spec: AblationSpec, layer: LayerSites) -> Projection:
        row = SITE_ROWS[spec.kind]
        tap = row.tap(layer)
        assert tap is not None
        made = self._projections(layer, row.write)
        reader = next(
            projection
            for projection in made
            if resolve(layer.module, projection.weight.removesuffix(".weight")) is tap.module
        )
        stored = [one for one in made if not one.experts and self._found(layer, one.weight)]
        return stored[0] if len(stored) == 1 else reader  # names on disk may be others than in memory

    def _mean(self, spec: AblationSpec) -> Tensor:
        site = SITES[spec.kind].values
        assert site is not None
        return self.means[MeanKey(site, spec.layer, "all")].double()

    def _found_projections(self, layer: LayerSites, write: str) -> list[Projection]:
        return [p for p in self._projections(layer, write) if self._found(layer, p.weight)]

    def _biased(
        self, asked: str, write: str, projections: Sequence[Projection], layer: LayerSites
    ) -> tuple[str, str]:
        """(weight, bias) of the one projection that makes the write, the bias switched on where the stock
        configuration has a key for it; refused where there is no such bias."""
        module = resolve(layer.module, projections[0].weight.removesuffix(".weight"))
        if getattr(module, "bias", None) is None:
            self._switch_on(layer, write, projections[0])
        has_bias = bool(self._found(layer, projections[0].bias))
        reason = mean_refusal(self.row, len(projections), projections[0].experts, has_bias)
        if reason is not None:
            raise SparkablateError("bake_refused", f"{asked}: {reason}")
        prefix = self.names.layer(layer.index)
        return prefix + projections[0].weight, prefix + projections[0].bias

    def _switch_on(self, layer: LayerSites, write: str, projection: Projection) -> None:
        key = self._biases.key(layer, write, projection.bias)
        if not key or key in self._bias_keys:
            return
        self._bias_keys.add(key)
        for (index, name), shape in self._biases.added(key).items():
            tensor = self.names.layer(index) + name
            weight = self.checkpoint.entries.get(f"{tensor.removesuffix('bias')}weight")
            dtype = weight.dtype if weight is not None and weight.dtype in FLOATS else torch.float32
            self._added[tensor] = Entry("", shape, dtype)

    def _zero(self, layer: LayerSites, write: str) -> None:
        for name, _ in self._tensors(layer, write):
            self._add(name, Fill(0.0))

    # ── Directions ───────────────────────────────────────────────────────────────────────────
    def _directions(self, specs: Sequence[DirectionSpec], pruned: frozenset[int]) -> None:
        for layer in self.sites.layers:
            here = [spec for spec in specs if layer.index in spec.indices(self.sites.n_layers)]
            if not here or layer.index in pruned:
                continue
            basis, coefficient = _span(here)
            for write in layer.writes:
                for name, axis in self._tensors(layer, write):
                    self._add(name, ProjectOut(basis, coefficient, axis))
        everywhere = [spec for spec in specs if spec.edits_embedding]
        if everywhere:
            basis, coefficient = _span(everywhere)
            for name, axis in self._embedding_tensors():
                self._add(name, ProjectOut(basis, coefficient, axis))

    def _embedding_tensors(self) -> list[tuple[str, int]]:
        found = []
        for tap in self.sites.embedding:
            module = tap.path.removeprefix(f"{self.sites.stack_path}.")
            name = f"{self.names.stack}{module}.weight"
            if name not in self.checkpoint.entries and self._is_tied():
                name = self.names.head  # a tied pair may be stored under the head's name alone
            self._require(name)
            found.append((name, -1 if isinstance(tap.module, nn.Embedding) else -2))
        return found

    def _untied(self) -> tuple[str, str] | None:
        if not self._is_tied():
            return None
        name = self._embedding_name()
        edited = name if name in self.checkpoint.entries else self.names.head
        return (self.names.head, edited) if edited in self._edits else None

    def _is_tied(self) -> bool:
        head = self.model.get_output_embeddings()
        embedding = self.model.get_input_embeddings()
        if head is None or embedding is None or head.weight.device.type != "meta":
            return head is not None and embedding is not None and head.weight is embedding.weight
        # Offloaded, both have a placeholder of their own: the model says which names are one tensor, and
        # files that hold two different ones overrule it.
        name = next(name for name, module in self.model.named_modules() if module is head)
        other = next(name for name, module in self.model.named_modules() if module is embedding)
        tied = self.model.all_tied_weights_keys
        if tied.get(f"{name}.weight") != f"{other}.weight":
            return False
        stored = [key for key in (self.names.head, self._embedding_name()) if key in self.checkpoint.entries]
        return len(stored) < 2 or torch.equal(*(self.checkpoint.read(key) for key in stored))

    def _embedding_name(self) -> str:
        """The input embedding's tensor."""
        embedding = self.model.get_input_embeddings()
        module = next(name for name, found in self.sites.stack.named_modules() if found is embedding)
        return f"{self.names.stack}{module}.weight"

    # ── Names ────────────────────────────────────────────────────────────────────────────────
    def _projections(self, layer: LayerSites, write: str) -> tuple[Projection, ...]:
        if write == "attn" and layer.heads is not None:
            axis = -1 if hasattr(layer.attention_output, "nx") else -2
            return (linear(self.row.attention_output, axis),)
        return dict(self.row.outputs)[write]

    def _tensors(self, layer: LayerSites, write: str) -> list[tuple[str, int]]:
        """Every tensor that makes the write, with its axis of length d_model."""
        found = []
        for projection in self._projections(layer, write):
            weights = self._found(layer, projection.weight)
            found += [(name, projection.output_axis) for name in weights]
            if weights:
                found += [(name, -1) for name in self._found(layer, projection.bias)]
        if not self._projections(layer, write):
            raise SparkablateError(
                "bake_refused",
                f"no row says which tensors make the {write} write of {self.sites.model_type!r} in layer "
                f"{layer.index}",
            )
        if not found:
            expected = ", ".join(projection.weight for projection in self._projections(layer, write))
            raise SparkablateError(
                "architecture_unsupported",
                f"the checkpoint has none of the tensors {expected} in {self.names.layer(layer.index)}*, "
                f"which make the {write} write of {self.sites.model_type!r}",
            )
        return found

    def _found(self, layer: LayerSites, pattern: str) -> list[str]:
        return self.names.in_layer(layer.index, pattern, {**self.checkpoint.entries, **self._added})

    def _add(self, name: str, edit: Edit) -> None:
        self._require(name)
        self._edits.setdefault(name, []).append(edit)

    def _require(self, name: str) -> None:
        if name not in self.checkpoint.entries and name not in self._added:
            raise SparkablateError("architecture_unsupported", f"the checkpoint has no tensor {name}")


def needs_mean(spec: AblationSpec) -> bool:
    return spec.mode != SKIP and MODES[spec.mode].needs == "mean"


def _span(specs: Sequence[DirectionSpec]) -> tuple[Tensor, float]:
    """Orthonormal basis [d_model, k] of the directions that act at one place, and their coefficient."""
    vectors = [spec.vector for spec in specs if spec.vector is not None]
    return orthonormal_basis(vectors), specs[0].coefficient
