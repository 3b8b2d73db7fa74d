"""Tiny models with random weights: at least one for every row of architectures.py.

Sizes are multiples of 16 bytes a row in every dtype, which grouped expert kernels ask for, and head
widths differ from d_model / heads wherever the architecture allows it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForImageTextToText

from sparkablate.loading.configuration import model_class

#: The projection that reads the neurons of a dense MLP, or of a mixture's shared expert.
NEURON_READER = re.compile(
    r"^(?!.*experts?\.\d)(.*shared_experts?\.down_proj|mlp\.(down_proj|c_proj|fc2|fc_out|dense_4h_to_h)|fc2"
    r"|feed_forward\.(down_proj|w2)|(mixer|ffn|mlp_block|mlp\.shared_mlp)\.down_proj|shared_mlp\.output_linear)$"
)
#: What makes an MLP's write, routed and shared experts included, by name.
WRITING = re.compile(
    r"(mlp|ffn|feed_forward|block_sparse_moe|shared_mlp|mixer|experts)\..*"
    r"(down_proj|w2|c_proj|fc2|fc_out|output_linear|fc2_latent_proj)(\.weight|\.bias|_bias)?$"
)
D_MODEL, LAYERS, HEADS, KV_HEADS, D_HEAD, VOCAB = 32, 3, 4, 2, 16, 96

COMMON = {
    "hidden_size": D_MODEL,
    "intermediate_size": 64,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "num_key_value_heads": KV_HEADS,
    "head_dim": D_HEAD,
    "vocab_size": VOCAB,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": None,
}
NARROW = {key: value for key, value in COMMON.items() if key != "head_dim"}
EXPERTS = {"num_experts": 4, "num_local_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
SHARED_EXPERT = {**EXPERTS, "shared_expert_intermediate_size": 32, "decoder_sparse_step": 1}
MOE = {
    "n_routed_experts": 4,
    "n_shared_experts": 1,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 32,
    "n_group": 2,
    "topk_group": 1,
}
PHI4_MULTIMODAL = {
    **NARROW,
    "vision_config": {
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": 56,
        "patch_size": 14,
        "crop_size": 56,
    },
    "audio_config": {
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_blocks": 1,
        "num_attention_heads": 2,
        "ext_pw_out_channel": 16,
        "depthwise_separable_out_channel": 16,
        "nemo_conv_channels": 16,
    },
}
OPT = {**NARROW, "ffn_dim": 64, "dropout": 0.0}
BLOOM = {"hidden_size": D_MODEL, "n_layer": LAYERS, "n_head": HEADS, "vocab_size": VOCAB, "pad_token_id": 0}
FALCON = {**NARROW, "alibi": False, "bias": True}
GEMMA4 = {
    **COMMON,
    "num_hidden_layers": 4,
    "layer_types": ["sliding_attention", "full_attention"] * 2,
    "global_head_dim": 32,
    "sliding_window": 8,
    "final_logit_softcapping": 5.0,
}


MLA = {
    **NARROW,
    **MOE,
    "num_key_value_heads": HEADS,
    "first_k_dense_replace": 1,
    "q_lora_rank": 16,
    "kv_lora_rank": 16,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 16,
    "v_head_dim": 24,
}
INDEXED = {**MLA, "index_topk": 64, "index_head_dim": 16, "index_n_heads": 2}
SPARSE = {"mlp_layer_types": ["dense", "sparse", "sparse"]}
GATED_DELTA = {
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
}
STATE_SPACE = {
    "mamba_n_heads": 8,
    "mamba_d_head": 8,
    "mamba_d_state": 8,
    "mamba_n_groups": 1,
    "mamba_expand": 2,
    "mamba_chunk_size": 8,
}
MAMBA = {
    "hidden_size": D_MODEL,
    "num_hidden_layers": LAYERS,
    "vocab_size": VOCAB,
    "state_size": 8,
    "expand": 2,
    "conv_kernel": 4,
}
HYBRID = ["linear_attention", "full_attention", "linear_attention"]
GRANITE = {**NARROW, "residual_multiplier": 0.3, "embedding_multiplier": 3.0, "logits_scaling": 2.0}
GRANITE_MOE = {**GRANITE, **EXPERTS, "intermediate_size": 32}
GRANITE_HYBRID = {**GRANITE_MOE, **STATE_SPACE, "shared_intermediate_size": 48, "layer_types": HYBRID}
NEMOTRON_H = {
    **COMMON,
    "layers_block_type": ["linear_attention", "mlp", "full_attention", "moe"],
    "num_hidden_layers": 4,
    "ssm_state_size": 8,
    "mamba_num_heads": 8,
    "mamba_head_dim": 8,
    "n_groups": 2,
    "chunk_size": 8,
    "n_routed_experts": 4,
    "moe_intermediate_size": 32,
    "moe_shared_expert_intermediate_size": 48,
}
GPT_2 = {"n_embd": D_MODEL, "n_layer": LAYERS, "n_head": HEADS, "n_positions": 128, "vocab_size": VOCAB}
GPT_J = {**GPT_2, "rotary_dim": 4, "n_inner": 48, "bos_token_id": 1, "eos_token_id": 1}
LFM2 = {**NARROW, "layer_types": ["conv", "full_attention", "conv"], "block_auto_adjust_ff_dim": False}
LFM3 = {**COMMON, "layer_types": ["conv", "full_attention", "sliding_attention"], "sliding_window": 5}


@dataclass(frozen=True)
class Tiny:
    model_type: str
    config: dict[str, Any] = field(default_factory=dict)
    text_type: str | None = None


TINY: dict[str, Tiny] = {
    "llama": Tiny("llama", COMMON),
    "llama_bias": Tiny("llama", {**COMMON, "attention_bias": True, "mlp_bias": True}),
    "llama_mqa": Tiny("llama", {**COMMON, "num_key_value_heads": 1}),
    "mistral": Tiny("mistral", {**COMMON, "sliding_window": 5}),
    "qwen2": Tiny("qwen2", NARROW),
    "qwen3": Tiny("qwen3", COMMON),
    "gemma": Tiny("gemma", COMMON),
    "gemma2": Tiny("gemma2", {**COMMON, "query_pre_attn_scalar": 16, "final_logit_softcapping": 5.0}),
    "gemma3_text": Tiny("gemma3_text", {**COMMON, "query_pre_attn_scalar": 16, "sliding_window": 5}),
    "gemma4_text": Tiny(
        "gemma4_text",
        {
            **GEMMA4,
            "num_kv_shared_layers": 2,
            "hidden_size_per_layer_input": 16,
            "vocab_size_per_layer_input": VOCAB,
        },
    ),
    "gemma4_text_moe": Tiny(
        "gemma4_text",
        {
            **GEMMA4,
            "num_kv_shared_layers": 0,
            "hidden_size_per_layer_input": 0,
            "attention_k_eq_v": True,
            "num_global_key_value_heads": 1,
            "enable_moe_block": True,
            "num_experts": 4,
            "top_k_experts": 2,
            "moe_intermediate_size": 32,
        },
    ),
    "phi": Tiny("phi", NARROW),
    "phi3": Tiny("phi3", NARROW),
    "gpt2": Tiny("gpt2", GPT_2),
    "gpt_neox": Tiny("gpt_neox", {**NARROW, "use_parallel_residual": True}),
    "gpt_neox_sequential": Tiny("gpt_neox", {**NARROW, "use_parallel_residual": False}),
    "opt": Tiny("opt", {**OPT, "do_layer_norm_before": True, "word_embed_proj_dim": D_MODEL}),
    "opt_post_norm": Tiny("opt", {**OPT, "do_layer_norm_before": False, "word_embed_proj_dim": 16}),
    "olmo": Tiny("olmo", NARROW),
    "olmo2": Tiny("olmo2", NARROW),
    "olmoe": Tiny("olmoe", {**NARROW, **EXPERTS, "intermediate_size": 32}),
    "mixtral": Tiny("mixtral", {**COMMON, **EXPERTS}),
    "qwen2_moe": Tiny("qwen2_moe", {**NARROW, **SHARED_EXPERT, "mlp_only_layers": [1]}),
    "qwen3_moe": Tiny("qwen3_moe", {**COMMON, **EXPERTS, "decoder_sparse_step": 1}),
    "gpt_oss": Tiny("gpt_oss", {**COMMON, **EXPERTS, "intermediate_size": 32, "sliding_window": 5}),
    "deepseek_v3": Tiny("deepseek_v3", MLA),
    "smollm3": Tiny("smollm3", NARROW),
    "granite": Tiny("granite", GRANITE),
    "cohere2": Tiny("cohere2", {**COMMON, "sliding_window": 5, "logit_scale": 0.3}),
    "stablelm": Tiny("stablelm", NARROW),
    "stablelm_parallel": Tiny("stablelm", {**NARROW, "use_parallel_residual": True}),
    "starcoder2": Tiny("starcoder2", {**NARROW, "residual_dropout": 0.0, "embedding_dropout": 0.0}),
    "falcon": Tiny("falcon", {**FALCON, "new_decoder_architecture": True, "num_kv_heads": 2}),
    "falcon_multi_query": Tiny("falcon", {**FALCON, "new_decoder_architecture": False, "multi_query": True}),
    "falcon_sequential": Tiny(
        "falcon",
        {
            **FALCON,
            "new_decoder_architecture": False,
            "multi_query": False,
            "parallel_attn": False,
            "alibi": True,
        },
    ),
    "bloom": Tiny("bloom", BLOOM),
    "bloom_post_norm": Tiny("bloom", {**BLOOM, "apply_residual_connection_post_layernorm": True}),
    "qwen3_next": Tiny(
        "qwen3_next",
        {
            **COMMON,
            **SHARED_EXPERT,
            **GATED_DELTA,
            "layer_types": HYBRID,
        },
    ),
    "mamba2": Tiny("mamba2", {**MAMBA, "num_heads": 8, "head_dim": 8, "n_groups": 1, "chunk_size": 8}),
    "minimax": Tiny(
        "minimax",
        {
            **COMMON,
            **EXPERTS,
            "layer_types": HYBRID,
            "block_size": 4,
            "full_attn_alpha_factor": 1.5,
            "full_attn_beta_factor": 0.5,
            "linear_attn_alpha_factor": 1.25,
            "linear_attn_beta_factor": 0.75,
            "mlp_alpha_factor": 2.0,
            "mlp_beta_factor": 0.25,
        },
    ),
    "llama4_text": Tiny(
        "llama4_text",
        {
            **COMMON,
            "intermediate_size_mlp": 48,
            "num_local_experts": 4,
            "num_experts_per_tok": 1,
            "moe_layers": [1],
            "attention_chunk_size": 8,
            "no_rope_layers": [1, 1, 0],
        },
    ),
    "glm_moe_dsa": Tiny("glm_moe_dsa", {**INDEXED, **SPARSE, "indexer_types": ["full", "shared", "full"]}),
    "minicpm3": Tiny(
        "minicpm3", {**MLA, "scale_emb": 3, "scale_depth": 0.8, "dim_model_base": 12, "head_dim": 24}
    ),
    "granitemoehybrid": Tiny("granitemoehybrid", GRANITE_HYBRID),
    "olmo_hybrid": Tiny(
        "olmo_hybrid",
        {
            **NARROW,
            **GATED_DELTA,
            "num_hidden_layers": 4,
            "layer_types": ["linear_attention", "full_attention"] * 2,
        },
    ),
    "falcon_h1": Tiny(
        "falcon_h1",
        {
            **NARROW,
            **STATE_SPACE,
            "mamba_d_ssm": 64,
            "lm_head_multiplier": 0.5,
            "embedding_multiplier": 3.0,
            "mlp_multipliers": [1.5, 0.75],
            "key_multiplier": 0.5,
            "attention_out_multiplier": 0.75,
            "attention_in_multiplier": 1.25,
            "ssm_multipliers": [0.5, 0.75, 1.25, 1.5, 2.0],
            "ssm_in_multiplier": 1.5,
            "ssm_out_multiplier": 0.5,
        },
    ),
    "nemotron_h": Tiny("nemotron_h", NEMOTRON_H),
    "recurrent_gemma": Tiny(
        "recurrent_gemma",
        {
            **NARROW,
            "lru_width": 48,
            "block_types": ["recurrent", "attention"],
            "attention_window_size": 8,
            "logits_soft_cap": 5.0,
        },
    ),
    "codegen": Tiny("codegen", {**GPT_J, "n_head": 8}),
    "zamba2": Tiny(
        "zamba2",
        {
            **{key: value for key, value in NARROW.items() if key != "num_key_value_heads"},
            "num_key_value_heads": HEADS,
            "layers_block_type": ["mamba", "hybrid", "mamba", "hybrid"],
            "num_hidden_layers": 4,
            "mamba_d_state": 8,
            "n_mamba_heads": 8,
            "chunk_size": 8,
            "adapter_rank": 8,
        },
    ),
    "llava": Tiny("llava", {**COMMON, "num_attention_heads": 4}, text_type="llama"),
    "mistral3": Tiny("mistral3", COMMON, text_type="mistral"),
    "gemma4": Tiny(
        "gemma4",
        {**GEMMA4, "num_kv_shared_layers": 0, "hidden_size_per_layer_input": 0},
        text_type="gemma4_text",
    ),
    "gemma3": Tiny("gemma3", {**COMMON, "query_pre_attn_scalar": 16}, text_type="gemma3_text"),
}

#: Renamed twins of the above and rows that differ from one in names alone: they take fewer tests.
TWINS: dict[str, Tiny] = {
    "kimi_linear": Tiny(
        "kimi_linear",
        {
            **{key: value for key, value in MLA.items() if key != "first_k_dense_replace"},
            **SPARSE,
            "num_local_experts": 4,
            "q_lora_rank": None,
            "layer_types": HYBRID,
            "linear_head_dim": 8,
            "linear_num_heads": 4,
        },
    ),
    "bamba": Tiny("bamba", {**NARROW, **STATE_SPACE, "attn_layer_indices": [1]}),
    "lfm3_sandwich": Tiny("lfm3", LFM3),
    "nanochat": Tiny("nanochat", {**NARROW, "final_logit_softcapping": 5.0}),
    "mpt": Tiny(
        "mpt",
        {"d_model": D_MODEL, "n_heads": HEADS, "n_layers": LAYERS, "max_seq_len": 128, "vocab_size": VOCAB},
    ),
    "glm": Tiny("glm", COMMON),
    "ministral": Tiny("ministral", {**COMMON, "sliding_window": 5}),
    "ministral3": Tiny("ministral3", COMMON),
    "nemotron": Tiny("nemotron", COMMON),
    "seed_oss": Tiny("seed_oss", COMMON),
    "ernie4_5": Tiny("ernie4_5", {**COMMON, "use_bias": True}),
    "hunyuan_v1_dense": Tiny("hunyuan_v1_dense", COMMON),
    "exaone": Tiny("exaone", COMMON),
    "internlm3": Tiny("internlm3", {**COMMON, "qkv_bias": True, "bias": True}),
    "apertus": Tiny("apertus", COMMON),
    "arcee": Tiny("arcee", COMMON),
    "bitnet": Tiny("bitnet", NARROW),
    "cwm": Tiny("cwm", {**COMMON, "sliding_window": 5}),
    "jais2": Tiny("jais2", COMMON),
    "helium": Tiny("helium", {**COMMON, "head_dim": 8}),  # its output projection takes d_model
    "vaultgemma": Tiny("vaultgemma", {**COMMON, "query_pre_attn_scalar": 16}),
    "minimax_m2": Tiny("minimax_m2", {**COMMON, **EXPERTS, "intermediate_size": 32}),
    "phimoe": Tiny("phimoe", {**NARROW, **EXPERTS, "lm_head_bias": True}),
    "glm4_moe": Tiny("glm4_moe", {**COMMON, **MOE, "first_k_dense_replace": 1}),
    "ernie4_5_moe": Tiny(
        "ernie4_5_moe",
        {
            **NARROW,
            "moe_num_experts": 4,
            "moe_k": 2,
            "moe_intermediate_size": 32,
            "moe_num_shared_experts": 1,
        },
    ),
    "exaone_moe": Tiny("exaone_moe", {**COMMON, **EXPERTS, "sliding_window": 5}),
    "hy_v3": Tiny("hy_v3", {**COMMON, **EXPERTS, **SPARSE}),
    "solar_open": Tiny("solar_open", {**COMMON, **MOE}),
    "hunyuan_v1_moe": Tiny(
        "hunyuan_v1_moe", {**COMMON, "num_experts": 4, "moe_topk": 2, "intermediate_size": 32}
    ),
    "mimo_v2_flash": Tiny(
        "mimo_v2_flash",
        {
            **COMMON,
            **MOE,
            **SPARSE,
            "num_key_value_heads": 1,
            "v_head_dim": 24,
            "sliding_window": 5,
            "layer_types": ["full_attention", "sliding_attention", "sliding_attention"],
        },
    ),
    "qwen3_5_moe_text": Tiny(
        "qwen3_5_moe_text", {**COMMON, **SHARED_EXPERT, **GATED_DELTA, "layer_types": HYBRID}
    ),
    "qwen3_5_text": Tiny("qwen3_5_text", {**COMMON, **GATED_DELTA, "layer_types": HYBRID}),
    "deepseek_v2": Tiny("deepseek_v2", {**MLA, "topk_method": "group_limited_greedy", "num_experts": 4}),
    "deepseek_v32": Tiny("deepseek_v32", {**INDEXED, **SPARSE}),
    "glm4_moe_lite": Tiny("glm4_moe_lite", {**MLA, **SPARSE}),
    "mistral4": Tiny("mistral4", {**MLA, "num_local_experts": 4}),
    "minimax_m3_vl_text": Tiny(
        "minimax_m3_vl_text",
        {
            **COMMON,
            **EXPERTS,
            **SPARSE,
            "intermediate_size": 32,
            "dense_intermediate_size": 64,
            "shared_intermediate_size": 32,
            "layer_types": ["full_attention", "minimax_m3_sparse", "minimax_m3_sparse"],
            "index_head_dim": 16,
            "index_block_size": 4,
        },
    ),
    "phi4_multimodal": Tiny("phi4_multimodal", PHI4_MULTIMODAL),
    "granitemoe": Tiny("granitemoe", GRANITE_MOE),
    "granitemoeshared": Tiny("granitemoeshared", {**GRANITE_MOE, "shared_intermediate_size": 48}),
    "granitemoehybrid_dense": Tiny("granitemoehybrid", {**GRANITE_HYBRID, "num_local_experts": 0}),
    "cohere": Tiny("cohere", {**NARROW, "use_qk_norm": True, "logit_scale": 0.3}),
    "cohere2_moe": Tiny(
        "cohere2_moe",
        {
            **COMMON,
            **EXPERTS,
            **SPARSE,
            "intermediate_size": 32,
            "prefix_dense_intermediate_size": 64,
            "num_shared_experts": 1,
            "sliding_window": 5,
            "logit_scale": 0.3,
        },
    ),
    "olmo3": Tiny("olmo3", {**NARROW, "sliding_window": 5}),
    "exaone4": Tiny("exaone4", {**COMMON, "sliding_window": 5}),
    "flex_olmo": Tiny("flex_olmo", {**NARROW, **EXPERTS, "intermediate_size": 32}),
    "glm4": Tiny("glm4", COMMON),
    "afmoe": Tiny(
        "afmoe",
        {
            **COMMON,
            **EXPERTS,
            "num_dense_layers": 1,
            "num_shared_experts": 1,
            "sliding_window": 5,
            "mup_enabled": True,
        },
    ),
    "gemma4_unified_text": Tiny("gemma4_unified_text", {**GEMMA4, "num_kv_shared_layers": 0}),
    "jamba": Tiny(
        "jamba",
        {
            **NARROW,
            **EXPERTS,
            "attn_layer_period": 2,
            "attn_layer_offset": 1,
            "mamba_d_state": 8,
            "mamba_dt_rank": 4,
            "expert_layer_period": 2,
            "expert_layer_offset": 1,
        },
    ),
    "lfm2": Tiny("lfm2", LFM2),
    "lfm2_moe": Tiny("lfm2_moe", {**LFM2, **EXPERTS, "num_dense_layers": 1}),
    "lfm3": Tiny("lfm3", {**LFM3, "use_sandwich_norm": False}),
    "nemotron_h_latent": Tiny("nemotron_h", {**NEMOTRON_H, "moe_latent_size": 16}),
    "gpt_bigcode": Tiny("gpt_bigcode", {**GPT_2, "multi_query": True}),
    "gpt_bigcode_multi_head": Tiny("gpt_bigcode", {**GPT_2, "multi_query": False}),
    "gptj": Tiny("gptj", GPT_J),
    "gpt_neo": Tiny(
        "gpt_neo",
        {
            "hidden_size": D_MODEL,
            "num_layers": LAYERS,
            "num_heads": HEADS,
            "vocab_size": VOCAB,
            "max_position_embeddings": 128,
            "intermediate_size": 48,
            "attention_types": [[["global", "local", "global"], 1]],
            "window_size": 5,
        },
    ),
    "mamba": Tiny("mamba", {**MAMBA, "time_step_rank": 4}),
    "falcon_mamba": Tiny("falcon_mamba", {**MAMBA, "time_step_rank": 4}),
}

VISION = {
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
}


def build(name: str, dtype: torch.dtype = torch.float32, seed: int = 0) -> Any:
    return make(TINY[name], dtype, seed)


def make(tiny: Tiny, dtype: torch.dtype = torch.float32, seed: int = 0) -> Any:
    """The model in evaluation mode. Every parameter is random: biases and norms too, so that nothing is
    right by accident."""
    if tiny.text_type is None:
        config = AutoConfig.for_model(tiny.model_type, **tiny.config)
        factory: Any = model_class(config)
    else:
        text = {"model_type": tiny.text_type, **tiny.config}
        config = AutoConfig.for_model(tiny.model_type, text_config=text, vision_config=VISION)
        factory = AutoModelForImageTextToText
    torch.manual_seed(seed)
    model = factory.from_config(config).eval()
    randomise(model)
    return model.to(dtype)


def randomise(model: nn.Module) -> None:
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn_like(parameter)
            if parameter.dim() >= 2:
                parameter.copy_(noise * parameter.shape[-1] ** -0.5)
            else:
                parameter.add_(0.1 * noise)


def tokens(batch: int = 2, length: int = 12, seed: int = 1) -> torch.Tensor:
    """Random ids without the padding token  # [batch, pos]"""
    return torch.randint(2, VOCAB, (batch, length), generator=torch.Generator().manual_seed(seed))


def writing_elements(layer: nn.Module) -> int:
    """How many numbers make the write of a layer's MLP."""
    names = [name for name, _ in layer.named_parameters() if WRITING.search(name)]
    latent = any("fc2_latent_proj" in name for name in names)  # what experts write goes through it
    return sum(layer.get_parameter(name).numel() for name in names if not (latent and ".experts." in name))
