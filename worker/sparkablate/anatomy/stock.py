"""Tables: model type → what its stock configuration can say beyond numbers of layers: biases, fewer heads and
neurons."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class BiasKeys:
    """Keys of a configuration that give a layer's writing projections a bias; empty: none does.

    A key gives other projections biases too: these are 0 then. Which they are is found on the model that
    transformers builds, and a key is believed only where the projection concerned has a bias there.
    """

    attention: str = ""
    #: Of token mixers without attention heads.
    mixer: str = ""
    mlp: str = ""

    def of(self, write: str, headless: bool) -> str:
        if write == "attn":
            return self.mixer if headless else self.attention
        return self.mlp if write == "mlp" else ""


NONE = BiasKeys()
#: test/python/bake/test_biases.py finds them anew on a tiny model of each type. ernie4_5_moe's use_bias gives
#: the head one, too.
BIASES: Mapping[str, BiasKeys] = {
    **dict.fromkeys(
        (
            "llama",
            "smollm3",
            "granite",
            "minicpm3",
            "nemotron",
            "arcee",
            "jais2",
            "hy_v3",
            "deepseek_v2",
        ),
        BiasKeys("attention_bias", mlp="mlp_bias"),
    ),
    **dict.fromkeys(
        (
            "qwen3",
            "gemma",
            "gpt_neox",
            "olmo",
            "olmoe",
            "qwen3_moe",
            "gpt_oss",
            "deepseek_v3",
            "deepseek_v32",
            "cohere",
            "cohere2",
            "cohere2_moe",
            "qwen3_next",
            "qwen3_5_text",
            "qwen3_5_moe_text",
            "llama4_text",
            "glm_moe_dsa",
            "glm4_moe_lite",
            "mistral4",
            "falcon_h1",
            "kimi_linear",
            "nanochat",
            "hunyuan_v1_dense",
            "hunyuan_v1_moe",
            "apertus",
            "bitnet",
            "vaultgemma",
            "phimoe",
            "granitemoe",
            "granitemoeshared",
        ),
        BiasKeys("attention_bias"),
    ),
    **dict.fromkeys(("starcoder2", "ernie4_5"), BiasKeys("use_bias", mlp="use_bias")),
    "opt": BiasKeys("enable_bias", mlp="enable_bias"),
    "falcon": BiasKeys("bias", mlp="bias"),
    "seed_oss": BiasKeys("attention_out_bias", mlp="mlp_bias"),
    **dict.fromkeys(("cwm", "helium"), BiasKeys(mlp="mlp_bias")),
    "granitemoehybrid": BiasKeys("attention_bias", "mamba_proj_bias"),
    "bamba": BiasKeys("attention_bias", "mamba_proj_bias", "mlp_bias"),
    "nemotron_h": BiasKeys("", "use_bias", "mlp_bias"),
    "jamba": BiasKeys("", "mamba_proj_bias"),
    **dict.fromkeys(("lfm2", "lfm2_moe"), BiasKeys("", "conv_bias")),
    "lfm3": BiasKeys("attention_bias", "conv_bias"),
}


def bias_keys(model_type: str) -> BiasKeys:
    return BIASES.get(model_type, NONE)


EXACT, EXTRA_KEY = "exact", "extra key"
#: Whether a checkpoint may have fewer key/value groups, its head_dim stated. EXTRA_KEY: the class reads
#: head_dim, though its configuration does not declare it.
#: test/python/bake/test_cuts.py compares each with the same columns zeroed in a stock copy.
GROUPS: Mapping[str, str] = {
    **dict.fromkeys(
        (
            "llama",
            "mistral",
            "qwen3",
            "gemma",
            "gemma2",
            "gemma3_text",
            "vaultgemma",
            "nemotron",
            "seed_oss",
            "arcee",
            "ernie4_5",
            "glm",
            "glm4",
            "hunyuan_v1_dense",
            "hunyuan_v1_moe",
            "internlm3",
            "cwm",
            "jais2",
            "ministral",
            "ministral3",
            "mixtral",
            "gpt_oss",
            "llama4_text",
            "hy_v3",
            "solar_open",
            "cohere2_moe",
            "afmoe",
        ),
        EXACT,
    ),
    **dict.fromkeys(
        (
            "qwen2",
            "phi",
            "phi3",
            "olmo",
            "granite",
            "starcoder2",
            "cohere",
            "cohere2",
            "smollm3",
            "exaone4",
            "apertus",
            "nanochat",
            "qwen2_moe",
            "qwen3_moe",
            "phimoe",
            "glm4_moe",
            "ernie4_5_moe",
            "exaone_moe",
            "granitemoe",
            "granitemoeshared",
            "falcon_h1",
        ),
        EXTRA_KEY,
    ),
}
#: Why not. Of the first, a checkpoint would load, and be another model.
NO_GROUPS: Mapping[str, str] = {
    **dict.fromkeys(
        ("olmo2", "olmo3", "olmoe", "flex_olmo", "minimax_m2"),
        "a norm over all heads' queries and keys would change the heads that stay",
    ),
    "bitnet": "a norm over all heads stands before the output projection",
    **dict.fromkeys(
        (
            "gpt2",
            "gpt_bigcode",
            "gpt_neox",
            "gpt_neo",
            "gptj",
            "codegen",
            "mpt",
            "opt",
            "bloom",
            "falcon",
            "stablelm",
            "helium",
        ),
        "its stock class takes a head's width to be hidden size / heads, whatever is stated",
    ),
    **dict.fromkeys(
        (
            "deepseek_v2",
            "deepseek_v3",
            "deepseek_v32",
            "glm4_moe_lite",
            "glm_moe_dsa",
            "mistral4",
            "minicpm3",
            "kimi_linear",
        ),
        "its heads share a latent, and have no key/value heads of their own",
    ),
    **dict.fromkeys(("gemma4_text", "gemma4_unified_text"), "its layers have heads of different kinds"),
}
#: The key that is the width of every layer's MLP.
NEURON_KEYS: Mapping[str, str] = {
    **dict.fromkeys(
        (
            "llama",
            "mistral",
            "qwen2",
            "qwen3",
            "qwen3_5_text",
            "gemma",
            "gemma2",
            "gemma3_text",
            "vaultgemma",
            "gemma4_text",
            "gemma4_unified_text",
            "phi",
            "phi3",
            "olmo",
            "olmo2",
            "olmo3",
            "olmo_hybrid",
            "smollm3",
            "granite",
            "cohere",
            "cohere2",
            "stablelm",
            "starcoder2",
            "nanochat",
            "glm",
            "glm4",
            "ministral",
            "ministral3",
            "nemotron",
            "seed_oss",
            "ernie4_5",
            "hunyuan_v1_dense",
            "internlm3",
            "apertus",
            "arcee",
            "cwm",
            "jais2",
            "helium",
            "exaone4",
            "minicpm3",
            "gpt_neox",
            "gpt_neo",
            "bamba",
            "lfm2",
            "lfm3",
        ),
        "intermediate_size",
    ),
    **dict.fromkeys(("gpt2", "gpt_bigcode", "gptj", "codegen"), "n_inner"),
    "opt": "ffn_dim",
    "falcon": "ffn_hidden_size",
}
NO_NEURONS: Mapping[str, str] = {
    **dict.fromkeys(("bloom", "mpt"), "its stock configuration has no key for the width of the MLP"),
    "bitnet": "a norm over all neurons stands before the projection that reads them",
}
UNPROVED = "it is not proved for this model type"
#: What one tensor holds several of: the segments that are cut one by one.
FUSED: Mapping[str, Mapping[str, str]] = {
    "phi3": {"self_attn.qkv_proj.weight": "qkv", "mlp.gate_up_proj.weight": "gate_up"},
    "glm": {"mlp.gate_up_proj.weight": "gate_up"},
    "glm4": {"mlp.gate_up_proj.weight": "gate_up"},
}


def group_removal(model_type: str) -> tuple[str, str]:
    """(EXACT or EXTRA_KEY, "") or ("", why not)."""
    how = GROUPS.get(model_type, "")
    return how, "" if how else NO_GROUPS.get(model_type, UNPROVED)


def neuron_removal(model_type: str) -> tuple[str, str]:
    """(key, "") or ("", why not)."""
    key = NEURON_KEYS.get(model_type, "")
    return key, "" if key else NO_NEURONS.get(model_type, UNPROVED)


def fused_in(model_type: str, name: str) -> str:
    return FUSED.get(model_type, {}).get(name, "")
