"""Which builds of torch run on which devices: a rule over names, capabilities and architecture lists."""

from __future__ import annotations

import pytest
import torch

from sparkablate.errors import SparkablateError
from sparkablate.loading import numerics
from sparkablate.loading.numerics import Device

#: Architecture lists as wheels and images have them.
CUDA_13 = ("sm_75", "sm_80", "sm_86", "sm_90", "sm_100", "sm_120", "compute_120")
CUDA_12_4 = ("sm_50", "sm_60", "sm_70", "sm_75", "sm_80", "sm_86", "sm_90")
WITH_PTX = (*CUDA_12_4, "compute_90")

GB10 = ("NVIDIA GB10", (12, 1))
RTX_5090 = ("NVIDIA GeForce RTX 5090", (12, 0))
B200 = ("NVIDIA B200", (10, 0))
B300 = ("NVIDIA B300", (10, 3))
H100 = ("NVIDIA H100 80GB HBM3", (9, 0))
A100 = ("NVIDIA A100-SXM4-80GB", (8, 0))
RTX_4090 = ("NVIDIA GeForce RTX 4090", (8, 9))
V100 = ("Tesla V100-SXM2-32GB", (7, 0))


@pytest.mark.parametrize(
    ("device", "arch_list", "runs"),
    [
        (GB10, CUDA_13, True),  # sm_120 runs on 12.1: the DGX Spark with stock torch
        (GB10, ("sm_80", "sm_90", "sm_120"), True),
        (GB10, ("sm_120f",), True),
        (GB10, ("sm_121",), True),
        (GB10, ("compute_120",), True),
        (GB10, WITH_PTX, True),
        (GB10, CUDA_12_4, False),  # sm_90 without PTX
        (GB10, ("sm_120a",), False),
        (GB10, ("sm_90a", "compute_90a"), False),
        (RTX_5090, CUDA_13, True),
        (RTX_5090, ("sm_121", "compute_121"), False),
        (B200, CUDA_13, True),
        (B300, ("sm_100f",), True),
        (B300, ("sm_100a",), False),
        (H100, CUDA_13, True),
        (H100, CUDA_12_4, True),
        (H100, ("sm_90a",), True),
        (H100, ("compute_120", "sm_120"), False),
        (A100, CUDA_13, True),
        (RTX_4090, ("sm_80",), True),
        (RTX_4090, ("sm_90",), False),
        (V100, CUDA_13, False),
        (V100, CUDA_12_4, True),
    ],
)
def test_which_builds_have_kernels_for_which_devices(
    device: tuple[str, tuple[int, int]], arch_list: tuple[str, ...], runs: bool
) -> None:
    name, capability = device
    refusal = numerics.missing_kernels(Device("cuda", name, capability, arch_list))
    assert (refusal is None) is runs
    if refusal is not None:
        # What it is, what the build has, and what to install.
        assert f"no kernels for {name} (compute capability {capability[0]}.{capability[1]})" in refusal
        assert f"built for {', '.join(arch_list)}" in refusal
        assert f"install one with sm_{capability[0]}0" in refusal


@pytest.mark.parametrize(
    "device",
    [
        Device("cpu", "Cortex-X925"),
        Device("mps", "arm"),
        Device("cuda", "AMD Instinct MI300X", (9, 4), ("gfx90a", "gfx942")),  # ROCm calls itself cuda
    ],
)
def test_where_the_rule_says_nothing_the_proof_decides(device: Device) -> None:
    assert numerics.missing_kernels(device) is None


def test_mps_computes_in_float16_where_bfloat16_was_asked_for_and_says_so() -> None:
    dtype, notice = numerics.dtype_on("mps", "bfloat16")
    assert dtype == "float16"
    assert notice is not None
    assert "float16" in notice
    for device_type, dtype in [("mps", "float32"), ("cuda", "bfloat16"), ("cpu", "bfloat16")]:
        assert numerics.dtype_on(device_type, dtype) == (dtype, None)


def test_attention_without_ten_bits_of_mantissa_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernels of a device that rounds what it is given to TF32."""
    exact = torch.nn.functional.scaled_dot_product_attention

    def rounded(*tensors: torch.Tensor, is_causal: bool) -> torch.Tensor:
        cut = [(tensor.view(torch.int32) & ~0x1FFF).view(torch.float32) for tensor in tensors]
        return exact(*cut, is_causal=is_causal)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", rounded)
    with pytest.raises(SparkablateError, match=r"attention in torch\.float32 on cpu is \d+ units") as caught:
        numerics.prove(torch.device("cpu"), torch.float32)
    assert caught.value.code == "device_unavailable"


@pytest.mark.parametrize(
    ("device", "arch_list", "slow"),
    [
        (GB10, WITH_PTX, True),
        (GB10, ("compute_120",), True),
        (GB10, CUDA_13, False),  # sm_120 serves 12.1
        (RTX_5090, ("sm_121", "compute_90"), True),
        (H100, CUDA_12_4, False),
        (H100, ("sm_90a", "compute_80"), False),
        (GB10, CUDA_12_4, False),  # no kernels at all: that is said instead
        (V100, CUDA_13, False),
    ],
)
def test_which_builds_compile_first(
    device: tuple[str, tuple[int, int]], arch_list: tuple[str, ...], slow: bool
) -> None:
    words = numerics.slow_first_pass(Device("cuda", *device, arch_list))
    assert (words is not None) is slow
    if words is not None:
        assert f"no binaries for {device[0]}" in words
        assert "the first pass is slow" in words


@pytest.mark.parametrize(
    "device",
    [Device("cpu", "Cortex-X925"), Device("cuda", "AMD Instinct MI300X", (9, 4), ("gfx90a", "gfx942"))],
)
def test_nothing_is_said_of_compiling_where_no_list_tells(device: Device) -> None:
    assert numerics.slow_first_pass(device) is None
