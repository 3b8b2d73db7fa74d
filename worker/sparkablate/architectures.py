"""Table: model type → where each site is and how the layer's writes add up. One row, one edit.

A path may list alternatives, "a|b": the first that the model has. An attribute that is there but
None (OPT's project_in) counts as absent. Everything else that a row names must exist: a model that
no row describes is refused, never guessed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor, nn

from .errors import SparkablateError
from .sites import SITE_ORDER, Additions, LayerSites, Logits, SiteMap, Tap, Values


def sequential(layer: nn.Module, x: Tensor, writes: Mapping[str, Tensor]) -> Tensor:
    """(x + a) + m. Also the order of parallel layers that sum `residual + attention + mlp`."""
    return (x + writes["attn"]) + writes["mlp"]


def writes_first(layer: nn.Module, x: Tensor, writes: Mapping[str, Tensor]) -> Tensor:
    """(a + m) + x: parallel layers that add their two writes before the residual."""
    return (writes["attn"] + writes["mlp"]) + x


@dataclass(frozen=True)
class Architecture:
    """One row. Paths of `stack` and `head` start at the model, `layers` to `tail` at the stack, the rest at a
    layer."""

    model_types: tuple[str, ...]
    #: Module whose forward runs embedding, layers and final norm.
    stack: str = "model"
    layers: str = "layers"
    #: Writers of the stream before layer 0.
    embedding: tuple[str, ...] = ("embed_tokens",)
    tail: tuple[str, ...] = ("norm",)
    head: str = "lm_head"

    attention: str | None = "self_attn"
    #: Output projection; a head's slice is cut from its input.
    attention_output: str = "self_attn.o_proj"
    attention_output_side: Literal["input", "output"] = "input"
    #: Token mixer of the layers that have no attention heads.
    headless_mixer: str | None = None
    mlp: str | None = "mlp"
    #: Name → module whose output is added to the stream (after the post-norm where there is one).
    writes: tuple[tuple[str, str], ...] = (("attn", "self_attn"), ("mlp", "mlp"))
    additions: Additions = sequential

    n_heads: Callable[[Any], int] = lambda config: config.num_attention_heads
    n_kv_heads: Callable[[Any, nn.Module], int] = lambda config, attention: config.num_key_value_heads
    values: str = "self_attn.v_proj"
    value_layout: Literal["last", "grouped"] = "last"

    logits: tuple[Literal["multiply", "divide", "soft_cap"], str] | None = None
    cast_final: bool = False
    max_positions: str | None = "max_position_embeddings"
    returns_tuple: bool = False
    shares_kv: bool = False

    norm_after_write: bool = False
    norm_on_stream: bool = False
    #: Which configurations of these model types the row describes.
    when: Callable[[Any], bool] = lambda config: True


ARCHITECTURES: tuple[Architecture, ...] = (
    Architecture(("llama", "mistral", "qwen2", "qwen3", "smollm3", "olmo", "gemma")),
)

#: Multimodal wrappers: model type → path of the text stack. The row is the text tower's own.
WRAPPERS: Mapping[str, str] = {}


def locate(model: nn.Module) -> SiteMap:
    """Finds every site of a causal language model by its row.

    Raises SparkablateError("architecture_unsupported") with the module tree where no row fits.
    """
    config: Any = getattr(model, "config", None)
    if config is None or not hasattr(config, "get_text_config"):
        raise _unsupported(model, "it has no transformers configuration")
    text_config = config.get_text_config()
    model_type = text_config.model_type
    row = next(
        (row for row in ARCHITECTURES if model_type in row.model_types and row.when(text_config)), None
    )
    if row is None:
        raise _unsupported(model, f"no row of architectures.py describes model type {model_type!r}")
    stack_path = row.stack
    if text_config is not config:
        if config.model_type not in WRAPPERS:
            raise _unsupported(
                model, f"{model_type!r} is known, but not inside the wrapper {config.model_type!r}"
            )
        stack_path = WRAPPERS[config.model_type]

    stack = _require(model, model, stack_path)
    head = _require(model, model, row.head)
    layers = _require(model, stack, row.layers)
    if not isinstance(layers, nn.ModuleList):
        raise _unsupported(model, f"{stack_path}.{row.layers} is not a list of layers")
    tail = [_find(model, stack, path) for path in row.tail]
    logits = Logits()
    if row.logits is not None:
        op, key = row.logits
        value = getattr(text_config, key)
        logits = Logits() if value is None else Logits(op, value)
    return SiteMap(
        model_type=model_type,
        d_model=text_config.hidden_size,
        vocab_size=text_config.vocab_size,
        max_positions=getattr(text_config, row.max_positions) if row.max_positions else None,
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        stack_path=stack_path,
        stack=stack,
        embedding=tuple(
            Tap(f"{stack_path}.{name}", module, "output")
            for name, module in (_require_named(model, stack, path) for path in row.embedding)
        ),
        layers=tuple(
            _locate_layer(model, row, text_config, layer, index, f"{stack_path}.{row.layers}.{index}")
            for index, layer in enumerate(layers)
        ),
        tail=tuple(module for module in tail if module is not None),
        head=head,
        logits=logits,
        cast_final=row.cast_final,
        norm_after_write=row.norm_after_write,
        norm_on_stream=row.norm_on_stream,
    )


def _locate_layer(
    model: nn.Module, row: Architecture, config: Any, layer: nn.Module, index: int, path: str
) -> LayerSites:
    mixer = row.headless_mixer
    headless = row.attention is None or (mixer is not None and _present(layer, mixer))
    attention = (
        None if row.attention is None else _require(model, layer, mixer if headless else row.attention)
    )
    mlp = None if row.mlp is None else _require(model, layer, row.mlp)
    writes: dict[str, Tap] = {}
    for name, where in row.writes:
        if headless and where == row.attention:
            where = mixer or where
        found = _find_named(model, layer, where)
        if found is not None:
            writes[name] = Tap(f"{path}.{found[0]}", found[1], "output")

    heads, attention_output, values = None, None, None
    n_heads = n_kv_heads = d_head = 0
    note = ""
    if headless:
        note = f"layer {index} has no attention heads ({mixer or config.model_type})"
    else:
        assert attention is not None
        attention_output = _require(model, layer, row.attention_output)
        heads = Tap(f"{path}.{row.attention_output}", attention_output, row.attention_output_side)
        n_heads = row.n_heads(config)
        # d_head comes from the projection's real width: Qwen3 and Gemma choose it freely.
        d_head, rest = divmod(input_width(attention_output), n_heads)
        if rest:
            raise _unsupported(model, f"{heads.path} does not divide into {n_heads} heads")
        n_kv_heads = row.n_kv_heads(config, attention)
        found = _find_named(model, layer, row.values, required=not row.shares_kv)
        if found is not None:
            tap = Tap(f"{path}.{found[0]}", found[1], "output")
            values = Values(tap, row.value_layout, output_width(found[1]))

    offered = {"layer", "direction"} | (set(writes) & {"attn", "mlp"})
    if heads is not None:
        offered |= {"head", "kv_group"}
    return LayerSites(
        index=index,
        path=path,
        module=layer,
        sites=tuple(site for site in SITE_ORDER if site in offered),
        attention=attention,
        attention_output=attention_output,
        mlp=mlp,
        heads=heads,
        writes=writes,
        n_heads=n_heads,
        n_kv_heads=n_kv_heads,
        d_head=d_head,
        values=values,
        additions=row.additions,
        returns_tuple=row.returns_tuple,
        always_runs=row.shares_kv,
        note=note,
    )


def input_width(projection: Any) -> int:
    """Input features of a Linear (quantised or not) or of GPT-2's Conv1D."""
    return projection.nx if hasattr(projection, "nx") else projection.in_features


def output_width(projection: Any) -> int:
    """Output features of a Linear (quantised or not) or of GPT-2's Conv1D."""
    return projection.nf if hasattr(projection, "nf") else projection.out_features


_ABSENT = object()


def _resolve(root: Any, path: str) -> Any:
    for name in path.split("."):
        root = getattr(root, name, _ABSENT)
        if root is None or root is _ABSENT:
            return root
    return root


def _present(root: nn.Module, path: str) -> bool:
    return isinstance(_resolve(root, path), nn.Module)


def _find_named(
    model: nn.Module, root: nn.Module, path: str, required: bool = False
) -> tuple[str, nn.Module] | None:
    """First alternative that is a module; None where the model says it has none."""
    resolved = {name: _resolve(root, name) for name in path.split("|")}
    for name, module in resolved.items():
        if isinstance(module, nn.Module):
            return name, module
    if required or (all(value is _ABSENT for value in resolved.values())):
        raise _unsupported(model, f"its row names {path!r}, which {type(root).__name__} does not have")
    return None


def _require_named(model: nn.Module, root: nn.Module, path: str) -> tuple[str, nn.Module]:
    found = _find_named(model, root, path, required=True)
    assert found is not None
    return found


def _find(model: nn.Module, root: nn.Module, path: str) -> nn.Module | None:
    found = _find_named(model, root, path)
    return None if found is None else found[1]


def _require(model: nn.Module, root: nn.Module, path: str) -> nn.Module:
    return _require_named(model, root, path)[1]


def _unsupported(model: nn.Module, reason: str) -> SparkablateError:
    return SparkablateError(
        "architecture_unsupported",
        f"{type(model).__name__} cannot be ablated: {reason}.\n"
        f"Its modules:\n{module_tree(model)}\n"
        "Hint: load it with AutoModelForCausalLM; if it is a new architecture, add a row to "
        "worker/sparkablate/architectures.py that says where its sites are.",
    )


def module_tree(model: nn.Module, depth: int = 5) -> str:
    """Indented module names and classes; of a list of layers only the first."""
    lines: list[str] = []

    def walk(module: nn.Module, indent: int) -> None:
        for name, child in module.named_children():
            if isinstance(module, nn.ModuleList) and name != "0":
                lines.append(f"{'  ' * indent}… {len(module) - 1} more")
                return
            lines.append(f"{'  ' * indent}{name}: {type(child).__name__}")
            if indent + 1 < depth:
                walk(child, indent + 1)

    walk(model, 0)
    return "\n".join(lines)
