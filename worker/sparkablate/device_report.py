"""``python -m sparkablate.device_report``: what torch can do here, as JSON, for ``sparkablate doctor``."""

from __future__ import annotations

import json

import torch
import transformers

from sparkablate import numerics
from sparkablate.errors import SparkablateError


def report() -> dict[str, object]:
    """Versions, the build's architectures, each CUDA device with whether the build has kernels for it, and
    for each dtype why a matmul on the automatic device was refused (None: it is right).
    """
    arch_list = torch.cuda.get_arch_list()
    devices = []
    for index in range(torch.cuda.device_count()):
        capability = torch.cuda.get_device_capability(index)
        devices.append(
            {
                "name": torch.cuda.get_device_name(index),
                "capability": f"{capability[0]}.{capability[1]}",
                "has_kernels": numerics.arch_runs(arch_list, capability),
            }
        )
    device = numerics.resolve_device("auto")
    numerics.configure(device, None)
    return {
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "transformers": transformers.__version__,
        "device": device.type,
        "arch_list": arch_list,
        "devices": devices,
        "matmul": {name: _refusal(device, dtype) for name, dtype in numerics.DTYPES.items()},
    }


def _refusal(device: torch.device, dtype: torch.dtype) -> str | None:
    try:
        numerics.prove_matmul(device, dtype)
    except SparkablateError as error:
        return error.message
    return None


if __name__ == "__main__":
    print(json.dumps(report()))
