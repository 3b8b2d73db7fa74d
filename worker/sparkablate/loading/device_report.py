"""``python -m sparkablate.loading.device_report``: what torch can do here, as JSON, for ``doctor``."""

from __future__ import annotations

import json

import torch
import transformers

from sparkablate.errors import SparkablateError
from sparkablate.loading import memory, numerics


def report() -> dict[str, object]:
    """Versions, the build's architectures, and each CUDA device with what the build lacks for it and whether
    the driver has to compile for it first (None: nothing, no). Of the automatic device: what the weights of a
    model may take, and for each dtype why its matmul or attention was refused (None: both are right).
    """
    arch_list = torch.cuda.get_arch_list()
    devices = []
    for index in range(torch.cuda.device_count()):
        capability = torch.cuda.get_device_capability(index)
        described = numerics.describe_device(torch.device("cuda", index))
        devices.append(
            {
                "name": torch.cuda.get_device_name(index),
                "capability": f"{capability[0]}.{capability[1]}",
                "missing_kernels": numerics.missing_kernels(described),
                "slow_first_pass": numerics.slow_first_pass(described),
            }
        )
    device = numerics.resolve_device("auto")
    numerics.configure(None)
    return {
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "transformers": transformers.__version__,
        "device": device.type,
        "arch_list": arch_list,
        "devices": devices,
        "memory": str(memory.budget(device)),
        "proof": {name: _refusal(device, dtype) for name, dtype in numerics.DTYPES.items()},
    }


def _refusal(device: torch.device, dtype: torch.dtype) -> str | None:
    try:
        numerics.prove(device, dtype)
    except SparkablateError as error:
        return error.message
    return None


if __name__ == "__main__":
    print(json.dumps(report()))
