"""A row for a model that no row of architectures.py describes: found on the loaded model, by its modules'
shapes and one traced pass.

A row found is a claim like a written one: the proofs at load judge it, on every layer, and what they do not
prove is not offered. Nothing is guessed from names but counts, which the configuration gives.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import MISSING, dataclass, fields
from typing import Any

import torch
from torch import Tensor, nn

from sparkablate.anatomy import additions
from sparkablate.anatomy.architectures import (
    Architecture,
    Discovered,
    adopt,
    locate,
    one_per_head,
    row_for,
)
from sparkablate.anatomy.modules import input_width, output_width, unsupported
from sparkablate.anatomy.projections import linear
from sparkablate.anatomy.sites import Additions, Layout, Logits, LogitsOp, SiteMap, Tap, Values
from sparkablate.anatomy.wrappers import unwrapped
from sparkablate.loading.numerics import device_of
from sparkablate.measure.likelihood import Likelihood
from sparkablate.proofs import self_test
from sparkablate.proofs.causality import prove_causal
from sparkablate.proofs.passes import TOKENS, text_ids
from sparkablate.proofs.trace import Call, Trace, is_linear, mixes, reaches, same

#: How two writes may add up to a layer's output, the commonest first.
TWO_WRITES: tuple[Additions, ...] = (additions.sequential, additions.writes_first, additions.granite)
#: What a model may do to its head's output, by a number of its configuration.
LOGIT_OPERATIONS: tuple[LogitsOp, ...] = ("multiply", "divide", "soft_cap")
LAYOUTS: tuple[Layout, ...] = ("last", "grouped")
#: Counts of key/value heads under other names than transformers' own.
OTHER_COUNTS = ("num_kv_heads", "multi_query_group_num", "n_head_kv")


def located(model: nn.Module) -> SiteMap:
    """The sites of a loaded model, by its row or by one that is found now and kept with the model.

    Raises SparkablateError("architecture_unsupported") where none is found.
    """
    if hasattr(model, "config") and row_for(model) is None:
        row = _Search(model).row()
        adopt(model, Discovered(row, as_source(row)))
    return locate(model)


def discover(model: nn.Module) -> SiteMap:
    """Looks for the sites of a model that no row of the table describes, and proves what it finds.

    The row is kept with the model: `AblationManager(model)` then edits it, at the sites that were proved.
    `discovered` of the result is the row in the form in which it can be added to the table; None where the
    table has one.

    Args:
        model: a causal language model of transformers, loaded, in evaluation mode.

    Raises SparkablateError: "architecture_unsupported" where nothing is found, or the model looks ahead;
    "usage" for what is no model.
    """
    model = unwrapped(model)
    sites = located(model)
    if sites.discovered is None:
        return sites
    row = row_for(model)
    assert row is not None
    adopt(model, Discovered(row, sites.discovered, tuple(unproved(model, sites))))
    return locate(model)


def unproved(model: nn.Module, sites: SiteMap) -> list[str]:
    """What the proofs of a load do not prove, on a short text, e.g. "L0.head". Raises as `discover`."""
    prove_causal(Likelihood(model, sites), TOKENS)
    return self_test.require(model, self_test.run(model, sites))


@dataclass(frozen=True)
class Count:
    """Key/value heads as the configuration counts them under this name."""

    name: str

    def __call__(self, config: Any, attention: nn.Module) -> int:
        return int(getattr(config, self.name))

    def __repr__(self) -> str:
        return f"lambda config, attention: config.{self.name}"


@dataclass(frozen=True)
class _Heads:
    output: str
    values: str
    layout: Layout
    n_kv_heads: Callable[[Any, nn.Module], int]


@dataclass(frozen=True)
class _Layer:
    """What was found in one layer; paths are relative to it."""

    mixer: str
    mlp: str
    writes: tuple[tuple[str, str], ...]
    additions: Additions
    after_norm: bool
    heads: _Heads | None
    #: Projections that end mixer and MLP; None where none does.
    made: tuple[str | None, ...]


class _Search:
    def __init__(self, model: nn.Module) -> None:
        self.model: Any = model
        config: Any = self.model.config
        self.config = config.get_text_config()
        ids = text_ids(model, self.config.vocab_size)
        chosen = torch.randint(len(ids), (1, TOKENS), generator=torch.Generator().manual_seed(0))
        self.trace = Trace(model, ids[chosen].to(device_of(model)))

    def refuse(self, what: str) -> Exception:
        return unsupported(
            self.model,
            f"no row of architectures.py describes model type {self.config.model_type!r} in this "
            f"configuration, and none was found: {what}",
        )

    def row(self) -> Architecture:
        stack, name, layers = self._layers()
        tail, head, logits = self._end(stack, layers[-1])
        found = [self._layer(call) for call in self._kinds(stack, name, layers)]
        with_heads = [one for one in found if one.heads is not None]
        first = (with_heads or found)[0]
        heads = first.heads
        others = [one.mixer for one in found if one.heads is None and heads is not None]
        if len({(one.additions, one.after_norm) for one in found}) > 1 or len(set(others)) > 1:
            raise self.refuse("its layers are of kinds that one row cannot describe")
        positions = "max_position_embeddings"
        return Architecture(
            (self.config.model_type,),
            stack=stack,
            layers=name,
            embedding=self._embedding(stack, layers[0]),
            tail=tail,
            head=head,
            attention=None if heads is None else first.mixer,
            attention_output="" if heads is None else heads.output,
            headless_mixer=others[0] if others else None,
            mlp=first.mlp,
            writes=first.writes,
            additions=first.additions,
            n_kv_heads=Architecture.n_kv_heads if heads is None else heads.n_kv_heads,
            values="" if heads is None else heads.values,
            value_layout="last" if heads is None else heads.layout,
            logits=logits,
            cast_final=layers[-1].output.dtype != self.model.get_output_embeddings().weight.dtype,
            max_positions=positions if hasattr(self.config, positions) else None,
            returns_tuple=layers[0].is_tuple,
            norm_after_write=first.after_norm,
            outputs=_outputs(found),
            head_tensor=f"{head}.weight",
        )

    # ── Stack ────────────────────────────────────────────────────────────────────────────────
    def _layers(self) -> tuple[str, str, list[Call]]:
        """Path of the stack, of the list in it, and its layers' calls: each takes what the last one gave."""
        count = self.config.num_hidden_layers
        for path, module in self.model.named_modules():
            if not isinstance(module, nn.ModuleList) or len(module) != count:
                continue
            calls = [self.trace.calls.get(f"{path}.{index}") for index in range(count)]
            layers = [call for call in calls if call is not None and call.entry is not None]
            chained = all(same(after.entry, before.output) for before, after in itertools.pairwise(layers))
            if len(layers) == count and chained:
                stack, _, name = path.rpartition(".")
                return stack, name, layers
        raise self.refuse(f"no list of {count} modules hands a stream from one to the next, each run once")

    def _end(self, stack: str, last: Call) -> tuple[tuple[str, ...], str, tuple[LogitsOp, str] | None]:
        """What the last layer's output goes through, the head, and what is done to its output."""
        head = self.model.get_output_embeddings()
        path = next((name for name, module in self.model.named_modules() if module is head), None)
        call = self.trace.calls.get(path or "")
        if path is None or call is None or call.entry is None:
            raise self.refuse("the output embedding does not run once a pass")
        tail: list[str] = []
        stream = last.output
        while not same(stream.to(call.entry.dtype), call.entry):
            inside = [one for one in self.trace.below(stack) if "." not in one.path]
            after = next((one for one in inside if same(one.entry, stream)), None)
            if after is None or after.path in tail:
                raise self.refuse("what stands between the last layer and the head is no chain of modules")
            tail.append(after.path)
            stream = after.output
        return tuple(tail), path, self._logits(call.output)

    def _logits(self, made: Tensor) -> tuple[LogitsOp, str] | None:
        if same(made, self.trace.logits):
            return None
        for key, value in self.config.to_dict().items():
            if not isinstance(value, float) or value == 0:
                continue
            for operation in LOGIT_OPERATIONS:
                if same(Logits(operation, value).apply(made), self.trace.logits):
                    return operation, key
        raise self.refuse("the logits are not what the head gives, nor that by a number of the configuration")

    def _embedding(self, stack: str, first: Call) -> tuple[str, ...]:
        """What writes the stream before layer 0: token embeddings, by a factor at most, or with positions."""
        entry = first.entry
        assert entry is not None
        calls = [call for call in self.trace.below(stack) if call.output.shape[-1] == entry.shape[-1]]
        tokens = self.model.get_input_embeddings()
        for call in (one for one in calls if one.module is tokens and one.output.shape == entry.shape):
            scale = (entry * call.output).sum() / (call.output * call.output).sum()
            if torch.allclose(entry, scale * call.output, rtol=1e-2, atol=0):
                return (call.path,)
            for other in (one for one in calls if one.output.numel() == entry.numel()):
                if torch.equal(entry, call.output + other.output.reshape(entry.shape)):
                    return call.path, other.path
        raise self.refuse(
            "the stream before layer 0 is not the token embeddings, alone or with those of positions"
        )

    # ── Layers ───────────────────────────────────────────────────────────────────────────────
    def _kinds(self, stack: str, name: str, layers: Sequence[Call]) -> list[Call]:
        """The first layer of each kind: those whose modules have the same names."""
        kinds: dict[tuple[str, ...], Call] = {}
        for call in layers:
            kinds.setdefault(tuple(path for path, _ in call.module.named_modules()), call)
        return list(kinds.values())

    def _layer(self, layer: Call) -> _Layer:
        assert layer.entry is not None
        calls = list(self.trace.below(layer.path))
        idle = (nn.Identity, nn.Dropout)
        writers = [
            call
            for call in calls
            if call.output.numel() == layer.entry.numel() and not isinstance(call.module, idle)
        ]
        # Of modules that give the same tensor the outermost: the attention, not its projection.
        writers.sort(key=lambda call: call.path.count("."))
        for first, second in itertools.permutations(writers, 2):
            if second.path.startswith(f"{first.path}."):
                continue
            how = _sum_of(layer, first, second)
            if how is not None:
                return self._described(layer, calls, (first, second), how)
        raise self.refuse(f"no two modules of {layer.path} write what it adds to the stream")

    def _described(
        self, layer: Call, calls: Sequence[Call], writes: tuple[Call, Call], how: Additions
    ) -> _Layer:
        mixer, mlp = (_source(calls, write) for write in writes)
        if not mixes(mixer, TOKENS) or mixes(mlp, TOKENS):
            names = " and ".join(write.path for write in writes)
            raise self.refuse(f"{layer.path}: of {names}, the first alone should look at other tokens")
        return _Layer(
            mixer=mixer.path,
            mlp=mlp.path,
            writes=(("attn", writes[0].path), ("mlp", writes[1].path)),
            additions=how,
            after_norm=(writes[0].path, writes[1].path) != (mixer.path, mlp.path),
            heads=self._heads(calls, mixer),
            made=(_projection(calls, mixer), _projection(calls, mlp)),
        )

    def _heads(self, calls: Sequence[Call], mixer: Call) -> _Heads | None:
        """The projection that ends the attention, and one whose rows are its heads' values."""
        inside = [call for call in calls if call.path.startswith(f"{mixer.path}.") and is_linear(call.module)]
        output = next((call for call in inside if call.gives(mixer.output)), None)
        n_heads = getattr(self.config, "num_attention_heads", 0)
        if output is None or not n_heads or input_width(output.module) % n_heads:
            return None
        # Linear attention and recurrent mixers have heads of other widths and counts.
        usual = getattr(self.config, "head_dim", None) or self.config.hidden_size // n_heads
        if input_width(output.module) // n_heads not in (usual, getattr(self.config, "v_head_dim", None)):
            return None
        for call in inside:
            for (count, n_kv), layout in itertools.product(self._kv_counts(n_heads), LAYOUTS):
                values = Values(Tap("", call.module, "output"), layout, output_width(call.module))
                if call.path != output.path and reaches(mixer, values, output.module, (n_heads, n_kv)):
                    return _Heads(output.path, call.path, layout, count)
        return None

    def _kv_counts(self, n_heads: int) -> Iterator[tuple[Callable[[Any, nn.Module], int], int]]:
        given = getattr(self.config, "num_key_value_heads", None)
        if isinstance(given, int) and given and n_heads % given == 0:
            yield Architecture.n_kv_heads, given
        yield one_per_head, n_heads
        for name in OTHER_COUNTS:
            other = getattr(self.config, name, None)
            if isinstance(other, int) and other and n_heads % other == 0:
                yield Count(name), other


def _sum_of(layer: Call, first: Call, second: Call) -> Additions | None:
    """How the two outputs add up to the layer's, bit for bit; None: not at all."""
    assert layer.entry is not None
    shape = layer.entry.shape
    writes = {"attn": first.output.reshape(shape), "mlp": second.output.reshape(shape)}
    for how in TWO_WRITES:
        try:
            if same(how(layer.module, layer.entry.clone(), writes), layer.output):
                return how
        except AttributeError:
            continue  # a factor that these layers do not have
    return None


def _source(calls: Sequence[Call], write: Call) -> Call:
    """What makes a write: itself, or, of a norm, the outermost module whose output it takes."""
    if any(parameter.dim() > 1 for parameter in write.module.parameters()):
        return write
    makers = [call for call in calls if call.path != write.path and same(call.output, write.entry)]
    return min(makers, key=lambda call: call.path.count("."), default=write)


def _projection(calls: Sequence[Call], write: Call) -> str | None:
    inside = [call for call in calls if call.path == write.path or call.path.startswith(f"{write.path}.")]
    ends = (call.path for call in inside if is_linear(call.module) and call.gives(write.output))
    return next(ends, None)


def _outputs(found: Sequence[_Layer]) -> tuple[Any, ...]:
    """The projections that make each write. The attention's is known where it has heads."""
    mixers = dict.fromkeys(path for one in found if one.heads is None and (path := one.made[0]) is not None)
    mlps = dict.fromkeys(path for one in found if (path := one.made[1]) is not None)
    mlp = ("mlp", tuple(linear(path) for path in mlps))
    return (("attn", tuple(linear(path) for path in mixers)), mlp) if mixers else (mlp,)


def as_source(row: Architecture) -> str:
    """The row as it can be added to the table: what is as usual is left out."""
    parts = [repr(row.model_types)]
    for one in fields(row)[1:]:
        value = getattr(row, one.name)
        if one.default is MISSING or value != one.default:
            parts.append(f"{one.name}={_written(one.name, value)}")
    return "Architecture(\n" + "".join(f"    {part},\n" for part in parts) + ")"


def _written(name: str, value: Any) -> str:
    if name == "outputs":
        return f"({''.join(f'({write!r}, ({_linears(made)})), ' for write, made in value).rstrip()})"
    return repr(value) if isinstance(value, Count) or not callable(value) else str(value.__name__)


def _linears(made: Sequence[Any]) -> str:
    return "".join(f"linear({one.weight.removesuffix('.weight')!r}), " for one in made).rstrip()
