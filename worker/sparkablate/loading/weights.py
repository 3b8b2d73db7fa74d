"""A model with the weights of its files: every tensor where it belongs, or an error that names the file."""

from __future__ import annotations

import math
import re
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from sparkablate.errors import SparkablateError
from sparkablate.loading import bin_files, checkpoint_files, folders, index_view, memory, unread
from sparkablate.loading.checkpoint_files import Held, Weights
from sparkablate.loading.configuration import build_empty, model_class, not_read

#: Names of dtypes that hold a number as it is; anything else is packed or scaled, and needs a quantizer.
PLAIN = frozenset(
    {"F64", "F32", "F16", "BF16", "float64", "float32", "float16", "bfloat16"}
)  # safetensors' names, torch's names
#: Quantised weights that become dense where no kernel of theirs runs: on a CPU.
DENSE_ON_CPU = ("mxfp4", "fp8")


class Files:
    """The weights' files of a directory, and what they hold."""

    def __init__(self, directory: Path) -> None:
        """Raises ``load_failed`` for what cannot be read as weights, with the file's name."""
        checkpoint_files.check_files(directory)
        self.weights: Weights = checkpoint_files.weights_of(directory)
        self.held = _held(self.weights)
        self.contested = index_view.contested(self.weights, self.held)

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {tensor: next(iter(holders.values())).shape for tensor, holders in self.held.items()}

    def notices(self) -> list[str]:
        """What a person should know of the files."""
        directory, weights, found = self.weights.directory, self.weights, []
        if weights.unread:
            read = weights.files[0].name + (" …" if len(weights.files) > 1 else "")
            found.append(
                f"{directory} holds other weights, too: {read} was read, "
                f"{', '.join(weights.unread)[:1000]} was not"
            )
        if checkpoint_files.has_adapter(directory):
            found.append(
                f"{directory} holds an adapter beside the model: it is not applied; to measure the model "
                "with it, merge it first (merge_and_unload)"
            )
        if self.contested:
            names = sorted(self.contested)
            found.append(
                f"{directory}: {len(names)} tensors are in two shards, e.g. {names[0]}: taken from where the "
                "index says"
            )
        return found

    def require_plain(self) -> None:
        """Raises ``load_failed`` for packed numbers that nothing unpacked: transformers casts them."""
        for tensor, holders in self.held.items():
            for file, held in holders.items():
                if tensor.endswith(".weight") and held.dtype not in PLAIN:
                    raise checkpoint_files.failed(
                        self.weights.directory / file,
                        f"{tensor} is {held.dtype}, and config.json has no quantization_config",
                    )

    def quantised_bytes(self, config: Any, dtype: torch.dtype, where: torch.device, trust: bool) -> int:
        """What the weights of a quantised model take in memory: packed ones as they are on disk, plain ones
        in ``dtype``; or all of them in ``dtype`` where they become dense at load."""
        told = _quantisation(config)
        if told.get("dequantize") or (where.type == "cpu" and told.get("quant_method") in DENSE_ON_CPU):
            return memory.weight_bytes(build_empty(config, trust_remote_code=trust), dtype)
        return sum(
            math.prod(held.shape) * dtype.itemsize
            if held.dtype in PLAIN and not _is_scale(tensor)
            else held.bytes
            for tensor, holders in self.held.items()
            for held in (next(iter(holders.values())),)
        )


def _quantisation(config: Any) -> dict[str, Any]:
    """What a configuration says of it; empty where the weights are plain numbers."""
    method = getattr(config, "quantization_config", None) or {}
    return dict(method if isinstance(method, Mapping) else method.to_dict())


def packing_of(config: Any) -> str | None:
    """Name of the method that a configuration says its weights are quantised by; None: by none."""
    return str(told.get("quant_method")) if (told := _quantisation(config)) else None


def _held(weights: Weights) -> dict[str, dict[str, Held]]:
    if weights.safetensors:
        return checkpoint_files.headers(weights)
    found: dict[str, dict[str, Held]] = {}
    for path in weights.files:
        for tensor, held in bin_files.header(path).items():
            found.setdefault(tensor, {})[checkpoint_files.name_in(weights.directory, path)] = held
    return found


def _is_scale(tensor: str) -> bool:
    """Scales keep the dtype that they are stored in."""
    return "scale" in tensor.rpartition(".")[2]


def read_model(
    source: str, files: Files | None, config: Any, options: dict[str, Any], where: torch.device
) -> tuple[Any, Mapping[str, Any]]:
    """The model, and transformers' account of its tensors. ``files``: of a directory; None: from the hub.

    Raises ``load_failed``.
    """
    view = None
    if files is not None and index_view.needed(files.weights, files.contested):
        view = index_view.make(files.weights, files.contested)
    try:
        # Shapes that differ are refused below, with both shapes; transformers only logs them.
        model, info = model_class(config).from_pretrained(
            view or source, output_loading_info=True, ignore_mismatched_sizes=True, **options
        )
    except BaseException as error:
        if view is not None:
            folders.remove(view)
        if isinstance(error, torch.OutOfMemoryError | MemoryError):
            raise SparkablateError(
                "load_failed", f"{source}: not enough memory for the weights on {where}: {error}"
            ) from error
        if isinstance(error, SparkablateError) or not isinstance(error, Exception | SystemExit):
            raise
        raise not_read(source, "the weights", error, local=files is not None) from error
    if view is not None:
        model.config.name_or_path = source
        weakref.finalize(model, folders.remove, view)  # layers that stay on disk are read from there
    return model, info


def check_filled(
    source: str, model: Any, info: Mapping[str, Any], files: Files, packing: str | None
) -> list[str]:
    """Notices of what was read past. ``packing``: the quantisation that the files are said to have.

    Raises ``load_failed`` for parameters that no tensor fills, or one of another shape, and for tensors that
    the model does not take and should.
    """
    notices = []
    if getattr(model, "hf_quantizer", None) is None:
        if (quantisation := getattr(model.config, "quantization_config", None)) is not None:
            raise SparkablateError(
                "load_failed",
                f"{source}: config.json: quantization_config: transformers does not know this quantisation: "
                f"{quantisation!r:.200}",
            )
        if packing is None:
            files.require_plain()
        else:  # transformers unpacks what no kernel of this device computes with, and forgets that it did
            dtype = str(model.dtype).removeprefix("torch.")
            notices.append(f"{source} is quantised ({packing}): here its weights are unpacked, to {dtype}")
    if missing := sorted(info["missing_keys"]):
        raise SparkablateError("load_failed", f"{source} lacks {len(missing)} weights, e.g. {missing[0]}")
    if mismatched := sorted(info["mismatched_keys"]):
        name, on_disk, in_model = mismatched[0]
        raise SparkablateError(
            "load_failed",
            f"{source}: {len(mismatched)} weights do not have the shape that config.json says, e.g. {name}: "
            f"{list(on_disk)} in the checkpoint, {list(in_model)} by config.json",
        )
    tower = unread.Tower(model)
    unread.refuse_doubles(source, files.held, tower)
    found = unread.unread_names(model, tower, info["unexpected_keys"], files.shapes)
    notices += [*unread.sort_out(source, model, found, tower), *_left_out_notice(model, files, tower)]
    return [*notices, *_head_notice(model)]


def _left_out_notice(model: Any, files: Files, tower: unread.Tower) -> list[str]:
    """transformers says nothing of missing tensors that are on a class's list, such as the correction bias of
    A.X K1's router, which its checkpoints do without."""
    patterns = getattr(model, "_keys_to_ignore_on_load_missing", None) or ()
    held = {tower.inside(name) for name in files.held}
    left = sorted(
        name
        for name in model.state_dict()
        if any(re.search(pattern, name) for pattern in patterns) and tower.inside(name) not in held
    )
    if not left:
        return []
    return [
        f"{len(left)} tensors that the checkpoint does not hold are as transformers makes them, whose list "
        f"for this type lets them be missing: {left[0]}{' …' if len(left) > 1 else ''}"
    ]


def _head_notice(model: Any) -> list[str]:
    """transformers ties nothing where the checkpoint holds a head that is not the embedding."""
    head, embedding = model.get_output_embeddings(), model.get_input_embeddings()
    tied = getattr(model.config.get_text_config(), "tie_word_embeddings", False)
    if not tied or head is None or head.weight is embedding.weight or head.weight.device.type == "meta":
        return []
    if head.weight.data_ptr() == embedding.weight.data_ptr():
        return []
    return [
        "config.json ties the head to the embedding, but the checkpoint holds a head of its own that "
        "differs: that one is used"
    ]
