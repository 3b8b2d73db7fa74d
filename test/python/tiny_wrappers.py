"""Tiny multimodal wrappers: transformers' own default configurations, with every size made small and a text
configuration of tiny_models in place of their own."""

from __future__ import annotations

from typing import Any

import torch
from transformers import AutoConfig, AutoModelForImageTextToText, AutoModelForMultimodalLM
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES

from tiny_models import (
    COMMON,
    EXPERTS,
    INDEXED,
    MOE,
    NARROW,
    SPARSE,
    TINY,
    TWINS,
    randomise,
)

#: Types whose text tower has a row, and that work.
WORKING = (
    "aya_vision",
    "cohere2_vision",
    "cosmos3_omni",
    "deepseek_vl",
    "deepseek_vl_hybrid",
    "exaone4_5",
    "gemma3",
    "gemma4",
    "gemma4_unified",
    "glm46v",
    "glm4v",
    "glm4v_moe",
    "glm_ocr",
    "glmasr",
    "glmga",
    "got_ocr2",
    "granite_speech",
    "granite_speech_plus",
    "hunyuan_vl",
    "idefics2",
    "idefics3",
    "internvl",
    "janus",
    "kimi_k25",
    "lfm2_vl",
    "lfm3_vl",
    "lighton_ocr",
    "llava",
    "llava_next",
    "llava_next_video",
    "llava_onevision",
    "minicpm_ocr",
    "minicpmv4_6",
    "minicpmv4_7",
    "minimax_m3_vl",
    "mistral3",
    "mistral_large4",
    "moss_transcribe_diarize",
    "nemotron_h_omni",
    "omniasr",
    "ovis2",
    "paddleocr_vl",
    "pp_chart2table",
    "qianfan_ocr",
    "qwen2_5_omni_thinker",
    "qwen2_5_vl",
    "qwen2_audio",
    "qwen2_vl",
    "qwen3_5",
    "qwen3_5_moe",
    "qwen3_asr",
    "qwen3_omni_moe_thinker",
    "qwen3_vl",
    "qwen3_vl_moe",
    "shieldgemma2",
    "smolvlm",
    "video_llama_3",
    "video_llava",
    "vipllava",
    "voxtral",
)
#: Those that are refused → what is said.
REFUSED = {
    "blip-2": "it takes no text without pixel_values",
    "instructblip": "it takes no text without pixel_values, qformer_input_ids",
    "instructblipvideo": "it takes no text without pixel_values, qformer_input_ids",
    "paligemma": "it numbers a text's positions from 1",
}
#: Those whose tower has a row and that are not tested here → why.
UNTESTED = {
    "fast_vlm": "its image tower needs timm",
    "fun_asr_nano": "its sizes have to match one another in ways of their own",
    "llama4": "the wrapper's own pass fails without an image; AutoModelForCausalLM loads its text model",
    "nemo_speechlm": "its sizes have to match one another in ways of their own",
    "perception_lm": "its image tower needs timm",
    "qwen2_5_omni": "its text configuration is two levels down, and the whole of it predicts no tokens",
    "qwen3_omni_moe": "its text configuration is two levels down, and the whole of it predicts no tokens",
    "vibevoice_asr": "its towers do not get small",
}
#: A head's bake of these is refused: by their names on disk, or by their row.
OTHER_NAMES = ("cosmos3_omni", "kimi_k25", "minimax_m3_vl", "mistral_large4")

#: A tower of another modality: name of a size → at most.
SIZES: dict[str, int] = {
    **dict.fromkeys(("hidden_size", "embed_dim", "d_model", "width", "dim", "projection_dim"), 16),
    **dict.fromkeys(("intermediate_size", "ffn_dim", "mlp_dim", "encoder_ffn_dim", "out_hidden_size"), 32),
    **dict.fromkeys(("vision_output_dim", "projector_input_dim", "projector_output_dim"), 32),
    **dict.fromkeys(("num_hidden_layers", "num_layers", "depth", "n_layers", "encoder_layers"), 2),
    **dict.fromkeys(("num_attention_heads", "num_heads", "attention_heads", "n_heads"), 2),
    **dict.fromkeys(("encoder_attention_heads", "num_key_value_heads"), 2),
    **dict.fromkeys(("num_mel_bins", "head_dim"), 8),
    "num_blocks": 1,
    "image_size": 28,
    "patch_size": 14,
    "vocab_size": 96,
    "max_position_embeddings": 128,
    "num_position_embeddings": 64,
}
#: Parts that are no towers, whatever the names in them.
LEFT = ("rope_parameters", "rope_scaling", "id2label", "label2id")
MOST_PARAMETERS = 3_000_000


def mrope(head_dim: int) -> dict[str, Any]:
    """Rotary positions in three sections, which fill half a head."""
    first = head_dim // 8
    sections = [first, (head_dim // 2 - first) // 2, (head_dim // 2 - first + 1) // 2]
    rope = {
        "rope_type": "default",
        "rope_theta": 1e4,
        "mrope_section": sections,
        "partial_rotary_factor": 1.0,
    }
    return {"rope_parameters": rope}


#: Text types that only wrappers have.
TOWERS: dict[str, dict[str, Any]] = {
    **dict.fromkeys(
        ("qwen2_vl_text", "qwen2_5_vl_text", "qwen2_5_omni_text", "glm4v_text"), NARROW | mrope(8)
    ),
    **dict.fromkeys(("paddleocr_vl_text", "glm_ocr_text", "hunyuan_vl_text"), COMMON | mrope(16)),
    "glm4v_moe_text": NARROW | MOE | mrope(8),
    "qwen3_vl_text": COMMON,
    "qwen3_vl_moe_text": COMMON | EXPERTS,
    "qwen3_omni_moe_text": COMMON | EXPERTS,
    "mistral_large4_text": INDEXED | SPARSE,
}
TEXTS = {
    **{tiny.model_type: tiny.config for tiny in (TWINS | TINY).values() if tiny.text_type is None},
    **TOWERS,
}

GRANITE_SPEECH = {
    "encoder_config": {
        "hidden_dim": 16,
        "dim_head": 8,
        "num_heads": 2,
        "output_dim": 8,
        "input_dim": 16,
        "context_size": 8,
        "max_pos_emb": 16,
    }
}
QWEN_AUDIO = {"audio_config": {"downsample_hidden_size": 16, "output_dim": 32, "n_window": 8}}
#: Wrapper → what of its configuration has to be small besides, or else would not fit together.
SPECIAL: dict[str, dict[str, Any]] = {
    "cohere2_vision": {"alignment_intermediate_size": 32},
    "deepseek_vl_hybrid": {
        "high_res_vision_config": {
            "output_channels": 8,
            "image_size": 64,
            "patch_size": 16,
            "global_attn_indexes": [0],
            "num_pos_feats": 8,
        }
    },
    "janus": {
        "vision_config": {"projection_dim": 32},
        "vq_config": {
            "num_embeddings": 16,
            "latent_channels": 8,
            "base_channels": 32,
            "channel_multiplier": [1],
            "num_res_blocks": 1,
            "projection_dim": 32,
            "image_token_embed_dim": 32,
        },
    },
    "nemotron_h_omni": {
        "vision_config": {"max_img_size": 64, "num_cls_tokens": 1, "num_registers": 1},
        "projector_hidden_size": 32,
        "vision_hidden_size": 16,
    },
    "granite_speech": GRANITE_SPEECH,
    "granite_speech_plus": GRANITE_SPEECH,
    "omniasr": {
        "audio_config": {
            "conv_dim": [16, 16],
            "conv_kernel": [4, 4],
            "conv_stride": [2, 2],
            "num_conv_pos_embeddings": 8,
            "num_conv_pos_embedding_groups": 2,
        }
    },
    "lfm3_vl": {"vision_config": {"layer_types": None}},
    "qwen3_asr": QWEN_AUDIO,
    "qwen3_omni_moe_thinker": QWEN_AUDIO,
}


def shrunk(described: dict[str, Any]) -> dict[str, Any]:
    return {
        key: shrunk(value)
        if isinstance(value, dict) and key not in LEFT
        else min(value, SIZES[key])
        if key in SIZES and type(value) is int
        else value
        for key, value in described.items()
    }


def merged(first: dict[str, Any], second: dict[str, Any]) -> dict[str, Any]:
    return first | {
        key: merged(first[key], value)
        if isinstance(value, dict) and isinstance(first.get(key), dict)
        else value
        for key, value in second.items()
    }


def configuration(wrapper: str) -> Any:
    own = AutoConfig.for_model(wrapper)
    text = own.get_text_config()
    (field,) = (name for name, value in vars(own).items() if value is text)
    described = merged(shrunk(own.to_dict()), SPECIAL.get(wrapper, {}))
    described[field] = {"model_type": text.model_type, **TEXTS[text.model_type]}
    for name in ("model_type", "transformers_version"):
        described.pop(name)
    return AutoConfig.for_model(
        wrapper, **{name: value for name, value in described.items() if not name.startswith("_")}
    )


def build(wrapper: str) -> Any:
    """The wrapper in evaluation mode, every parameter random."""
    config = configuration(wrapper)
    images = wrapper in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES
    auto: Any = AutoModelForImageTextToText if images else AutoModelForMultimodalLM
    with torch.device("meta"):
        parameters = sum(parameter.numel() for parameter in auto.from_config(config).parameters())
    assert parameters <= MOST_PARAMETERS, f"{wrapper} would have {parameters} parameters"
    torch.manual_seed(0)
    model = auto.from_config(config).eval()
    randomise(model)
    return model
