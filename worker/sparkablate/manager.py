"""AblationManager: puts interventions into a model's forward pass and takes them out again."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from .architectures import locate
from .calibration import MeanKey as MeanKey
from .calibration import mean_width, measure_means, offered_means
from .errors import SparkablateError
from .hooks import Edit, editing, stream_of
from .interventions import KINDS, MODES, add, orthonormal_basis, project_out
from .positions import FirstTokens, cache_of
from .sites import LayerSites, SiteMap, Tap
from .sources import SOURCE_MODES, SourceKey, offered_sources, record_activations
from .specs import (
    POSITIONS,
    AblationSpec,
    DirectionSpec,
    Spec,
    canonical,
    check_direction,
    edited_heads,
    spec_id,
    validate,
)


class AblationManager:
    """Edits one model. Any number of `applied` blocks may follow one another; they do not nest.

    Args:
        model: a transformers causal language model.
        sites: its map, where it was located (or restricted after a self-test) before.

    Raises SparkablateError("architecture_unsupported") for a model that no row describes.
    """

    def __init__(self, model: nn.Module, sites: SiteMap | None = None) -> None:
        self.model = model
        self.sites = locate(model) if sites is None else sites
        self._means: dict[MeanKey, Tensor] = {}
        self._sources: dict[str, dict[SourceKey, Tensor]] = {}
        self._directions: dict[str, tuple[Tensor, float]] = {}
        self._active = False

    # ── What the edits need ──────────────────────────────────────────────────────────────────
    def set_means(self, means: Mapping[MeanKey, Tensor]) -> None:
        """Replaces the means that `mode="mean"` uses. Each is float32 [width of the site's tensor].

        Raises SparkablateError("invalid_message") where a mean does not fit its site.
        """
        self._means = {}
        for key, mean in means.items():
            width = mean_width(self.sites, MeanKey(*key))
            if mean.shape != (width,):
                raise SparkablateError(
                    "invalid_message", f"the mean of {tuple(key)} is not {width} wide but {list(mean.shape)}"
                )
            self._means[MeanKey(*key)] = mean.detach()

    def mean(self, key: MeanKey) -> Tensor:
        """The mean in use, float32 [width]. Raises SparkablateError("means_missing") before calibration."""
        if key not in self._means:
            raise SparkablateError(
                "means_missing", f"{tuple(key)} is not calibrated: call calibrate_means() first"
            )
        return self._means[key]

    def set_direction(self, sha256: str, vector: Tensor, norm: float = 1.0) -> None:
        """A unit vector [d_model] that later specs name by `sha256`, and its recorded norm.

        Raises SparkablateError("config_invalid") for a vector that is not of unit length.
        """
        self._directions[sha256] = (check_direction(vector), norm)

    def calibrate_means(
        self, batches: Iterable[Tensor], keys: Iterable[MeanKey] | None = None
    ) -> dict[MeanKey, Tensor]:
        """Means of the unedited model's activations over `batches`, kept for `mode="mean"`.

        Args:
            batches: token ids, each int [batch, pos].
            keys: which sites; default: every site the model offers, over all positions and without the first.

        Returns: float32 means [width], from sums in float64. Raises SparkablateError: "usage" inside
        `applied()`, "site_unsupported", "means_missing" where the batches hold no token.
        """
        if self._active:
            raise SparkablateError(
                "usage", "calibrate_means() measures the unedited model: call it outside applied()"
            )
        wanted = offered_means(self.sites) if keys is None else [MeanKey(*key) for key in keys]
        means = measure_means(self.model, self.sites, batches, wanted)
        self._means |= means
        return means

    def record_sources(
        self,
        input_ids: Tensor,
        mode: str = "patch",
        keys: Iterable[SourceKey] | None = None,
        attention_mask: Tensor | None = None,
    ) -> dict[SourceKey, Tensor]:
        """Runs the unedited model on other tokens and keeps its sites' activations for `mode`.

        Row i, position t of later forward passes then takes what the site had at row i, position t here: so
        those passes must have this batch's shape. Recorded on the very tokens that are run, the edit changes
        nothing, to the bit.

        Args:
            input_ids: int [batch, pos].
            mode: "patch" (tokens that you align with yours) or "resample" (others, drawn at random). Each
                keeps its own; a later call replaces it.
            keys: which sites; default: every site the model offers, which is three tensors
                [batch, pos, width] a layer.
            attention_mask: as the model takes it, for padded batches.

        Returns: the activations. Raises SparkablateError: "usage" inside `applied()` or for another mode,
        "site_unsupported".
        """
        if self._active:
            raise SparkablateError(
                "usage", "record_sources() runs the unedited model: call it outside applied()"
            )
        wanted = offered_sources(self.sites) if keys is None else [SourceKey(*key) for key in keys]
        more = {} if attention_mask is None else {"attention_mask": attention_mask}
        found = record_activations(
            self.sites, wanted, lambda: self.sites.stack(input_ids=input_ids, use_cache=False, **more)
        )
        self.set_sources(mode, found)
        return found

    def set_sources(self, mode: str, activations: Mapping[SourceKey, Tensor]) -> None:
        """Replaces the `activations`, each [batch, pos, width], that `mode` ("resample" or "patch") puts in.

        Raises SparkablateError("usage") for another mode.
        """
        if mode not in SOURCE_MODES:
            raise SparkablateError(
                "usage", f"mode {mode!r} has no source; {', '.join(SOURCE_MODES)} have one"
            )
        self._sources[mode] = dict(activations)

    # ── Applying ─────────────────────────────────────────────────────────────────────────────
    @contextmanager
    def applied(self, specs: Spec | Sequence[Spec]) -> Iterator[None]:
        """The model computes with these interventions inside the block, and bit for bit as before after it.

        Args:
            specs: one spec, or several that act jointly; their order does not matter.

        Raises SparkablateError: "site_unsupported", "conditions_overlap", "means_missing", "input_missing"
        (no source was recorded), "config_invalid" (a layer or head that the model does not have), "usage" (no
        nested blocks) before anything is changed; "hook_failed" in a forward pass whose shape is not the
        source's, and at the end of the block where the model ran but an edit was never reached.
        """
        wanted = [specs] if isinstance(specs, AblationSpec | DirectionSpec) else list(specs)
        validate(wanted, self.sites)
        wanted = canonical(wanted)  # so that the order in which they are given changes no bit
        if self._active:
            raise SparkablateError("usage", "applied() blocks do not nest: give all specs to one, as a list")
        first_tokens = FirstTokens()
        reached: set[str] = set()
        compiled = self._compile(wanted, first_tokens)
        edits = [(tap, _noted(reached, label, edit)) for tap, label, edit in compiled]
        labels = {label for _, label, _ in compiled}
        passes = 0

        def count(*_: Any) -> None:
            nonlocal passes
            passes += 1

        self._active = True
        try:
            with ExitStack() as stack:
                if any(spec.positions == "not_first" for spec in wanted):
                    stack.enter_context(first_tokens.watching(self.model, self.sites.stack))
                stack.callback(self.sites.stack.register_forward_hook(count).remove)
                for spec in wanted:
                    if isinstance(spec, AblationSpec) and spec.kind == "layer":
                        stack.enter_context(skipped(self.sites.layers[spec.layer]))
                stack.enter_context(editing(edits))
                yield
        finally:
            self._active = False
        unreached = sorted(labels - reached)
        if passes and unreached:
            raise SparkablateError(
                "hook_failed", f"the model ran, but never passed the tensor that {unreached[0]} edits"
            )

    def _compile(self, specs: Sequence[Spec], first_tokens: FirstTokens) -> list[tuple[Tap, str, Edit]]:
        """Edits in the order in which they act where they share a tensor: mode, then direction."""
        edits: list[tuple[Tap, str, Edit]] = []
        for spec in specs:
            if isinstance(spec, AblationSpec) and spec.kind in KINDS:
                tap = KINDS[spec.kind].tap(self.sites.layers[spec.layer])
                assert tap is not None
                edits.append((tap, spec_id(spec), self._site_edit(spec, first_tokens)))
        edits += self._direction_edits(
            [spec for spec in specs if isinstance(spec, DirectionSpec)], first_tokens
        )
        return edits

    def _site_edit(self, spec: AblationSpec, first_tokens: FirstTokens) -> Edit:
        layer = self.sites.layers[spec.layer]
        kind, mode = KINDS[spec.kind], MODES[spec.mode]
        columns: Tensor | None = None
        if kind.parts is not None:
            heads = torch.tensor(edited_heads(spec, layer))
            columns = (heads[:, None] * layer.d_head + torch.arange(layer.d_head)).reshape(-1)
        given: Tensor | None = None
        if mode.needs_mean:
            given = self.mean(MeanKey(kind.mean, spec.layer, spec.positions))
        elif mode.needs_source:
            given = self._source(spec)
        shape = given.shape if given is not None and mode.needs_source else None
        if given is not None and columns is not None:
            given = given[..., columns.to(given.device)]

        def edit(x: Tensor) -> Tensor:
            if shape is not None and shape != x.shape:
                raise SparkablateError(
                    "hook_failed", f"{spec_id(spec)}: its source is {list(shape)}, this pass {list(x.shape)}"
                )
            values = x if columns is None else x[..., columns.to(x.device)]
            local = None if given is None else given.to(device=x.device, dtype=x.dtype)
            edited = mode.function(values, local)
            if spec.positions == "not_first":
                edited = torch.where(first_tokens.at(x), values, edited)
            if columns is None:
                return edited
            out = x.clone()
            out[..., columns.to(x.device)] = edited
            return out

        return edit

    def _source(self, spec: AblationSpec) -> Tensor:
        found = self._sources.get(spec.mode, {}).get(SourceKey(KINDS[spec.kind].mean, spec.layer))
        if found is None:
            raise SparkablateError(
                "input_missing",
                f"{spec_id(spec)} has no source: call record_sources(input_ids, mode={spec.mode!r}) first",
            )
        return found

    def _direction_edits(
        self, specs: Sequence[DirectionSpec], first_tokens: FirstTokens
    ) -> list[tuple[Tap, str, Edit]]:
        """What acts at one place: all projections as one, on their span; what is added, one after another."""
        at_place: dict[tuple[str, int], list[DirectionSpec]] = defaultdict(list)
        for spec in specs:
            for index in spec.indices(self.sites.n_layers):
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
                edit = _elsewhere(function, first_tokens) if members[0].positions == "not_first" else function
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


@contextmanager
def skipped(layer: LayerSites) -> Iterator[None]:
    """The layer's output is its input.

    It still runs where it must: with a cache, whose length has to advance for it (transformers #30508),
    and where later layers read its keys and values.
    """
    module = layer.module
    original = module.forward

    def forward(*args: Any, **kwargs: Any) -> Any:
        stream = stream_of(args, kwargs)
        if layer.always_runs or cache_of(kwargs) is not None:
            original(*args, **kwargs)
        return (stream, None) if layer.returns_tuple else stream

    with _attribute(module, "forward", forward):
        yield


@contextmanager
def _attribute(module: nn.Module, name: str, value: Callable[..., Any]) -> Iterator[None]:
    """Sets an instance attribute and restores what was there (accelerate sets `forward` too)."""
    had = name in module.__dict__
    before = module.__dict__.get(name)
    module.__dict__[name] = value
    try:
        yield
    finally:
        if had:
            module.__dict__[name] = before
        else:
            del module.__dict__[name]


def _elsewhere(edit: Edit, first_tokens: FirstTokens) -> Edit:
    return lambda x: torch.where(first_tokens.at(x), x, edit(x))


def _noted(reached: set[str], label: str, edit: Edit) -> Edit:
    def noted(x: Tensor) -> Tensor:
        reached.add(label)
        return edit(x)

    return noted
