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
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText

#: The projection that reads the neurons of a dense MLP, or of a mixture's shared expert.
NEURON_READER = re.compile(
    r"^(?!.*experts?\.\d)(.*shared_experts?\.down_proj|mlp\.(down_proj|c_proj|fc2|dense_4h_to_h)|fc2)$"
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
    "gpt2": Tiny(
        "gpt2",
        {"n_embd": D_MODEL, "n_layer": LAYERS, "n_head": HEADS, "n_positions": 128, "vocab_size": VOCAB},
    ),
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
    "deepseek_v3": Tiny(
        "deepseek_v3",
        {
            **NARROW,
            "num_key_value_heads": HEADS,
            "n_routed_experts": 4,
            "n_shared_experts": 1,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 32,
            "n_group": 2,
            "topk_group": 1,
            "first_k_dense_replace": 1,
            "q_lora_rank": 16,
            "kv_lora_rank": 16,
            "qk_rope_head_dim": 8,
            "qk_nope_head_dim": 16,
            "v_head_dim": 24,
        },
    ),
    "smollm3": Tiny("smollm3", NARROW),
    "granite": Tiny(
        "granite",
        {**NARROW, "residual_multiplier": 0.3, "embedding_multiplier": 3.0, "logits_scaling": 2.0},
    ),
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
            "layer_types": ["linear_attention", "full_attention", "linear_attention"],
            "linear_num_key_heads": 2,
            "linear_num_value_heads": 4,
            "linear_key_head_dim": 8,
            "linear_value_head_dim": 8,
        },
    ),
    "mamba2": Tiny(
        "mamba2",
        {
            "hidden_size": D_MODEL,
            "num_hidden_layers": LAYERS,
            "vocab_size": VOCAB,
            "state_size": 8,
            "num_heads": 8,
            "head_dim": 8,
            "expand": 2,
            "n_groups": 1,
            "chunk_size": 8,
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
        factory: Any = AutoModelForCausalLM
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
