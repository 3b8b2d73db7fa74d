"""All that changes a result's bits without changing its meaning: set here, proved, and recorded."""

from __future__ import annotations

import getpass
import os
import platform
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import transformers

from sparkablate.arguments import as_whole
from sparkablate.errors import SparkablateError
from sparkablate.version import __version__
from sparkablate.wording import setting

DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}

#: As the config's schema has it.
MOST_THREADS = 1024

#: Largest relative error of the proving matmul and attention, in units of the dtype's own precision. IEEE
#: float32 is below 2 (measured on a CPU: 0.3 and 1.7); TF32 keeps 10 of 23 bits of the mantissa and is at
#: least 100 units off.
PROOF_UNITS = 16.0


def resolve_device(wanted: str) -> torch.device:
    """``auto`` is cuda, else mps, else cpu. Raises ``device_unavailable`` for a device that is not there."""
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if wanted == "auto":
        return torch.device(next(name for name, there in available.items() if there))
    if not isinstance(wanted, str) or wanted not in available:
        raise SparkablateError(
            "device_unavailable", f"{setting('model.device')} {wanted!r}: use auto, cuda, mps or cpu"
        )
    if not available[wanted]:
        there = ", ".join(name for name, ok in available.items() if ok)
        raise SparkablateError(
            "device_unavailable",
            f"{setting('model.device')} {wanted!r} is not available to torch {torch.__version__} (available: "
            f"{there})",
        )
    return torch.device(wanted)


@dataclass(frozen=True)
class Device:
    """What decides whether a build of torch has kernels for a device. ``capability``: CUDA's compute
    capability, None elsewhere; ``arch_list``: ``torch.cuda.get_arch_list()``."""

    type: str
    name: str
    capability: tuple[int, int] | None = None
    arch_list: tuple[str, ...] = ()


def describe_device(device: torch.device) -> Device:
    if device.type != "cuda":
        return Device(device.type, _cpu_name())
    name, capability = torch.cuda.get_device_name(device), torch.cuda.get_device_capability(device)
    return Device("cuda", name, capability, tuple(torch.cuda.get_arch_list()))


def missing_kernels(device: Device) -> str | None:
    """Why this build of torch cannot compute on the device, and the remedy; None where it can, or where only
    running a kernel can tell: MPS, the CPU, builds for other makers' cards, whose lists name no sm_."""
    if device.capability is None or not any(_ARCH.fullmatch(arch) for arch in device.arch_list):
        return None
    if arch_runs(list(device.arch_list), device.capability):
        return None
    major, minor = device.capability
    return (
        f"this build of torch has no kernels for {device.name} (compute capability {major}.{minor}): it was "
        f"built for {', '.join(device.arch_list)}; install one with sm_{major}0 up to sm_{major}{minor}, or "
        f"with PTX of at most compute_{major}{minor}"
    )


def slow_first_pass(device: Device) -> str | None:
    """Says that the build has only PTX for the device, which the driver compiles at the first use of each
    kernel; None where it holds binaries, or nothing can be told."""
    binaries = [arch for arch in device.arch_list if arch.startswith("sm_")]
    if device.capability is None or missing_kernels(device) is not None or not device.arch_list:
        return None
    if not any(_ARCH.fullmatch(arch) for arch in device.arch_list) or arch_runs(binaries, device.capability):
        return None
    major, minor = device.capability
    return (
        f"this build of torch has no binaries for {device.name} (compute capability {major}.{minor}), only "
        "PTX, which the driver compiles when a kernel is first used: the first pass is slow; "
        f"a build with sm_{major}0 up to sm_{major}{minor} starts at once"
    )


_ARCH = re.compile(r"(sm|compute)_(\d+)(\d)([a-z]?)")


def arch_runs(arch_list: list[str], capability: tuple[int, int]) -> bool:
    """Whether a torch build has kernels for a device.

    ``arch_list`` is ``torch.cuda.get_arch_list()``. Binaries (``sm_120``) run on the same major version
    with an equal or higher minor one, so sm_120 serves the GB10's 12.1; so do those for a family
    (``sm_120f``). PTX (``compute_90``) is compiled for any capability at or above it. What is specific to an
    architecture (``sm_90a``) runs on exactly its own device.
    """
    for arch in arch_list:
        parts = _ARCH.fullmatch(arch)
        if parts is None:
            continue
        kind, suffix = parts[1], parts[4]
        built = (int(parts[2]), int(parts[3]))
        if suffix not in ("", "f"):
            runs = built == capability
        elif kind == "compute" and not suffix:
            runs = built <= capability
        else:
            runs = built[0] == capability[0] and built[1] <= capability[1]
        if runs:
            return True
    return False


def dtype_on(device_type: str, dtype: str) -> tuple[str, str | None]:
    """The dtype that a device computes in, and a notice where it is not the one asked for."""
    if device_type == "mps" and dtype == "bfloat16":
        return "float16", f"MPS has no bfloat16 worth using: {setting('model.dtype')} became float16"
    return dtype, None


def configure(threads: int | None) -> None:
    """Sets threads, turns TF32 off and determinism on. Raises ``config_invalid``.

    Must run before the first CUDA matmul of the process: cuBLAS reads its workspace setting once.
    """
    if threads is not None:
        torch.set_num_threads(as_whole(setting("model.threads"), threads, 1, MOST_THREADS))
    torch.set_float32_matmul_precision("highest")
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.benchmark = False
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    _name_user()
    torch.use_deterministic_algorithms(True)
    # Filling fresh memory with NaN is a debugging aid that costs a pass over every tensor.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]


def _name_user() -> None:
    """Some versions of torch look up who runs them at the switch below, and raise for a uid without an entry
    in the system's list of users, as in a container."""
    try:
        getpass.getuser()
    except (KeyError, OSError):
        os.environ["LOGNAME"] = f"uid-{os.getuid()}"


def prove(device: torch.device, dtype: torch.dtype) -> None:
    """Raises ``device_unavailable`` for a device that has no kernels, or whose matmul or attention in
    ``dtype`` does not run or is not what its precision promises."""
    refusal = missing_kernels(describe_device(device))
    if refusal is not None:
        raise SparkablateError("device_unavailable", refusal)
    prove_matmul(device, dtype)
    prove_attention(device, dtype)


def prove_matmul(device: torch.device, dtype: torch.dtype) -> None:
    """Multiplies two matrices in ``dtype`` and compares with float64, so that a device without kernels, or
    float32 that is really TF32 (``TORCH_ALLOW_TF32_CUBLAS_OVERRIDE=1``), is found before any number is made.

    Raises ``device_unavailable``.
    """
    generator = torch.Generator().manual_seed(0)
    left, right = (torch.randn(128, 128, generator=generator).to(dtype) for _ in range(2))
    exact = left.double() @ right.double()
    _compare("matmul", lambda: left.to(device) @ right.to(device), exact, device, dtype)


def prove_attention(device: torch.device, dtype: torch.dtype) -> None:
    """The same for causal attention, which has kernels of its own. Raises ``device_unavailable``."""
    generator = torch.Generator().manual_seed(0)
    # [batch, heads, pos, d_head]
    q, k, v = (torch.randn(1, 2, 64, 64, generator=generator).to(dtype) for _ in range(3))
    scores = q.double() @ k.double().transpose(-1, -2) / 8.0
    future = torch.ones(64, 64, dtype=torch.bool).triu(1)
    exact = scores.masked_fill(future, -torch.inf).softmax(dim=-1) @ v.double()

    def attend() -> torch.Tensor:
        return torch.nn.functional.scaled_dot_product_attention(
            q.to(device), k.to(device), v.to(device), is_causal=True
        )

    _compare("attention", attend, exact, device, dtype)


def _compare(
    what: str,
    compute: Callable[[], torch.Tensor],
    exact: torch.Tensor,
    device: torch.device,
    dtype: torch.dtype,
) -> None:
    try:
        with torch.inference_mode():
            result = compute().cpu().double()
    except RuntimeError as error:
        raise SparkablateError(
            "device_unavailable", f"{what} in {dtype} does not run on {device}: {error}", detail=repr(error)
        ) from error
    units = float((result - exact).norm() / exact.norm()) / torch.finfo(dtype).eps
    if not units <= PROOF_UNITS:
        raise SparkablateError(
            "device_unavailable",
            f"{what} in {dtype} on {device} is {units:.0f} units of its precision off: it is not IEEE "
            "(unset TORCH_ALLOW_TF32_CUBLAS_OVERRIDE and NVIDIA_TF32_OVERRIDE)",
        )


def device_of(model: torch.nn.Module) -> torch.device:
    """Where a model's inputs go. accelerate keeps offloaded parameters on "meta" and moves inputs itself."""
    devices = (parameter.device for parameter in model.parameters())
    return next((device for device in devices if device.type != "meta"), torch.device("cpu"))


def describe(model: torch.nn.Module, full_logits: bool) -> dict[str, object]:
    """The wire's ``numerics`` of a loaded model, in the state the process is in now."""
    parameter = next(model.parameters())
    device = device_of(model)
    device_name = describe_device(device).name
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
