"""AblationManager: puts interventions into a model's forward pass and takes them out again."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from sparkablate.anatomy.architectures import locate
from sparkablate.anatomy.sites import ANY_WIDTH, SiteMap, Tap, site_row
from sparkablate.anatomy.wrappers import unwrapped
from sparkablate.arguments import as_number, described, listed, tensor
from sparkablate.catalog import POSITIONS, SITES
from sparkablate.condition_ids import with_ids_read
from sparkablate.edits.blocks import Applied, is_open
from sparkablate.edits.bound import Bound, constant_write, elsewhere, is_constant, site_edit
from sparkablate.edits.donors import SourceKey, donor_key, donor_mode, offered_donors, record_activations
from sparkablate.edits.functions import MODES, add, orthonormal_basis, project_out
from sparkablate.edits.hooks import Edit
from sparkablate.edits.means import MeanKey as MeanKey
from sparkablate.edits.means import mean_key, mean_width, measure_means, offered_means
from sparkablate.edits.positions import FirstTokens
from sparkablate.edits.prompts import Prompts
from sparkablate.errors import SparkablateError
from sparkablate.loading.numerics import device_of
from sparkablate.specs import AblationSpec, DirectionSpec, Spec, as_specs, check_direction, spec_id
from sparkablate.tokens import TokenBatch, token_batch, token_mask, unpadded


class AblationManager:
    """Edits one model. Blocks of `applied` may follow one another, nest, and end in any order.

    Args:
        model: a transformers causal language model, or what `torch.compile`, PEFT (LoRA and its kind),
            DataParallel on one device or another wrapper with a `module` made of it.
        sites: its map, where it was located (or restricted after a self-test) before.

    Raises SparkablateError: "architecture_unsupported" for a model that no row describes, or a wrapper that
    splits it over devices or puts virtual tokens before the text; "usage" for what is no model.
    """

    def __init__(self, model: nn.Module, sites: SiteMap | None = None) -> None:
        if not isinstance(sites, SiteMap | None):
            raise SparkablateError("usage", f"sites is a SiteMap, not {described(sites)}")
        self.model = unwrapped(model)
        self.sites = locate(self.model) if sites is None else sites
        self._means: dict[MeanKey, Tensor] = {}
        self._sources: dict[str, dict[SourceKey, Tensor]] = {}
        self._directions: dict[str, tuple[Tensor, float]] = {}

    # ── What the edits need ──────────────────────────────────────────────────────────────────
    def set_means(self, means: Mapping[MeanKey, Tensor]) -> None:
        """Replaces the means that `mode="mean"` uses. Each is float32 [width of the site's tensor].

        Raises SparkablateError("invalid_message") where a mean does not fit its site.
        """
        if not isinstance(means, Mapping):
            raise SparkablateError(
                "usage", f"the means are a mapping, as calibrate_means() gives it, not {described(means)}"
            )
        found: dict[MeanKey, Tensor] = {}
        for given, mean in means.items():
            key = mean_key(given)
            width = mean_width(self.sites, key)
            mean = tensor(f"the mean of {tuple(key)}", mean)
            if mean.dim() != 1 or width not in (ANY_WIDTH, len(mean)):
                raise SparkablateError(
                    "invalid_message",
                    f"the mean of {tuple(key)} has the shape {list(mean.shape)}, and must be [{width}]",
                )
            found[key] = mean.detach()
        self._means = found

    def mean(self, key: MeanKey) -> Tensor:
        """The mean in use, float32 [width]. Raises SparkablateError("means_missing") before calibration."""
        key = mean_key(key)
        if key not in self._means:
            raise SparkablateError(
                "means_missing", f"the mean of {tuple(key)} is not calibrated; call calibrate_means() first"
            )
        return self._means[key]

    def set_direction(self, sha256: str, vector: Tensor, norm: float = 1.0) -> None:
        """A unit vector [d_model] that later specs name by `sha256`, and its recorded norm.

        Raises SparkablateError("config_invalid") for a vector that is not of unit length.
        """
        if not isinstance(sha256, str) or not sha256:
            raise SparkablateError("usage", f"a direction's name is a text, not {described(sha256)}")
        self._directions[sha256] = (check_direction(vector), as_number("norm of a direction", norm))

    def calibrate_means(self, batches: Any, keys: Iterable[MeanKey] | None = None) -> dict[MeanKey, Tensor]:
        """Means of the unedited model's activations over `batches`, kept for `mode="mean"`.

        Args:
            batches: token ids: batches [batch, pos], or one, or one text's; each a tokenizer's output (whose
                padding is left out), a tensor, an array or lists.
            keys: which sites; default: every site the model offers, over all positions and without the first.

        Returns: float32 means [width], from sums in float64. Raises SparkablateError: "usage" inside
        `applied()` and for batches that are no token ids, "config_invalid" for ids that the embedding
        does not have, "site_unsupported", "means_missing" where the batches hold no token.
        """
        if is_open(self.sites):
            raise SparkablateError(
                "usage", "calibrate_means() measures the unedited model: call it outside applied()"
            )
        wanted = (
            offered_means(self.sites) if keys is None else [mean_key(key) for key in listed("keys", keys)]
        )
        device = device_of(self.model)
        plain = (ids.to(device) for ids in unpadded("batches", batches, self.sites.vocab_size))
        means = measure_means(self.model, self.sites, plain, wanted)
        self._means |= means
        return means

    def record_sources(
        self,
        input_ids: Any,
        mode: str = "patch",
        keys: Iterable[SourceKey] | None = None,
        attention_mask: Any = None,
    ) -> dict[SourceKey, Tensor]:
        """Runs the unedited model on other tokens and keeps its sites' activations for `mode`.

        Row i, position t of later forward passes then takes what the site had at row i, position t here: so
        a pass must have this batch's shape. One that goes on from such a pass, as those of `generate` do with
        or without a cache, is edited at this batch's positions alone: those of the prompt. Recorded on the
        very tokens that are run, the edit changes nothing, to the bit.

        Args:
            input_ids: int [batch, pos]: a tokenizer's output (whose mask is used), a tensor, an array or
                lists.
            mode: "patch" (tokens that you align with yours) or "resample" (others, drawn at random). Each
                keeps its own; a later call replaces it.
            keys: which sites; default: every site the model offers, which is three tensors
                [batch, pos, width] a layer.
            attention_mask: as the model takes it, for padded batches.

        Returns: the activations. Raises SparkablateError: "usage" inside `applied()`, for another mode and
        for what is no batch of token ids, "config_invalid" for ids that the embedding does not have,
        "site_unsupported".
        """
        if is_open(self.sites):
            raise SparkablateError(
                "usage", "record_sources() runs the unedited model: call it outside applied()"
            )
        donor_mode(mode)
        ids, more = self._padded(token_batch("input_ids", input_ids, self.sites.vocab_size), attention_mask)
        wanted = (
            offered_donors(self.sites) if keys is None else [donor_key(key) for key in listed("keys", keys)]
        )
        found = record_activations(
            self.sites, wanted, lambda: self.sites.stack(input_ids=ids, use_cache=False, **more)
        )
        self.set_sources(mode, found)
        return found

    def _padded(self, batch: TokenBatch, given: Any) -> tuple[Tensor, dict[str, Tensor]]:
        """The ids where the model is, and the mask that goes with them, if any."""
        device = device_of(self.model)
        if batch.ids.numel() == 0:
            raise SparkablateError("usage", "input_ids holds no token")
        mask = batch.mask
        if given is not None:
            if mask is not None:
                raise SparkablateError(
                    "usage", "attention_mask is given twice: input_ids has one of its own; leave one out"
                )
            mask = given if isinstance(given, Tensor) else token_mask("attention_mask", given)
            if mask.dim() != 4 and mask.shape != batch.ids.shape:
                raise SparkablateError(
                    "usage", f"attention_mask must have input_ids' shape, not be {described(mask)}"
                )
        return batch.ids.to(device), {} if mask is None else {"attention_mask": mask.to(device)}

    def set_sources(self, mode: str, activations: Mapping[SourceKey, Tensor]) -> None:
        """Replaces the `activations`, each [batch, pos, width], that `mode` ("resample" or "patch") puts in.

        Raises SparkablateError("usage") for another mode.
        """
        if not isinstance(activations, Mapping):
            raise SparkablateError(
                "usage",
                f"activations are a mapping, as record_sources() gives it, not {described(activations)}",
            )
        self._sources[donor_mode(mode)] = {
            donor_key(key): tensor(f"the activation of {tuple(key)}", value)
            for key, value in activations.items()
        }

    # ── Applying ─────────────────────────────────────────────────────────────────────────────
    def applied(self, specs: Spec | str | Iterable[Spec | str]) -> Applied:
        """The model computes with these interventions inside the block, and bit for bit as before after it.

        It does so whoever calls it: what holds it (a compiled model, PEFT's), `generate`, a pipeline, another
        thread. Compiled code runs eagerly for as long as any block is open in the process
        (`torch.compiler.set_stance`). Blocks on one model, of whichever manager, act together as one with all
        their specs, and may end in any order. A `deepcopy` made inside has the edits for as long as the
        original; what is saved, exported, traced or captured in a graph is out of reach.

        Warns (UserWarning) where no pass of the model ran inside, and where a key/value cache comes in that
        was filled without these edits.

        Args:
            specs: one spec, or several that act jointly; their order does not matter. A text is read as a
                condition's id: "L14.head[3,7].zero + L-1.mlp.mean".

        Raises SparkablateError: "site_unsupported", "conditions_overlap" (with an open block's too),
        "means_missing", "input_missing" (no source was recorded), "config_invalid" (a layer or head that the
        model does not have; what is no spec), "usage" (inside compiled code) before anything is changed;
        "hook_failed" in a forward pass that neither has the source's shape nor goes on from one that has (so
        `generate` with beams is refused before its first token), in one that never reaches an edit, and where
        the model's modules are others than when the manager was made.
        """
        return Applied(self, as_specs(with_ids_read(specs, self.sites.n_layers, self._directions)))

    def _bind(self, specs: Sequence[Spec]) -> list[Bound]:
        """The specs with what they put in, as this manager has it now."""
        bound = []
        for spec in specs:
            if isinstance(spec, DirectionSpec):
                vector, norm = self.direction(spec)
                bound.append(
                    Bound(spec if spec.vector is not None else replace(spec, vector=vector, norm=norm))
                )
                continue
            bound.append(Bound(spec, self._given(spec)))
        return bound

    def _given(self, spec: AblationSpec) -> Tensor | None:
        """What the mode puts in: a mean [width], a donor [batch, pos, width]; None: it needs nothing."""
        mode, site = MODES.get(spec.mode), SITES[spec.kind].values
        if mode is None or mode.needs is None or site is None:
            return None
        if mode.needs == "mean":
            return self.mean(MeanKey(site, spec.layer, spec.positions))
        found = self._sources.get(spec.mode, {}).get(SourceKey(site, spec.layer))
        if found is None:
            raise SparkablateError(
                "input_missing",
                f"{spec_id(spec)} has no donor: call record_sources(input_ids, mode={spec.mode!r}) first",
            )
        return found

    def _compile(
        self, union: Sequence[Bound], first_tokens: FirstTokens, prompts: Prompts
    ) -> list[tuple[Tap, str, Edit]]:
        """Edits in the order in which they act where they share a tensor: mode, then direction."""
        edits: list[tuple[Tap, str, Edit]] = []
        directions: list[DirectionSpec] = []
        replaced = {
            one.spec.layer for one in union if isinstance(one.spec, AblationSpec) and is_constant(one)
        }
        for bound in union:
            spec = bound.spec
            if isinstance(spec, DirectionSpec):
                directions.append(spec)
            elif (row := site_row(spec.kind)) is not None:
                layer = self.sites.layers[spec.layer]
                tap = row.tap(layer)
                assert tap is not None
                edit = site_edit(spec, layer, bound.given, first_tokens, prompts)
                edits.append((tap, spec_id(spec), edit))
        return edits + self._direction_edits(directions, first_tokens, replaced)

    def _constants(self, union: Sequence[Bound], first_tokens: FirstTokens) -> dict[int, Edit]:
        """Layer → stream → the constant write in its place, less the directions that its writes lack."""
        directions = [one.spec for one in union if isinstance(one.spec, DirectionSpec)]
        found = {}
        for one in filter(is_constant, union):
            assert isinstance(one.spec, AblationSpec)
            assert one.given is not None
            layer = one.spec.layer
            here = [
                spec
                for spec in directions
                if spec.at == "writes" and layer in spec.indices(self.sites.n_layers)
            ]
            found[layer] = constant_write(
                one.given,
                [
                    elsewhere(edit, first_tokens) if members[0].positions == "not_first" else edit
                    for members, edit in self._vector_edits(here)
                ],
            )
        return found

    def _direction_edits(
        self, specs: Sequence[DirectionSpec], first_tokens: FirstTokens, replaced: Collection[int]
    ) -> list[tuple[Tap, str, Edit]]:
        """What acts at one place: all projections as one, on their span; what is added, one after another.

        `replaced`: layers whose writes are not made.
        """
        at_place: dict[tuple[str, int], list[DirectionSpec]] = defaultdict(list)
        for spec in specs:
            for index in spec.indices(self.sites.n_layers):
                if spec.at != "writes" or index not in replaced:
                    at_place[spec.at, index].append(spec)
            if spec.edits_embedding:
                at_place["writes", -1].append(spec)
        edits: list[tuple[Tap, str, Edit]] = []
        for (at, index), here in at_place.items():
            taps: Sequence[Tap]
            if at == "stream":
                taps = [self.sites.layers[index].stream]
            elif index < 0:
                taps = self.sites.embedding
            else:
                taps = list(self.sites.layers[index].writes.values())
            for members, function in self._vector_edits(here):
                edit = elsewhere(function, first_tokens) if members[0].positions == "not_first" else function
                names = " + ".join(map(spec_id, members))
                edits += [(tap, f"{names} at {tap.path}", edit) for tap in taps]
        return edits

    def _vector_edits(self, specs: Sequence[DirectionSpec]) -> list[tuple[list[DirectionSpec], Edit]]:
        edits: list[tuple[list[DirectionSpec], Edit]] = []
        projections = [spec for spec in specs if spec.op == "project_out"]
        if projections:
            basis = orthonormal_basis([self.direction(spec)[0] for spec in projections])
            edits.append((projections, project_out(basis, projections[0].coefficient)))
        for positions in POSITIONS:
            added = [spec for spec in specs if spec.op == "add" and spec.positions == positions]
            if added:
                edits.append((added, add(torch.stack([self._offset(spec) for spec in added]).sum(dim=0))))
        return edits

    def _offset(self, spec: DirectionSpec) -> Tensor:
        vector, norm = self.direction(spec)
        return vector.double() * (spec.coefficient * norm)

    def direction(self, spec: DirectionSpec) -> tuple[Tensor, float]:
        """The unit vector [d_model] that the spec holds or names, and its recorded norm.

        Raises SparkablateError: "input_missing" where it was not given, "config_invalid" for a wrong width.
        """
        if not isinstance(spec, DirectionSpec):
            raise SparkablateError("usage", f"a DirectionSpec is wanted, not {described(spec)}")
        if spec.vector is not None:
            vector, norm = spec.vector, spec.norm
        elif spec.sha256 in self._directions:
            vector, norm = self._directions[spec.sha256]
        else:
            raise SparkablateError(
                "input_missing", f"{spec_id(spec)}: this direction was not given to the manager"
            )
        if vector.shape != (self.sites.d_model,):
            raise SparkablateError(
                "config_invalid",
                f"{spec_id(spec)} has {len(vector)} entries; the model's width is {self.sites.d_model}",
            )
        return vector, norm
