"""Table: model type → what its stock configuration can say beyond numbers of layers: biases."""

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
