"""A tiny model of any type that transformers builds, by shrinking the numbers of its default configuration.

For looking at all types, not for testing one: `tiny_models.py` has those of the table's rows.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

import tiny_models

#: What a number of a configuration becomes, at any depth, by the keys that have it.
_KEYS: dict[int, str] = {
    32: "hidden_size d_model n_embd dim embed_dim embedding_size lru_width word_embed_proj_dim model_dim "
    "attention_hidden_size moe_intermediate_size expert_ffn_hidden_size expert_dim shared_expert_dim "
    "shared_expert_intermediate_size moe_shared_expert_intermediate_size",
    64: "intermediate_size ffn_dim n_inner d_ff ffn_hidden_size block_ff_dim decoder_ffn_dim encoder_ffn_dim "
    "intermediate_size_mlp mamba_d_ssm shared_intermediate_size",
    4: "num_hidden_layers n_layer num_layers n_layers num_attention_heads n_head n_heads num_heads "
    "decoder_attention_heads encoder_attention_heads swa_num_attention_heads num_experts num_local_experts "
    "n_routed_experts moe_num_experts mamba_n_heads mamba_num_heads mamba_dt_rank time_step_rank "
    "linear_num_value_heads laurel_rank adapter_rank",
    2: "decoder_layers encoder_layers num_key_value_heads num_kv_heads multi_query_group_num "
    "swa_num_key_value_heads num_global_key_value_heads num_experts_per_tok top_k moe_topk moe_k "
    "top_k_experts mamba_expand linear_num_key_heads index_n_heads eos_token_id",
    16: "head_dim attention_head_dim kv_channels global_head_dim swa_head_dim q_lora_rank kv_lora_rank "
    "qk_nope_head_dim v_head_dim mamba_d_head mamba_head_dim index_head_dim",
    96: "vocab_size vocab_size_per_layer_input",
    128: "max_position_embeddings n_positions n_ctx max_sequence_length",
    1: "n_shared_experts n_group topk_group first_k_dense_replace moe_layer_start_index num_dense_layers "
    "mamba_n_groups mamba_ngroups n_groups n_mamba_heads num_mem_blocks bos_token_id",
    8: "qk_rope_head_dim rotary_dim mamba_d_state ssm_state_size state_size hidden_size_per_layer_input "
    "mamba_chunk_size chunk_size linear_key_head_dim linear_value_head_dim index_topk",
    24: "qk_head_dim",
    5: "sliding_window attention_window_size",
    0: "num_kv_shared_layers pad_token_id",
}
_DROPOUTS = (
    "hidden_dropout attention_dropout resid_pdrop embd_pdrop residual_dropout embedding_dropout "
    "hidden_dropout_prob attention_probs_dropout_prob dropout"
)
SMALL: dict[str, Any] = {
    **{key: value for value, keys in _KEYS.items() for key in keys.split()},
    **dict.fromkeys(_DROPOUTS.split(), 0.0),
}
#: Lists with an entry a layer: all kinds in turn.
A_LAYER = (
    "layer_types",
    "mlp_layer_types",
    "layers_block_type",
    "layer_block_type",
    "block_types",
    "attn_type_list",
    "no_rope_layers",
)
#: What the numbers above leave inconsistent.
MENDED: dict[str, dict[str, Any]] = {
    "helium": {"head_dim": 8},
    "deepseek_v2": {"num_experts_per_tok": 2},
    "gemma3n_text": {"intermediate_size": [64] * 4, "activation_sparsity_pattern": [0.0] * 4},
    "hunyuan_v1_dense": {"head_dim": 16},
    "hunyuan_v1_moe": {"head_dim": 16},
    "nemotron": {"num_key_value_heads": 2},
    "ministral": {"head_dim": 16},
}
#: Above this the numbers that matter were not found.
MOST_PARAMETERS = 16_000_000


def shrunken(model_type: str, **numbers: Any) -> Any:
    """``numbers`` of the configuration that are to be others.

    Raises what transformers does where the numbers do not go together, ValueError for what stays large.
    """
    for known in {**tiny_models.TINY, **tiny_models.TWINS}.values():
        if model_type == known.model_type and known.text_type is None and not numbers:
            return tiny_models.make(known)
    config = _shrunk(AutoConfig.for_model(model_type))
    for key, value in numbers.items():
        setattr(config, key, value)
    for key, value in MENDED.get(model_type, {}).items():
        setattr(config, key, value)
    torch.manual_seed(0)
    with torch.device("meta"):
        size = sum(one.numel() for one in AutoModelForCausalLM.from_config(config).parameters())
    if size > MOST_PARAMETERS:
        raise ValueError(f"{size / 1e6:.0f} M parameters")
    model = AutoModelForCausalLM.from_config(config).eval()
    tiny_models.randomise(model)
    return model


def _shrunk(config: Any, depth: int = 0) -> Any:
    for inner in list(vars(config).values()):
        if hasattr(inner, "to_dict") and depth < 3:
            _shrunk(inner, depth + 1)
    for key, value in SMALL.items():
        if _number(config, key):
            _set(config, key, value)
    if getattr(config, "qk_rope_head_dim", None):
        _set(config, "head_dim", 8)
        _set(config, "num_key_value_heads", 4)
    layers = getattr(config, "num_hidden_layers", 4)
    for key in A_LAYER:
        kinds = list(dict.fromkeys(getattr(config, key, None) or ()))
        if kinds:
            _set(config, key, [kinds[index % len(kinds)] for index in range(layers)])
    return config


def _set(config: Any, key: str, value: Any) -> None:
    try:
        setattr(config, key, value)
    except (AttributeError, NotImplementedError, RuntimeError):
        return  # derived from other numbers of this configuration


def _number(config: Any, key: str) -> bool:
    try:
        return isinstance(getattr(config, key, None), int | float)
    except RuntimeError:
        return False  # a number a layer
