"""A forward pass made again of its parts: layers of their writes, logits of the last layer's output."""

from __future__ import annotations

from typing import Any

import torch

import tiny_models
from sparkablate.anatomy.sites import SiteMap, Tap
from sparkablate.edits.hooks import recording


def record(
    model: Any, sites: Any, ids: torch.Tensor
) -> tuple[dict[tuple[str, str], torch.Tensor], torch.Tensor]:
    taps = [
        tap
        for layer in sites.layers
        for tap in (Tap(layer.path, layer.module, "input"), layer.stream, *layer.writes.values())
    ]
    recorded: dict[tuple[str, str], torch.Tensor] = {}
    with (
        torch.inference_mode(),
        recording(taps, lambda tap, x: recorded.__setitem__((tap.path, tap.side), x.clone())),
    ):
        logits = model(input_ids=ids, use_cache=False).logits
    return recorded, logits


def assert_writes_add_up(model: Any, sites: SiteMap) -> None:
    """Bit for bit, in every layer, and the logits with them."""
    recorded, logits = record(model, sites, tiny_models.tokens())
    assert sites.layers
    with torch.inference_mode():
        for layer in sites.layers:
            x = recorded[layer.path, "input"]
            writes = {
                name: recorded[tap.path, tap.side].reshape(x.shape) for name, tap in layer.writes.items()
            }
            assert torch.equal(layer.additions(layer.module, x, writes), recorded[layer.path, "output"])
        hidden = sites.finish(recorded[sites.layers[-1].path, "output"])
        assert torch.equal(sites.to_logits(hidden), logits)
