"""Table: model type → where each site is and how the layer's writes add up. One row, one edit.

A path may list alternatives, "a|b": the first that the model has. An attribute that is there but
None (OPT's project_in) counts as absent. Everything else that a row names must exist: a model that
no row describes is refused, never guessed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal
from weakref import WeakKeyDictionary

from torch import Tensor, nn

from sparkablate.anatomy.additions import (
    bloom_post_norm,
    gemma4,
    granite,
    mamba2,
    opt_post_norm,
    sequential,
    writes_first,
)
from sparkablate.anatomy.modules import (
    find,
    find_named,
    input_width,
    output_width,
    plain,
    require,
    require_named,
    resolve,
    unsupported,
)
from sparkablate.anatomy.projections import DENSE, EXPERTS_AND_SHARED, Projection, linear, stacked
from sparkablate.anatomy.sites import SITE_ROWS, Additions, LayerSites, Logits, SiteMap, Tap, Values
from sparkablate.catalog import SITE_ORDER


def one_per_head(config: Any, attention: nn.Module) -> int:
    return config.num_attention_heads


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
    gated: bool = False
    #: Whether a text without BOS in front gives other numbers altogether (gemma-2b on WikiText-2: perplexity
    #: 650, not 21), so that it is put there whatever the tokenizer does.
    needs_bos: bool = False

    norm_after_write: bool = False
    norm_on_stream: bool = False
    norm_after_embedding: bool = False

    #: Write → the checkpoint tensors that make it. The attention's is `attention_output` where it has heads.
    outputs: tuple[tuple[str, tuple[Projection, ...]], ...] = (("mlp", DENSE),)
    #: The unembedding as checkpoints name it, where a tied one has to be written out.
    head_tensor: str = "lm_head.weight"
    #: Tensor of a layer that multiplies the stream: 1 where the layer is to be the identity.
    stream_scale: str | None = None

    #: Which configurations of these model types the row describes.
    when: Callable[[Any], bool] = lambda config: True


POST_NORMS = (("attn", "post_attention_layernorm"), ("mlp", "post_feedforward_layernorm"))
SOFT_CAP: tuple[Literal["soft_cap"], str] = ("soft_cap", "final_logit_softcapping")


def _calls_modules(config: Any) -> bool:
    return not (config.pretraining_tp > 1 and config.slow_but_exact)


def _falcon_kv_heads(config: Any, attention: nn.Module) -> int:
    if config.new_decoder_architecture:
        return config.num_kv_heads
    return 1 if config.multi_query else config.num_attention_heads


# What the two rows of a model type share.
GPT_NEOX = Architecture(
    ("gpt_neox",),
    stack="gpt_neox",
    embedding=("embed_in",),
    tail=("final_layer_norm",),
    head="lm_head|embed_out",
    attention="attention",
    attention_output="attention.dense",
    writes=(("attn", "attention"), ("mlp", "mlp")),
    n_kv_heads=one_per_head,
    values="attention.query_key_value",
    value_layout="grouped",
    outputs=(("mlp", (linear("mlp.dense_4h_to_h"),)),),
    head_tensor="embed_out.weight",
    when=lambda config: not config.use_parallel_residual,
)
FALCON = Architecture(
    ("falcon",),
    stack="transformer",
    layers="h",
    embedding=("word_embeddings",),
    tail=("ln_f",),
    attention="self_attention",
    attention_output="self_attention.dense",
    writes=(("attn", "self_attention"), ("mlp", "mlp")),
    n_kv_heads=_falcon_kv_heads,
    values="self_attention.query_key_value",
    value_layout="grouped",
    returns_tuple=True,
    outputs=(("mlp", (linear("mlp.dense_4h_to_h"),)),),
    when=lambda config: not (config.new_decoder_architecture or config.parallel_attn),
)
OPT = Architecture(
    ("opt",),
    stack="model.decoder",
    embedding=("project_in|embed_tokens", "embed_positions"),
    tail=("final_layer_norm", "project_out"),
    attention_output="self_attn.out_proj",
    mlp="fc2",
    writes=(("attn", "self_attn"), ("mlp", "fc2")),
    n_kv_heads=one_per_head,
    outputs=(("mlp", (linear("fc2"),)),),
    when=lambda config: config.do_layer_norm_before,
)
BLOOM = Architecture(
    ("bloom",),
    stack="transformer",
    layers="h",
    embedding=("word_embeddings_layernorm",),
    tail=("ln_f",),
    attention="self_attention",
    attention_output="self_attention.dense",
    # attention and MLP return their sum with the residual: the writes are their projections' outputs
    writes=(("attn", "self_attention.dense"), ("mlp", "mlp.dense_4h_to_h")),
    n_kv_heads=one_per_head,
    values="self_attention.query_key_value",
    value_layout="grouped",
    max_positions=None,
    returns_tuple=True,
    norm_after_embedding=True,
    outputs=(("mlp", (linear("mlp.dense_4h_to_h"),)),),
    # pretraining_tp with slow_but_exact multiplies slices of the weights without calling the modules.
    when=lambda config: not config.apply_residual_connection_post_layernorm and _calls_modules(config),
)
GEMMA4 = Architecture(
    ("gemma4_text",),
    writes=POST_NORMS,
    additions=gemma4,
    # Late layers have no keys and values of their own; global layers may use their keys as values.
    values="self_attn.v_proj|self_attn.k_proj",
    n_kv_heads=lambda config, attention: config.num_attention_heads // attention.num_key_value_groups,
    shares_kv=True,
    needs_bos=True,
    norm_after_write=True,
    logits=SOFT_CAP,
    outputs=(
        ("mlp", (*DENSE, stacked("experts.down_proj"))),
        ("per_layer", (linear("per_layer_projection"),)),
    ),
    stream_scale="layer_scalar",
    when=lambda config: not config.hidden_size_per_layer_input,
)

ARCHITECTURES: tuple[Architecture, ...] = (
    # stablelm's parallel layers sum `residual + attention + mlp`: the sequential order of additions.
    Architecture(("llama", "mistral", "qwen2", "qwen3", "smollm3", "olmo", "stablelm")),
    Architecture(("gemma",), needs_bos=True),
    Architecture(("starcoder2",), outputs=(("mlp", (linear("mlp.c_proj"),)),)),
    Architecture(
        ("mixtral",),
        outputs=(("mlp", (linear("block_sparse_moe.experts.*.w2"), stacked("mlp.experts.down_proj"))),),
    ),
    Architecture(("olmoe", "qwen2_moe", "qwen3_moe"), outputs=(("mlp", EXPERTS_AND_SHARED),)),
    Architecture(("gpt_oss",), outputs=(("mlp", (stacked("mlp.experts.down_proj", -1),)),)),
    # Token mixers of two kinds; those named linear_attn have no attention heads to slice.
    Architecture(
        ("qwen3_next",),
        gated=True,
        headless_mixer="linear_attn",
        outputs=(("attn", (linear("linear_attn.out_proj"),)), ("mlp", EXPERTS_AND_SHARED)),
    ),
    # Latent attention: kv_b_proj expands the latent into [key without position | value] a head.
    Architecture(
        ("deepseek_v3",),
        values="self_attn.kv_b_proj",
        value_layout="grouped",
        n_kv_heads=one_per_head,
        outputs=(("mlp", EXPERTS_AND_SHARED),),
    ),
    Architecture(("phi3",), values="self_attn.qkv_proj"),
    Architecture(("granite",), additions=granite, logits=("divide", "logits_scaling")),
    Architecture(("cohere2",), logits=("multiply", "logit_scale")),
    Architecture(
        ("phi",),
        attention_output="self_attn.dense",
        tail=("final_layernorm",),
        additions=writes_first,
        outputs=(("mlp", (linear("mlp.fc2"),)),),
    ),
    Architecture(
        ("gemma2", "gemma3_text"), writes=POST_NORMS, norm_after_write=True, logits=SOFT_CAP, needs_bos=True
    ),
    Architecture(("olmo2",), writes=POST_NORMS, norm_after_write=True),
    GEMMA4,
    # The third write comes from the per-layer embeddings.
    replace(
        GEMMA4,
        writes=(*POST_NORMS, ("per_layer", "post_per_layer_input_norm")),
        when=lambda config: bool(config.hidden_size_per_layer_input),
    ),
    Architecture(
        ("gpt2",),
        stack="transformer",
        layers="h",
        embedding=("wte", "wpe"),
        tail=("ln_f",),
        attention="attn",
        attention_output="attn.c_proj",
        writes=(("attn", "attn"), ("mlp", "mlp")),
        n_kv_heads=one_per_head,
        values="attn.c_attn",
        outputs=(("mlp", (linear("mlp.c_proj", -1),)),),
        when=lambda config: not config.add_cross_attention,
    ),
    GPT_NEOX,
    replace(GPT_NEOX, additions=writes_first, when=lambda config: config.use_parallel_residual),
    FALCON,
    replace(
        FALCON,
        additions=writes_first,
        when=lambda config: config.new_decoder_architecture or config.parallel_attn,
    ),
    OPT,
    replace(
        OPT,
        additions=opt_post_norm,
        norm_on_stream=True,
        when=lambda config: not config.do_layer_norm_before,
    ),
    BLOOM,
    replace(
        BLOOM,
        additions=bloom_post_norm,
        norm_on_stream=True,
        when=lambda config: config.apply_residual_connection_post_layernorm and _calls_modules(config),
    ),
    # One mixer a layer, neither attention nor MLP.
    Architecture(
        ("mamba2",),
        stack="backbone",
        embedding=("embeddings",),
        tail=("norm_f",),
        attention=None,
        mlp=None,
        writes=(("mixer", "mixer"),),
        additions=mamba2,
        cast_final=True,
        max_positions=None,
        outputs=(("mixer", (linear("mixer.out_proj"),)),),
    ),
)

#: Multimodal wrappers: model type → path of the text stack. The row is the text tower's own.
WRAPPERS: Mapping[str, str] = {
    "gemma3": "model.language_model",
    "gemma4": "model.language_model",
    "llava": "model.language_model",
    "mistral3": "model.language_model",
}


def row_of(text_config: Any) -> Architecture | None:
    """The row that describes a text configuration."""
    return next(
        (row for row in ARCHITECTURES if text_config.model_type in row.model_types and row.when(text_config)),
        None,
    )


@dataclass(frozen=True)
class Discovered:
    """A row that was found on a loaded model (proofs/discovery.py); nobody has read it against its source."""

    row: Architecture
    #: As it can be added to the table.
    source: str
    #: What it does not prove, e.g. "L0.head".
    refused: tuple[str, ...] = ()


_DISCOVERED: WeakKeyDictionary[nn.Module, Discovered] = WeakKeyDictionary()


def adopt(model: nn.Module, found: Discovered) -> None:
    """Keeps what was found on this very model."""
    _DISCOVERED[model] = found


def row_for(model: nn.Module) -> Architecture | None:
    """The row that describes a model: of the table, or found on it."""
    config: Any = model.config
    found = _DISCOVERED.get(model)
    return row_of(config.get_text_config()) if found is None else found.row


def needs_bos(model: nn.Module) -> bool:
    """Whether the row of a located model asks for BOS in front of every text."""
    row = row_for(model)
    return row is not None and row.needs_bos


def locate(model: nn.Module) -> SiteMap:
    """Finds every site of a causal language model by its row.

    Raises SparkablateError("architecture_unsupported") with the module tree where no row fits.
    """
    config: Any = getattr(model, "config", None)
    if config is None or not hasattr(config, "get_text_config"):
        raise unsupported(model, "it has no transformers configuration")
    text_config = config.get_text_config()
    model_type = text_config.model_type
    row = row_for(model)
    if row is None:
        raise unsupported(
            model,
            f"no row of architectures.py describes model type {model_type!r} in this configuration; one "
            "is looked for on the loaded model, by commands that load it and by sparkablate.discover(model)",
        )
    stack_path = row.stack
    found = _DISCOVERED.get(model)
    if text_config is not config and found is None:
        if config.model_type not in WRAPPERS:
            raise unsupported(
                model, f"{model_type!r} is known, but not inside the wrapper {config.model_type!r}"
            )
        stack_path = WRAPPERS[config.model_type]

    stack = require(model, model, stack_path)
    head = require(model, model, row.head)
    layers = require(model, stack, row.layers)
    if not isinstance(layers, nn.ModuleList):
        raise unsupported(model, f"{stack_path}.{row.layers} is not a list of layers")
    tail = [find(model, stack, path) for path in row.tail]
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
            for name, module in (require_named(model, stack, path) for path in row.embedding)
        ),
        layers=tuple(
            _locate_layer(model, row, text_config, plain(layer), index, f"{stack_path}.{row.layers}.{index}")
            for index, layer in enumerate(layers)
        ),
        tail=tuple(module for module in tail if module is not None),
        head=head,
        logits=logits,
        cast_final=row.cast_final,
        norm_after_write=row.norm_after_write,
        norm_on_stream=row.norm_on_stream,
        norm_after_embedding=row.norm_after_embedding,
        discovered=None if found is None else found.source,
    ).refusing(() if found is None else found.refused)


def _locate_layer(
    model: nn.Module, row: Architecture, config: Any, layer: nn.Module, index: int, path: str
) -> LayerSites:
    mixer = row.headless_mixer
    if mixer is not None and not isinstance(resolve(layer, mixer), nn.Module):
        mixer = None
    attention_path = mixer or row.attention
    headless = mixer is not None or row.attention is None
    attention = None if attention_path is None else require(model, layer, attention_path)
    mlp = None if row.mlp is None else require(model, layer, row.mlp)
    writes: dict[str, Tap] = {}
    for name, where in row.writes:
        found = find_named(model, layer, mixer if mixer and where == row.attention else where)
        if found is not None:
            writes[name] = Tap(f"{path}.{found[0]}", found[1], "output")

    heads, attention_output, values = None, None, None
    n_heads = n_kv_heads = d_head = 0
    missing: dict[str, str] = {}
    if headless:
        note = f"layer {index} has no attention heads ({mixer or config.model_type})"
        missing = {"head": note, "kv_group": note}
    else:
        assert attention is not None
        attention_output = require(model, layer, row.attention_output)
        heads = Tap(f"{path}.{row.attention_output}", attention_output, row.attention_output_side)
        n_heads = row.n_heads(config)
        # d_head comes from the projection's real width: Qwen3 and Gemma choose it freely.
        d_head, rest = divmod(input_width(attention_output), n_heads)
        if rest:
            raise unsupported(model, f"{heads.path} does not divide into {n_heads} heads")
        n_kv_heads = row.n_kv_heads(config, attention)
        # Layers that reuse another's keys and values have no projection of their own.
        found = find_named(model, layer, row.values, "optional" if row.shares_kv else "required")
        if found is not None:
            tap = Tap(f"{path}.{found[0]}", found[1], "output")
            values = Values(tap, row.value_layout, output_width(found[1]))

    neurons, has_experts = _find_neurons(row, layer)
    if neurons is None:
        missing["neuron"] = (
            "the experts that a token is routed to have no neurons to name"
            if has_experts
            else "there is no MLP whose neurons its row names"
        )
    here = LayerSites(
        index=index,
        path=path,
        module=layer,
        sites=(),
        attention=attention,
        attention_output=attention_output,
        mlp=mlp,
        heads=heads,
        neurons=None if neurons is None else Tap(f"{path}.{neurons[0]}", neurons[1], "input"),
        writes=writes,
        n_heads=n_heads,
        n_kv_heads=n_kv_heads,
        d_head=d_head,
        n_neurons=0 if neurons is None else input_width(neurons[1]),
        has_experts=has_experts,
        values=values,
        additions=row.additions,
        returns_tuple=row.returns_tuple,
        always_runs=row.shares_kv,
        gated=row.gated,
        missing=missing,
    )
    offered = {name for name, row in SITE_ROWS.items() if row.tap(here) is not None} | {"layer", "direction"}
    return replace(here, sites=tuple(site for site in SITE_ORDER if site in offered))


def _find_neurons(row: Architecture, layer: nn.Module) -> tuple[tuple[str, nn.Module] | None, bool]:
    """The projection that reads the MLP's neurons, the dense one or the shared expert's; and whether the
    layer chooses among experts besides."""
    reader: tuple[str, nn.Module] | None = None
    has_experts = False
    for one in dict(row.outputs).get("mlp", ()):
        path = one.weight.removesuffix(".weight")
        found = resolve(layer, path)
        if one.experts:
            has_experts = has_experts or isinstance(found, nn.Module | Tensor)
        elif reader is None and isinstance(found, nn.Module):
            reader = path, found
    return reader, has_experts
