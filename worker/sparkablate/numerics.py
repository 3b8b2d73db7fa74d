"""All that changes a result's bits without changing its meaning: set here, proved, and recorded."""

from __future__ import annotations

import os
import platform
from pathlib import Path

import torch
import transformers

from sparkablate import __version__
from sparkablate.errors import SparkablateError

DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}

#: Largest relative error of the proving matmul, in units of the dtype's own precision. IEEE float32 is
#: below 2 (measured: 0.3); TF32 keeps 10 of 23 bits of the mantissa and is at least 100 units off.
MATMUL_UNITS = 16.0


def resolve_device(wanted: str) -> torch.device:
    """``auto`` is cuda, else mps, else cpu. Raises ``device_unavailable`` for a device that is not there."""
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if wanted == "auto":
        return torch.device(next(name for name, there in available.items() if there))
    if wanted not in available:
        raise SparkablateError("device_unavailable", f"model.device {wanted!r}: use auto, cuda, mps or cpu")
    if not available[wanted]:
        there = ", ".join(name for name, ok in available.items() if ok)
        raise SparkablateError(
            "device_unavailable",
            f"model.device {wanted!r} is not available to torch {torch.__version__} (available: {there})",
        )
    return torch.device(wanted)


def arch_runs(arch_list: list[str], capability: tuple[int, int]) -> bool:
    """Whether a torch build has kernels for a device.

    ``arch_list`` is ``torch.cuda.get_arch_list()``. Binaries (``sm_120``) run on the same major version
    with an equal or higher minor one, so sm_120 serves the GB10's 12.1; PTX (``compute_90``) is compiled
    for any capability at or above it. Suffixed ones (``sm_90a``) run on exactly their own device.
    """
    for arch in arch_list:
        kind, _, number = arch.partition("_")
        exact = not number.isdigit()
        digits = number if not exact else number[:-1]
        if not digits.isdigit():
            continue
        built = (int(digits[:-1]), int(digits[-1]))
        if exact:
            runs = built == capability
        elif kind == "compute":
            runs = built <= capability
        else:
            runs = built[0] == capability[0] and built[1] <= capability[1]
        if runs:
            return True
    return False


def configure(device: torch.device, threads: int | None) -> list[str]:
    """Sets threads, turns TF32 off and determinism on. Returns notices for a person.

    Must run before the first CUDA matmul of the process: cuBLAS reads its workspace setting once.
    """
    notices: list[str] = []
    if threads is not None:
        torch.set_num_threads(threads)
    torch.set_float32_matmul_precision("highest")
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.benchmark = False
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    # Filling fresh memory with NaN is a debugging aid that costs a pass over every tensor.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    if device.type == "cuda":
        capability = torch.cuda.get_device_capability(device)
        arch_list = torch.cuda.get_arch_list()
        if not arch_runs(arch_list, capability):
            notices.append(
                f"torch {torch.__version__} has no kernels for compute capability "
                f"{capability[0]}.{capability[1]} (built for {', '.join(arch_list)})"
            )
    return notices


def prove_matmul(device: torch.device, dtype: torch.dtype) -> None:
    """Multiplies two matrices in ``dtype`` and compares with float64, so that a device without kernels, or
    float32 that is really TF32 (``TORCH_ALLOW_TF32_CUBLAS_OVERRIDE=1``), is found before any number is made.

    Raises ``device_unavailable``.
    """
    generator = torch.Generator().manual_seed(0)
    left, right = (torch.randn(128, 128, generator=generator).to(dtype) for _ in range(2))
    exact = left.double() @ right.double()
    try:
        product = (left.to(device) @ right.to(device)).cpu().double()
    except RuntimeError as error:
        raise SparkablateError(
            "device_unavailable", f"a {dtype} matmul does not run on {device}: {error}", detail=repr(error)
        ) from error
    units = float((product - exact).norm() / exact.norm()) / torch.finfo(dtype).eps
    if not units <= MATMUL_UNITS:
        raise SparkablateError(
            "device_unavailable",
            f"a {dtype} matmul on {device} is {units:.0f} units of its precision off: it is not IEEE "
            "(unset TORCH_ALLOW_TF32_CUBLAS_OVERRIDE and NVIDIA_TF32_OVERRIDE)",
        )


def describe(model: torch.nn.Module, full_logits: bool) -> dict[str, object]:
    """The wire's ``numerics`` of a loaded model, in the state the process is in now."""
    parameter = next(model.parameters())
    device = parameter.device
    device_name = torch.cuda.get_device_name(device) if device.type == "cuda" else _cpu_name()
    versions = {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "sparkablate": __version__,
    }
    if torch.version.cuda is not None:
        versions["cuda"] = torch.version.cuda
    return {
        "dtype": str(parameter.dtype).removeprefix("torch."),
        "device": device.type,
        "device_name": device_name,
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "attn_implementation": str(getattr(model.config, "_attn_implementation", None) or "none"),
        "threads": torch.get_num_threads(),
        "tf32": torch.backends.cuda.matmul.allow_tf32,
        "deterministic": torch.are_deterministic_algorithms_enabled()
        and not torch.is_deterministic_algorithms_warn_only_enabled(),
        "full_logits": full_logits,
        "versions": versions,
    }


def _cpu_name() -> str:
    """The processor's model where the system tells it (Linux on x86), else its architecture."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
