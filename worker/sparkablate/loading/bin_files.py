"""Weights in torch's own format, read by its restricted loader alone: no code in them runs."""

from __future__ import annotations

import pickle
import re
import zipfile
from pathlib import Path

import torch
from torch import Tensor

from sparkablate.errors import first_line
from sparkablate.loading.checkpoint_files import Held, failed


def read(path: Path) -> dict[str, Tensor]:
    """The tensors of a .bin file, on the CPU, mapped where the file allows it. Raises ``load_failed``."""
    if path.stat().st_size == 0:
        raise failed(path, "it is empty: 0 bytes")
    mapped = zipfile.is_zipfile(path)
    try:
        found = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped or None)
    except (RuntimeError, ValueError, EOFError, OSError, KeyError, AttributeError, TypeError) as error:
        raise failed(path, f"it is cut off, or no file of torch's: {first_line(error)}") from error
    except pickle.UnpicklingError as error:
        raise failed(path, _why_refused(path, error)) from error
    if not isinstance(found, dict):
        raise failed(path, f"it holds {type(found).__name__}, not a dict of tensors")
    for name, value in found.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise failed(path, f"its entry {name!r:.80} is {type(value).__name__}, not a tensor")
    return found


def header(path: Path) -> dict[str, Held]:
    """Tensor → what the file holds of it, as of a safetensors file. Raises ``load_failed``."""
    return {
        name: Held(tuple(tensor.shape), str(tensor.dtype).removeprefix("torch."), tensor.nbytes)
        for name, tensor in read(path).items()
    }


def _why_refused(path: Path, error: pickle.UnpicklingError) -> str:
    """Without torch's advice, which is to run what is in the file."""
    remedy = "is not run; have its author save it as safetensors"
    if (named := re.search(r"(?:GLOBAL|[Uu]nsupported class) ([\w.]+)", str(error))) is not None:
        return f"it holds more than tensors (a pickle that names code: {named[1]}), and {remedy}"
    with path.open("rb") as stream:
        protocol = stream.read(2)
    if zipfile.is_zipfile(path) or (protocol[:1] == pickle.PROTO and protocol[1] <= pickle.HIGHEST_PROTOCOL):
        return f"it is a pickle that torch's restricted loader does not read (it may hold code), and {remedy}"
    return "it is cut off, or no file of torch's"
