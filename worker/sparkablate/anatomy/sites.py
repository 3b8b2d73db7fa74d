"""Where a loaded model can be edited: the result of `architectures.locate`."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any, Literal

import torch
from torch import Tensor, nn

from sparkablate.anatomy.additions import is_linear
from sparkablate.anatomy.modules import input_width, output_width, resolve
from sparkablate.arguments import as_choice, described
from sparkablate.catalog import MODED_SITES, PART_COUNTS, SITES, Site, add_site, complete, own_name
from sparkablate.errors import SparkablateError


@dataclass(frozen=True)
class Tap:
    """One tensor of the forward pass: the first input of a module, or its output (item 0 of a tuple)."""

    path: str
    module: nn.Module = field(repr=False, compare=False)
    side: Literal["input", "output"]


Layout = Literal["last", "grouped", "quartered"]


@dataclass(frozen=True)
class Values:
    """Which outputs of which projection are each key/value head's values; the self-test zeroes them.

    `last`: the projection's last n_kv_heads · d_head features (v_proj alone; [q | k | v]).
    `grouped`: the last d_head features of each of n_kv_heads equal groups ([q k v] a head, MLA's kv_b).
    `quartered`: the middle third of each quarter (CodeGen's [q | v | k], sharded four ways).
    """

    tap: Tap
    layout: Layout
    width: int

    def features(self, n_kv_heads: int, d_head: int) -> Tensor:
        """Feature indices  # [n_kv_heads, d_head]; raises ValueError where they do not fit."""
        offsets = torch.arange(d_head)
        if self.layout == "quartered":
            third = n_kv_heads * d_head // 4
            if self.width != 12 * third or third % d_head:
                raise ValueError(f"{self.width} features are not 4 times [q | v | k] of {n_kv_heads} heads")
            quarters = torch.arange(4) * 3 * third + third
            starts = (quarters[:, None] + torch.arange(0, third, d_head)).flatten()
            return starts[:, None] + offsets[None, :]
        if self.layout == "last":
            start = self.width - n_kv_heads * d_head
            starts = start + torch.arange(n_kv_heads) * d_head
        else:
            group, rest = divmod(self.width, n_kv_heads)
            start = group - d_head
            if rest:
                raise ValueError(f"{self.width} features do not divide into {n_kv_heads} groups")
            starts = torch.arange(n_kv_heads) * group + start
        if start < 0:
            raise ValueError(f"{self.width} features are too few for {n_kv_heads} heads of {d_head}")
        return starts[:, None] + offsets[None, :]


LogitsOp = Literal["none", "multiply", "divide", "soft_cap", "divide_before"]


@dataclass(frozen=True)
class Logits:
    """What the model does to the head's output; `divide_before`: to its input."""

    op: LogitsOp = "none"
    value: float = 1.0

    def apply(self, logits: Tensor) -> Tensor:
        """The same operations in the same order as the model's own forward pass, so the same bits."""
        if self.op == "multiply":
            return logits * self.value
        if self.op == "divide":
            return logits / self.value
        if self.op == "soft_cap":
            return torch.tanh(logits / self.value) * self.value
        return logits


#: Width of a tensor that only a pass can tell.
ANY_WIDTH = -1

#: (layer module, layer input, writes by name) → layer output, replayed addition by addition.
Additions = Callable[[nn.Module, Tensor, Mapping[str, Tensor]], Tensor]


@dataclass(frozen=True)
class LayerSites:
    """One decoder layer.

    `heads` is the tensor that a head's slice `[h·d_head, (h+1)·d_head)` is cut from: the *input* of the
    attention's output projection. `writes` names every tensor the layer adds to the residual stream
    ("attn", "mlp", and what else there is), in the order in which they are made.
    """

    index: int
    path: str
    module: nn.Module = field(repr=False)
    sites: tuple[str, ...]
    attention: nn.Module | None = field(repr=False)
    attention_output: nn.Module | None = field(repr=False)
    mlp: nn.Module | None = field(repr=False)
    heads: Tap | None
    #: Input of the dense MLP's output projection, in a mixture of the shared expert's: one column a neuron.
    neurons: Tap | None
    writes: Mapping[str, Tap]
    n_heads: int
    n_kv_heads: int
    d_head: int
    n_neurons: int
    #: True where routed experts make the MLP's output too.
    has_experts: bool
    values: Values | None
    additions: Additions = field(repr=False)
    returns_tuple: bool
    #: True where a later layer reads this one's keys and values, so that a skipped layer still runs.
    always_runs: bool
    #: True where a gate multiplies the projection's input feature by feature.
    gated: bool
    #: Site that most models have → why this layer does not offer it.
    missing: Mapping[str, str]

    @property
    def stream(self) -> Tap:
        """The residual stream where it leaves the layer."""
        return Tap(self.path, self.module, "output")

    @property
    def attention_write(self) -> Tap | None:
        """a_ℓ, after the post-norm where there is one."""
        return self.writes.get("attn")

    @property
    def mlp_write(self) -> Tap | None:
        """m_ℓ, after the post-norm where there is one."""
        return self.writes.get("mlp")

    @property
    def no_constant(self) -> str:
        """Why nobody can say what the layer adds to the stream on average; empty where it can be said."""
        if not is_linear(self.additions):
            return "the stream itself goes through norms in this layer, so it adds no writes to it"
        if "direction" not in self.sites:
            return "its writes are not proved to add up to its output"
        return ""

    def added(self, writes: Mapping[str, Tensor]) -> Tensor:
        """What these writes, each [d_model], add to the stream, each times its scale where it has one."""
        return self.additions(self.module, torch.zeros_like(next(iter(writes.values()))), writes)

    def group_heads(self, group: int) -> range:
        """Query heads that share key/value head `group`."""
        size = self.n_heads // self.n_kv_heads
        return range(group * size, (group + 1) * size)

    def to_wire(self) -> dict[str, Any]:
        """`layerMap` of src/protocol/messages.ts."""
        modules = {"layer": self.path}
        if self.heads is not None:
            modules["attention_output"] = self.heads.path
        modules |= {f"{name}_write": tap.path for name, tap in self.writes.items()}
        return {
            "sites": list(self.sites),
            **{count: getattr(self, count) for count in PART_COUNTS},
            "d_head": self.d_head,
            "modules": modules,
        }


class Stage(IntEnum):
    """How far into its first edited layer the baseline is reused. The order is that of the forward pass."""

    LAYER = -1  # the layer's input
    ATTENTION = 0  # the output projection's input
    MLP = 1  # the attention's output
    SKIP = 2  # nothing of the layer is computed
    OUTPUT = 3  # the layer's output
    LEFT = 4  # the layer's output, with what given edits made of it


@dataclass(frozen=True)
class SiteRow:
    """Where a kind of site is in a layer."""

    #: The tensor that holds its values; None where the layer does not have it.
    tap: Callable[[LayerSites], Tap | None]
    #: How wide that tensor is; None: as wide as the stream. Parts share it in equal runs of columns.
    width: Callable[[LayerSites], int] | None
    #: From where in the layer an edit of it runs.
    stage: Stage
    #: The write that it makes, or is a part of.
    write: str

    def parts_width(self, kind: str, layer: LayerSites) -> int:
        """Columns of one part."""
        parts = SITES[kind].parts
        assert parts is not None
        assert self.width is not None
        return self.width(layer) // getattr(layer, parts.count)


#: Kind of site that a mode acts on → where it is.
SITE_ROWS: Mapping[str, SiteRow] = {
    "head": SiteRow(
        lambda layer: layer.heads, lambda layer: layer.n_heads * layer.d_head, Stage.ATTENTION, write="attn"
    ),
    "kv_group": SiteRow(
        lambda layer: layer.heads, lambda layer: layer.n_heads * layer.d_head, Stage.ATTENTION, write="attn"
    ),
    "attn": SiteRow(lambda layer: layer.attention_write, None, Stage.ATTENTION, write="attn"),
    "neuron": SiteRow(lambda layer: layer.neurons, lambda layer: layer.n_neurons, Stage.MLP, write="mlp"),
    "mlp": SiteRow(lambda layer: layer.mlp_write, None, Stage.MLP, write="mlp"),
}
complete("SITE_ROWS", SITE_ROWS, MODED_SITES)

#: The same of sites that others have registered.
_OWN_ROWS: dict[str, SiteRow] = {}


def site_row(kind: str) -> SiteRow | None:
    """None for a kind that no mode acts on."""
    return SITE_ROWS.get(kind) or _OWN_ROWS.get(kind)


def offers(layer: LayerSites, kind: str) -> bool:
    """Whether the layer has the site, and no proof has refused it."""
    own = _OWN_ROWS.get(kind)
    return kind in layer.sites if own is None else own.tap(layer) is not None


def value_sites() -> tuple[str, ...]:
    """Sites whose values are one tensor's, registered ones behind the catalogue's."""
    return tuple(name for name, site in SITES.items() if site.values == name and site_row(name) is not None)


def register_site(
    name: str,
    path: str,
    *,
    side: Literal["input", "output"] = "output",
    within: Literal["attn", "mlp", "layer"] = "layer",
    replace: bool = False,
) -> None:
    """Adds a site of your own to every model of this process: a tensor in each layer that has it.

    `AblationSpec(kind=name, layer=…)` then edits it whole, in every mode, in `applied` and `sweep`. Configs,
    `sparkablate run` and `bake` do not know it, and say so. Nothing is proved but that a pass reaches it.

    Args:
        name: your package's name, a dot, and the site's, e.g. "mypackage.gate"; it stands in ids.
        path: of a module, from the layer on, e.g. "mlp.gate_proj". Layers without it do not offer the site.
        side: "output" (item 0 of a tuple) or "input" (the first argument) of that module: a tensor
            [batch, pos, width].
        within: what it is a part of: not edited together with that.
        replace: replace a site of this name.

    Raises SparkablateError: "config_invalid" for another name or path, "usage" for a name that is taken.
    """
    try:
        own_name("site", name)
    except ValueError as error:
        raise SparkablateError("config_invalid", str(error)) from error
    if not isinstance(path, str) or not all(
        part.isidentifier() or part.isdigit() for part in path.split(".")
    ):
        raise SparkablateError(
            "config_invalid",
            f'path leads from a layer to a module, e.g. "mlp.gate_proj", not {described(path)}',
        )
    as_choice("side", side, ("input", "output"))
    as_choice("within", within, ("attn", "mlp", "layer"))
    if name in _OWN_ROWS and replace is not True:
        raise SparkablateError(
            "usage", f"site {name!r} is registered already; pass replace=True to replace it"
        )

    def tap(layer: LayerSites) -> Tap | None:
        module = resolve(layer.module, path)
        return Tap(f"{layer.path}.{path}", module, side) if isinstance(module, nn.Module) else None

    def width(layer: LayerSites) -> int:
        found = resolve(layer.module, path)
        try:
            return input_width(found) if side == "input" else output_width(found)
        except AttributeError:  # no linear map: as wide as it comes
            return ANY_WIDTH

    _OWN_ROWS[name] = SiteRow(tap, width, Stage.LAYER, write="")
    add_site(name, Site(within, None, "mode", name))


@dataclass(frozen=True)
class SiteMap:
    """A model's sites. Compared by identity of the modules it points at."""

    model_type: str
    d_model: int
    vocab_size: int
    max_positions: int | None
    parameters: int
    stack_path: str
    #: The module whose forward runs the embedding, the layers and the final norm.
    stack: nn.Module = field(repr=False)
    #: The writes that make up the stream before layer 0: token embedding, learned positions.
    embedding: tuple[Tap, ...]
    layers: tuple[LayerSites, ...]
    #: What the last layer's output goes through before the head: final norm, OPT's project_out.
    tail: tuple[nn.Module, ...] = field(repr=False)
    head: nn.Module = field(repr=False)
    logits: Logits
    #: True where the final hidden state is cast to the head's dtype (float32 streams).
    cast_final: bool
    #: A norm stands between a projection and the stream: directions and means do not bake.
    norm_after_write: bool
    #: A norm acts on the stream itself: directions and skips do not bake (pruning a layer does).
    norm_on_stream: bool
    #: A norm stands between the embedding and the stream.
    norm_after_embedding: bool
    #: Layers read the token embeddings again, beside the stream.
    reads_tokens: bool = False
    #: The row, where it was found on the model and proved, and not read against the source by anybody.
    discovered: str | None = None

    @property
    def n_layers(self) -> int:
        return len(self.layers)

    @property
    def final_norm(self) -> nn.Module | None:
        """First module of the tail; None where the model has no norm there (OPT's post-norm order)."""
        return self.tail[0] if self.tail else None

    def finish(self, stream: Tensor) -> Tensor:
        """Stream after the last layer → final hidden state, as the model's forward does it."""
        for module in self.tail:
            stream = module(stream)
        return stream  # [batch, pos, d_head_input]

    def to_logits(self, hidden: Tensor) -> Tensor:
        """Final hidden state (or a chunk of its positions) → logits  # [batch, pos, vocab]."""
        if self.cast_final:
            hidden = hidden.to(next(self.head.parameters()).dtype)
        if self.logits.op == "divide_before":
            hidden = hidden / self.logits.value
        return self.logits.apply(self.head(hidden))

    def refusing(self, labels: Iterable[str]) -> SiteMap:
        """The same map without the sites that a self-test refused, e.g. "L0.head"."""
        refused = set(labels)
        layers = tuple(
            dataclasses.replace(
                layer, sites=tuple(site for site in layer.sites if f"L{layer.index}.{site}" not in refused)
            )
            for layer in self.layers
        )
        return dataclasses.replace(self, layers=layers)

    def to_wire(self) -> dict[str, Any]:
        """`modelMap` of src/protocol/messages.ts."""
        return {
            "model_type": self.model_type,
            "n_layers": self.n_layers,
            "d_model": self.d_model,
            "vocab_size": self.vocab_size,
            "max_positions": self.max_positions,
            "parameters": self.parameters,
            "discovered": self.discovered,
            "layers": [layer.to_wire() for layer in self.layers],
        }
