"""How each architecture's writes add up to a layer's output: the `additions` column of architectures.py.

The self-test replays them bit for bit, so the order of the sums is the model's own; a sum's two terms
may stand either way round, since IEEE addition commutes. Writes and input are [batch, pos, d_model].
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn


def sequential(layer: nn.Module, x: Tensor, writes: Mapping[str, Tensor]) -> Tensor:
    """(x + a) + m. Also the order of parallel layers that sum `residual + attention + mlp`."""
    return (x + writes["attn"]) + writes["mlp"]


def writes_first(layer: nn.Module, x: Tensor, writes: Mapping[str, Tensor]) -> Tensor:
    """(a + m) + x: parallel layers that add their two writes before the residual."""
    return (writes["attn"] + writes["mlp"]) + x


def granite(layer: Any, x: Tensor, writes: Mapping[str, Tensor]) -> Tensor:
    """Sequential; each write is scaled on its way into the stream."""
    scale = layer.residual_multiplier
    return (x + writes["attn"] * scale) + writes["mlp"] * scale


def granite_shared(layer: Any, x: Tensor, writes: Mapping[str, Tensor]) -> Tensor:
    """Granite's order, where routed experts and a shared one are summed by the layer itself."""
    scale = layer.residual_multiplier
    return (x + writes["attn"] * scale) + (writes["experts"] + writes["shared"]) * scale


def minicpm3(layer: Any, x: Tensor, writes: Mapping[str, Tensor]) -> Tensor:
    """Granite's order under another name."""
    scale = layer.residual_scale
    return (x + writes["attn"] * scale) + writes["mlp"] * scale


def falcon_h1(layer: Any, x: Tensor, writes: Mapping[str, Tensor]) -> Tensor:
    """State space and attention side by side, each scaled, then the MLP."""
    mixed = writes["mixer"] * layer.ssm_out_multiplier + writes["attn"] * layer.attn_out_multiplier
    return (x + mixed) + writes["mlp"]


def minimax(layer: Any, x: Tensor, writes: Mapping[str, Tensor]) -> Tensor:
    """Each write is added to the normalised stream, both of them scaled."""
    middle = layer.input_layernorm(x) * layer.attn_alpha_factor + writes["attn"] * layer.attn_beta_factor
    return (
        layer.post_attention_layernorm(middle) * layer.mlp_alpha_factor
        + writes["mlp"] * layer.mlp_beta_factor
    )


def only_write(layer: nn.Module, x: Tensor, writes: Mapping[str, Tensor]) -> Tensor:
    """x + w: layers of one part each, whatever it is."""
    (write,) = writes.values()
    return x + write


def gemma4(layer: Any, x: Tensor, writes: Mapping[str, Tensor]) -> Tensor:
    """Sequential, then the per-layer embedding's write where there is one; the stream is scaled in place."""
    stream = sequential(layer, x, writes)
    if "per_layer" in writes:
        stream = stream + writes["per_layer"]
    return stream.mul_(layer.layer_scalar)


def opt_post_norm(layer: Any, x: Tensor, writes: Mapping[str, Tensor]) -> Tensor:
    """Each sum is normalised: the stream itself goes through the norms (OPT-350m)."""
    return layer.final_layer_norm(layer.self_attn_layer_norm(x + writes["attn"]) + writes["mlp"])


def bloom_post_norm(layer: Any, x: Tensor, writes: Mapping[str, Tensor]) -> Tensor:
    """Each write is added to the normalised stream."""
    middle = writes["attn"] + layer.input_layernorm(x)
    return writes["mlp"] + layer.post_attention_layernorm(middle)


def mamba2(layer: Any, x: Tensor, writes: Mapping[str, Tensor]) -> Tensor:
    """One write, added in float32 where the configuration says so."""
    return (x.float() if layer.residual_in_fp32 else x) + writes["mixer"]


#: Those in which a norm acts on the stream, so that what a write adds depends on what is there.
_THROUGH_NORMS = (minimax, opt_post_norm, bloom_post_norm)


def is_linear(additions: Callable[..., Tensor]) -> bool:
    """Whether the writes are added to the stream times numbers that depend on nothing."""
    return additions not in _THROUGH_NORMS
