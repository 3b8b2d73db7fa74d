"""Streams a checkpoint into a new one: what is not edited keeps its bytes, or is cast exactly."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from sparkablate.bake.checkpoint import FLOATS, Checkpoint
from sparkablate.bake.edits import Edit, Edits, Keep
from sparkablate.bake.place import sync_file
from sparkablate.progress import Progress

#: A shard is in memory as a whole while it is written.
MAX_SHARD_BYTES = 4 << 30


@dataclass(frozen=True)
class Output:
    """One tensor to write: its name, the source tensor, and the edits in their order. Without a source it is
    one of zeros before they act. `shape`: after them."""

    name: str
    source: str | None
    shape: tuple[int, ...]
    dtype: torch.dtype
    edits: tuple[Edit, ...] = ()
    #: Before them, where there is no source.
    source_shape: tuple[int, ...] = ()

    @property
    def bytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


@dataclass
class Shard:
    outputs: list[Output] = field(default_factory=list)
    bytes: int = 0


def plan_outputs(
    checkpoint: Checkpoint,
    edits: Edits,
    renamed: Callable[[str], str | None],
    dtype: torch.dtype | None,
) -> list[Output]:
    """Every tensor of the new checkpoint, in the source's order, then those that it lacks.

    `dtype`: None keeps the source's.
    """
    outputs = []
    for name, entry in checkpoint.entries.items():
        new = renamed(name)
        if new is None or (edits.untied_head is not None and name == edits.untied_head[0]):
            continue
        made = edits.by_tensor.get(name, ())
        outputs.append(Output(new, name, _shape(entry.shape, made), _target(entry.dtype, dtype), made))
    for name, entry in edits.added.items():
        if (new := renamed(name)) is not None:
            made = edits.by_tensor.get(name, ())
            shape, made_as = _shape(entry.shape, made), _target(entry.dtype, dtype)
            outputs.append(Output(new, None, shape, made_as, made, source_shape=entry.shape))
    if edits.untied_head is not None:
        head, embedding = edits.untied_head
        entry = checkpoint.entries[embedding]
        outputs.append(Output(head, embedding, entry.shape, _target(entry.dtype, dtype)))
    return outputs


def _shape(source: tuple[int, ...], edits: Sequence[Edit]) -> tuple[int, ...]:
    shape = list(source)
    for edit in edits:
        if isinstance(edit, Keep):
            shape[edit.axis] = len(edit.indices)
    return tuple(shape)


def _target(source: torch.dtype, wanted: torch.dtype | None) -> torch.dtype:
    """Counters and masks keep their type, float64 is never narrowed: every cast is exact."""
    if wanted is None or source not in FLOATS or source == torch.float64:
        return source
    return wanted


def edited(tensor: Tensor, output: Output) -> Tensor:
    """The tensor as it will be on disk: edits act in float64, one cast at the end."""
    if output.edits:
        tensor = tensor.double()
        for edit in output.edits:
            tensor = edit.apply(tensor)
    return tensor.to(output.dtype).contiguous()


def write_weights(
    checkpoint: Checkpoint,
    outputs: list[Output],
    directory: Path,
    progress: Progress,
    stop: Callable[[], None],
) -> None:
    """Writes and syncs the shards, then their index. `stop` may raise between tensors."""
    shards = _shards(outputs)
    total = float(sum(shard.bytes for shard in shards))
    done = 0.0
    weight_map: dict[str, str] = {}
    for number, shard in enumerate(shards, start=1):
        name = (
            "model.safetensors"
            if len(shards) == 1
            else f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        )
        tensors: dict[str, Tensor] = {}
        for output in shard.outputs:
            stop()
            source = (
                torch.zeros(output.source_shape) if output.source is None else checkpoint.read(output.source)
            )
            tensors[output.name] = edited(source, output)
            weight_map[output.name] = name
            done += output.bytes
            progress("write", done, total, "bytes")
        save_file(tensors, directory / name, metadata={"format": "pt"})
        sync_file(directory / name)
        del tensors
    if len(shards) > 1:
        index = {"metadata": {"total_size": int(total)}, "weight_map": weight_map}
        write_json(directory / "model.safetensors.index.json", index)


def _shards(outputs: Iterable[Output]) -> list[Shard]:
    shards = [Shard()]
    for output in outputs:
        if shards[-1].outputs and shards[-1].bytes + output.bytes > MAX_SHARD_BYTES:
            shards.append(Shard())
        shards[-1].outputs.append(output)
        shards[-1].bytes += output.bytes
    return shards


def write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    sync_file(path)
