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
    falcon_h1,
    gemma4,
    granite,
    granite_shared,
    mamba2,
    minicpm3,
    minimax,
    only_write,
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
from sparkablate.anatomy.projections import (
    DENSE,
    EXPERTS,
    EXPERTS_AND_SHARED,
    Projection,
    linear,
    stacked,
    under,
)
from sparkablate.anatomy.sites import (
    SITE_ROWS,
    Additions,
    LayerSites,
    Layout,
    Logits,
    LogitsOp,
    SiteMap,
    Tap,
    Values,
)
from sparkablate.anatomy.towers import HEAD_ALONE, find_head, find_tower, is_wrapper
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
    value_layout: Layout = "last"

    logits: tuple[LogitsOp, str] | None = None
    cast_final: bool = False
    max_positions: str | None = "max_position_embeddings"
    returns_tuple: bool = False
    shares_kv: bool = False
    #: Whether layers read the token embeddings again, beside the stream.
    reads_tokens: bool = False
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

    #: Why nothing bakes, and why no edit of the embedding does.
    no_bake: str = ""
    no_embedding_bake: str = ""
    #: Why neurons are not offered although a projection reads them.
    no_neurons: str = ""
    #: Which configurations of these model types the row describes, and what tells it from their other rows.
    when: Callable[[Any], bool] = lambda config: True
    variant: str = ""
    #: Fields that are others in this layer, in models whose layers are of several kinds.
    in_layer: Callable[[nn.Module], Mapping[str, Any]] = lambda layer: {}


POST_NORMS = (("attn", "post_attention_layernorm"), ("mlp", "post_feedforward_layernorm"))
SOFT_CAP: tuple[LogitsOp, str] = ("soft_cap", "final_logit_softcapping")

OTHER_NAMES = "its checkpoints name their tensors otherwise than the model does"


def _headless_without(attention: str, part: str) -> Callable[[nn.Module], Mapping[str, Any]]:
    """In layers whose `attention` lacks the part, another kind of mixer stands in its place."""

    def in_layer(layer: nn.Module) -> Mapping[str, Any]:
        has = isinstance(resolve(layer, f"{attention}.{part}"), nn.Module)
        return {} if has else {"headless_mixer": attention}

    return in_layer


def _olmo_hybrid(layer: nn.Module) -> Mapping[str, Any]:
    """Norms stand after the writes of attention layers, before those of the others."""
    linear_attention = isinstance(resolve(layer, "linear_attn"), nn.Module)
    return {"writes": (("attn", "linear_attn"), ("mlp", "mlp"))} if linear_attention else {}


def _nemotron_h(layer: Any) -> Mapping[str, Any]:
    """A layer is either a mixer or an MLP."""
    match layer.block_type:
        case "full_attention":
            return {}
        case "linear_attention":
            return {"headless_mixer": "mixer"}
    return {"attention": None, "mlp": "mixer", "writes": (("mlp", "mixer"),)}


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
    ("gemma4_text", "gemma4_unified_text"),
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
    when=lambda config: not getattr(config, "hidden_size_per_layer_input", None),
)
# Token mixers of two kinds; those named linear_attn have no attention heads to slice.
QWEN3_NEXT = Architecture(
    ("qwen3_next", "qwen3_5_moe_text"),
    gated=True,
    headless_mixer="linear_attn",
    outputs=(("attn", (linear("linear_attn.out_proj"),)), ("mlp", EXPERTS_AND_SHARED)),
)
# Latent attention: kv_b_proj expands the latent into [key without position | value] a head.
DEEPSEEK = Architecture(
    ("deepseek_v2", "deepseek_v3", "deepseek_v32", "glm4_moe_lite", "mistral4"),
    values="self_attn.kv_b_proj",
    value_layout="grouped",
    n_kv_heads=one_per_head,
    outputs=(("mlp", EXPERTS_AND_SHARED),),
)
GLM_MOE_DSA = replace(DEEPSEEK, model_types=("glm_moe_dsa",), returns_tuple=True, shares_kv=True)
#: Checkpoints may call the MLP block_sparse_moe.
SPARSE_AND_SHARED = (
    *EXPERTS_AND_SHARED,
    *under("block_sparse_moe", *DENSE, linear("mlp.shared_experts.down_proj"), linear("mlp.experts.*.w2")),
)
COHERE = Architecture(("cohere", "cohere2"), logits=("multiply", "logit_scale"))
OLMO2 = Architecture(("olmo2", "olmo3", "exaone4"), writes=POST_NORMS, norm_after_write=True)
GRANITE_EXPERTS = (
    linear("block_sparse_moe.experts.*.output_linear"),
    stacked("block_sparse_moe.output_linear.weight"),
    stacked("block_sparse_moe.experts.down_proj"),
)
GRANITE = Architecture(("granite",), additions=granite, logits=("divide", "logits_scaling"))
# The layer itself adds up the experts and the shared MLP: two writes, and no one tensor that is the MLP's.
GRANITE_SHARED = replace(
    GRANITE,
    model_types=("granitemoeshared",),
    mlp="shared_mlp",
    writes=(("attn", "self_attn"), ("experts", "block_sparse_moe"), ("shared", "shared_mlp")),
    additions=granite_shared,
    outputs=(
        ("mlp", (linear("shared_mlp.output_linear"),)),
        ("experts", GRANITE_EXPERTS),
        ("shared", (linear("shared_mlp.output_linear"),)),
    ),
    variant="experts and a shared MLP",
    when=lambda config: config.shared_intermediate_size > 0,
)
FEED_FORWARD = (("attn", "self_attn"), ("mlp", "feed_forward"))
# State-space layers have an MLP as the attention layers have.
BAMBA = Architecture(
    ("bamba",),
    tail=("final_layernorm",),
    headless_mixer="mamba",
    mlp="feed_forward",
    writes=FEED_FORWARD,
    returns_tuple=True,
    outputs=(("attn", (linear("mamba.out_proj"),)), ("mlp", under("feed_forward", *DENSE))),
)
LFM2 = Architecture(
    ("lfm2",),
    tail=("embedding_norm",),
    attention_output="self_attn.out_proj",
    headless_mixer="conv",
    mlp="feed_forward",
    writes=FEED_FORWARD,
    outputs=(("attn", (linear("conv.out_proj"),)), ("mlp", (linear("feed_forward.w2"),))),
)
LFM3 = replace(
    LFM2,
    model_types=("lfm3",),
    attention_output="self_attn.o_proj",
    gated=True,
    when=lambda config: not config.use_sandwich_norm,
    variant="norms before the parts alone",
)
NEMOTRON_H_SHARED = (linear("mixer.down_proj"), linear("mixer.shared_experts.down_proj"))
NEMOTRON_H = Architecture(
    ("nemotron_h",),
    embedding=("embeddings",),
    tail=("norm_f",),
    attention="mixer",
    attention_output="mixer.o_proj",
    values="mixer.v_proj",
    mlp=None,
    writes=(("attn", "mixer"),),
    additions=only_write,
    outputs=(
        ("attn", (linear("mixer.out_proj"),)),
        (
            "mlp",
            (
                *NEMOTRON_H_SHARED,
                linear("mixer.experts.*.down_proj"),
                stacked("mixer.experts.down_proj"),
            ),
        ),
    ),
    in_layer=_nemotron_h,
    when=lambda config: config.moe_latent_size is None,
    variant="experts as wide as the stream",
)
GPT2 = Architecture(
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
)
GPT_BIGCODE = replace(
    GPT2,
    model_types=("gpt_bigcode",),
    n_kv_heads=lambda config, attention: 1,
    outputs=(("mlp", (linear("mlp.c_proj"),)),),
    when=lambda config: config.multi_query and not config.add_cross_attention,
    variant="one key/value head",
)
GPTJ = replace(
    GPT2,
    model_types=("gptj",),
    embedding=("wte",),
    attention_output="attn.out_proj",
    additions=writes_first,
    values="attn.v_proj",
    outputs=(("mlp", (linear("mlp.fc_out"),)),),
    when=lambda config: True,
)

MAMBA = Architecture(
    ("mamba", "mamba2", "falcon_mamba"),
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
)

ARCHITECTURES: tuple[Architecture, ...] = (
    # stablelm's parallel layers sum `residual + attention + mlp`: the sequential order of additions.
    Architecture(("llama", "mistral", "qwen2", "qwen3", "smollm3", "olmo", "stablelm")),
    # ministral scales queries by their position, glm has one matrix for gate and up, arcee, apertus, jais2
    # and nemotron none for the gate, bitnet norms before its output projections: none of it moves a site.
    Architecture(
        (
            "glm",
            "ministral",
            "ministral3",
            "nemotron",
            "seed_oss",
            "ernie4_5",
            "hunyuan_v1_dense",
            "internlm3",
            "apertus",
            "arcee",
            "bitnet",
            "cwm",
            "jais2",
            "helium",
            "hunyuan_vl_text",
            "paddleocr_vl_text",
            "qwen2_vl_text",
            "qwen2_5_vl_text",
            "qwen2_5_omni_text",
            "qwen3_vl_text",
        )
    ),
    Architecture(("exaone",), no_bake=OTHER_NAMES),
    Architecture(("gemma",), needs_bos=True),
    Architecture(("vaultgemma",), needs_bos=True, logits=SOFT_CAP),
    # Its norms have no weights: what a direction lacks in the embedding it lacks in the stream.
    Architecture(("nanochat",), logits=SOFT_CAP, outputs=(("mlp", (linear("mlp.fc2"),)),)),
    Architecture(("starcoder2",), outputs=(("mlp", (linear("mlp.c_proj"),)),)),
    Architecture(
        ("mixtral", "minimax_m2", "phimoe"),
        outputs=(("mlp", (linear("block_sparse_moe.experts.*.w2"), stacked("mlp.experts.down_proj"))),),
    ),
    # The stream goes through both norms; layers of lightning attention have no heads to slice: a norm over
    # all of them stands before their projection.
    Architecture(
        ("minimax",),
        additions=minimax,
        norm_on_stream=True,
        outputs=(
            ("attn", (linear("self_attn.out_proj"),)),
            ("mlp", (linear("block_sparse_moe.experts.*.w2"), stacked("mlp.experts.down_proj"))),
        ),
        in_layer=_headless_without("self_attn", "o_proj"),
    ),
    Architecture(
        (
            "olmoe",
            "qwen2_moe",
            "qwen3_moe",
            "glm4_moe",
            "ernie4_5_moe",
            "exaone_moe",
            "solar_open",
            "glm4v_moe_text",
            "qwen3_omni_moe_text",
            "qwen3_vl_moe_text",
        ),
        outputs=(("mlp", EXPERTS_AND_SHARED),),
    ),
    Architecture(
        ("hunyuan_v1_moe", "hy_v3"),
        outputs=(("mlp", (*EXPERTS_AND_SHARED, linear("mlp.shared_mlp.down_proj"))),),
    ),
    Architecture(
        ("minimax_m3_vl_text",),
        outputs=(("mlp", SPARSE_AND_SHARED),),
        no_bake="its attention chooses blocks as routers do experts, and certificates cannot tell them apart",
    ),
    # Sliding layers have twice as many key/value heads.
    Architecture(
        ("mimo_v2_flash",),
        n_kv_heads=lambda config, attention: config.num_attention_heads // attention.num_key_value_groups,
        outputs=(("mlp", EXPERTS),),
    ),
    Architecture(("gpt_oss",), outputs=(("mlp", (stacked("mlp.experts.down_proj", -1),)),)),
    Architecture(
        ("llama4_text",),
        mlp="feed_forward",
        writes=FEED_FORWARD,
        outputs=(
            (
                "mlp",
                (
                    linear("feed_forward.down_proj"),
                    linear("feed_forward.shared_expert.down_proj"),
                    stacked("feed_forward.experts.down_proj", -1),
                ),
            ),
        ),
    ),
    QWEN3_NEXT,
    replace(
        QWEN3_NEXT,
        model_types=("qwen3_5_text",),
        outputs=(("attn", (linear("linear_attn.out_proj"),)), ("mlp", DENSE)),
    ),
    DEEPSEEK,
    replace(
        DEEPSEEK,
        model_types=("minicpm3",),
        additions=minicpm3,
        logits=("divide_before", "logits_scaling"),
        outputs=(("mlp", DENSE),),
    ),
    # Layers hand on which positions their attention may see, the latter of the two keys and values as well.
    GLM_MOE_DSA,
    replace(GLM_MOE_DSA, model_types=("mistral_large4_text",), logits=SOFT_CAP, no_bake=OTHER_NAMES),
    replace(
        DEEPSEEK,
        model_types=("kimi_linear",),
        outputs=(
            ("attn", (linear("self_attn.o_proj"),)),
            ("mlp", SPARSE_AND_SHARED),
        ),
        in_layer=_headless_without("self_attn", "kv_b_proj"),
    ),
    Architecture(("phi3", "phi4_multimodal"), values="self_attn.qkv_proj"),
    GRANITE,
    replace(
        GRANITE,
        model_types=("granitemoe",),
        mlp="block_sparse_moe",
        writes=(("attn", "self_attn"), ("mlp", "block_sparse_moe")),
        outputs=(("mlp", GRANITE_EXPERTS),),
    ),
    GRANITE_SHARED,
    replace(
        GRANITE_SHARED,
        model_types=("granitemoehybrid",),
        headless_mixer="mamba",
        outputs=(("attn", (linear("mamba.out_proj"),)), *GRANITE_SHARED.outputs),
        when=lambda config: config.num_local_experts > 0,
    ),
    replace(
        GRANITE,
        model_types=("granitemoehybrid",),
        headless_mixer="mamba",
        mlp="shared_mlp",
        writes=(("attn", "self_attn"), ("mlp", "shared_mlp")),
        outputs=(
            ("attn", (linear("mamba.out_proj"),)),
            ("mlp", (linear("shared_mlp.output_linear"),)),
        ),
        when=lambda config: not config.num_local_experts,
        variant="dense",
    ),
    COHERE,
    replace(COHERE, model_types=("cohere2_moe",), outputs=(("mlp", EXPERTS_AND_SHARED),)),
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
    OLMO2,
    replace(OLMO2, model_types=("flex_olmo",), outputs=(("mlp", EXPERTS),)),
    replace(
        OLMO2,
        model_types=("olmo_hybrid",),
        headless_mixer="linear_attn",
        outputs=(("attn", (linear("linear_attn.o_proj"),)), ("mlp", DENSE)),
        in_layer=_olmo_hybrid,
    ),
    replace(
        OLMO2,
        model_types=("glm4", "glm4v_text", "glm_ocr_text"),
        writes=(("attn", "post_self_attn_layernorm"), ("mlp", "post_mlp_layernorm")),
    ),
    replace(
        OLMO2,
        model_types=("afmoe",),
        writes=(("attn", "post_attention_layernorm"), ("mlp", "post_mlp_layernorm")),
        gated=True,
        no_neurons="a norm follows the sum of the shared expert's neurons and routed experts",
        outputs=(("mlp", EXPERTS_AND_SHARED),),
    ),
    GEMMA4,
    BAMBA,
    replace(
        BAMBA,
        model_types=("jamba",),
        returns_tuple=False,
        outputs=(("attn", (linear("mamba.out_proj"),)), ("mlp", under("feed_forward", *EXPERTS))),
    ),
    # Both mixers in every layer.
    Architecture(
        ("falcon_h1",),
        tail=("final_layernorm",),
        mlp="feed_forward",
        writes=(("mixer", "mamba"), *FEED_FORWARD),
        additions=falcon_h1,
        logits=("multiply", "lm_head_multiplier"),
        returns_tuple=True,
        no_neurons="the MLP scales what the projection that reads them gives",
        outputs=(
            ("mixer", (linear("mamba.out_proj"),)),
            ("mlp", under("feed_forward", *DENSE)),
        ),
        when=lambda config: not config.mlp_bias,
    ),
    LFM2,
    replace(
        LFM2,
        model_types=("lfm2_moe",),
        outputs=(
            ("attn", (linear("conv.out_proj"),)),
            (
                "mlp",
                (
                    linear("feed_forward.w2"),
                    linear("feed_forward.experts.*.w2"),
                    stacked("feed_forward.experts.down_proj"),
                ),
            ),
        ),
    ),
    LFM3,
    replace(
        LFM3,
        writes=(("attn", "post_operator_norm"), ("mlp", "post_ffn_norm")),
        norm_after_write=True,
        when=lambda config: config.use_sandwich_norm,
        variant="norms after the parts too",
    ),
    NEMOTRON_H,
    # The experts work in a latent space, from which one projection leads back.
    replace(
        NEMOTRON_H,
        outputs=(
            ("attn", (linear("mixer.out_proj"),)),
            ("mlp", (*NEMOTRON_H_SHARED, replace(linear("mixer.fc2_latent_proj"), experts=True))),
        ),
        when=lambda config: config.moe_latent_size is not None,
        variant="latent experts",
    ),
    Architecture(
        ("recurrent_gemma",),
        tail=("final_norm",),
        attention="temporal_block",
        attention_output="temporal_block.o_proj",
        values="temporal_block.v_proj",
        mlp="mlp_block",
        writes=(("attn", "temporal_block"), ("mlp", "mlp_block")),
        logits=("soft_cap", "logits_soft_cap"),
        max_positions=None,
        needs_bos=True,
        outputs=(
            ("attn", (linear("temporal_block.linear_out"),)),
            ("mlp", (linear("mlp_block.down_proj"),)),
        ),
        in_layer=_headless_without("temporal_block", "o_proj"),
    ),
    # The third write comes from the per-layer embeddings.
    replace(
        GEMMA4,
        model_types=("gemma4_text",),
        writes=(*POST_NORMS, ("per_layer", "post_per_layer_input_norm")),
        when=lambda config: bool(config.hidden_size_per_layer_input),
        variant="with per-layer embeddings",
    ),
    GPT2,
    GPT_BIGCODE,
    replace(
        GPT_BIGCODE,
        n_kv_heads=one_per_head,
        value_layout="grouped",
        when=lambda config: not (config.multi_query or config.add_cross_attention),
        variant="a key/value head a head",
    ),
    GPTJ,
    # [query | value | key], four times.
    replace(GPTJ, model_types=("codegen",), values="attn.qkv_proj", value_layout="quartered"),
    replace(
        GPTJ,
        model_types=("gpt_neo",),
        embedding=("wte", "wpe"),
        attention_output="attn.attention.out_proj",
        values="attn.attention.v_proj",
        additions=sequential,
        returns_tuple=True,
        outputs=(("mlp", (linear("mlp.c_proj"),)),),
    ),
    # Its MLP returns its sum with the residual, as BLOOM's does.
    replace(
        GPTJ,
        model_types=("mpt",),
        layers="blocks",
        tail=("norm_f",),
        mlp="ffn",
        writes=(("attn", "attn"), ("mlp", "ffn.down_proj")),
        values="attn.Wqkv",
        additions=sequential,
        max_positions="max_seq_len",
        returns_tuple=True,
        outputs=(("mlp", (linear("ffn.down_proj"),)),),
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
    MAMBA,
    # What its shared attention makes goes into a layer's mixer and never into the stream.
    replace(
        MAMBA,
        model_types=("zamba2",),
        reads_tokens=True,
        no_embedding_bake="untying the head would untie the layers that share weights, too",
        stack="model",
        embedding=("embed_tokens",),
        tail=("final_layernorm",),
        writes=(("mixer", "mamba|mamba_decoder.mamba"),),
        additions=only_write,
        cast_final=False,
        max_positions="max_position_embeddings",
        outputs=(("mixer", (linear("mamba.out_proj"), linear("mamba_decoder.mamba.out_proj"))),),
    ),
)


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
    found = _DISCOVERED.get(model)
    stack_path, stack = find_stack(model, row)
    # A row that was found on the model says where its parts are in that very model.
    wrapper = is_wrapper(config) and found is None
    head = find_head(model, stack_path, row.head) if wrapper else require(model, model, row.head)
    layers = require(model, stack, row.layers)
    if not isinstance(layers, nn.ModuleList):
        raise unsupported(model, f"{stack_path}.{row.layers} is not a list of layers")
    tail = [find(model, stack, path) for path in row.tail]
    logits = Logits()
    if row.logits is not None and not (wrapper and config.model_type in HEAD_ALONE):
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
        reads_tokens=row.reads_tokens,
        discovered=None if found is None else found.source,
    ).refusing(() if found is None else found.refused)


def find_stack(model: nn.Module, row: Architecture) -> tuple[str, nn.Module]:
    """Path and module of a model's stack, in a wrapper of its text tower's."""
    config: Any = model.config
    if is_wrapper(config) and model not in _DISCOVERED:
        return find_tower(model, row.layers, row.embedding[0])
    return row.stack, require(model, model, row.stack)


def _locate_layer(
    model: nn.Module, row: Architecture, config: Any, layer: nn.Module, index: int, path: str
) -> LayerSites:
    row = replace(row, **row.in_layer(layer))
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
        missing["neuron"] = row.no_neurons or (
            "the experts that a token is routed to have no neurons to name"
            if has_experts
            else "there is no MLP whose neurons its row names"
        )
    if "shared" in writes:
        missing["mlp"] = (
            f"layer {index} adds its experts and its shared MLP itself: no one tensor is its MLP's"
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
        elif reader is None and isinstance(found, nn.Module) and not row.no_neurons:
            reader = path, found
    return reader, has_experts
