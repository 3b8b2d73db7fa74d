"""``dtype: auto``: a function of the checkpoint, the device and the total memory, and of nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaConfig

from sparkablate.loading import memory
from sparkablate.loading.open import FLOAT32_SHARE, chosen_dtype, load_model

CPU, CUDA, MPS = (torch.device(name) for name in ("cpu", "cuda", "mps"))
GIB = 1 << 30


def config(dtype: str | None, parameters: int = 0) -> Any:
    """Of a model with at least so many parameters, and at most 1e6 more."""
    made = LlamaConfig(
        hidden_size=64,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=4,
        vocab_size=parameters // 64 + 8,
        tie_word_embeddings=True,
    )
    made.dtype = dtype
    return made


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_a_gpu_takes_the_checkpoints_own(dtype: str) -> None:
    assert chosen_dtype(config(dtype), CUDA, False) == (dtype, "the checkpoint's own")
    assert chosen_dtype(config(dtype), MPS, False)[0] == ("float16" if dtype == "bfloat16" else dtype)


@pytest.mark.parametrize("dtype", [None, "float64", "float8_e4m3fn"])
def test_what_names_no_dtype_to_compute_in_is_bfloat16(dtype: str | None) -> None:
    chosen, why = chosen_dtype(config(dtype), CUDA, False)
    assert (chosen, dtype or "names none") == ("bfloat16", dtype or "names none")
    assert (dtype or "names none") in why
    assert chosen_dtype(config(dtype), MPS, False)[0] == "float16"


@pytest.mark.parametrize("dtype", [None, "bfloat16", "float16", "float32"])
def test_a_cpu_takes_float32_up_to_its_share_of_the_total_memory(
    dtype: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The total is the cgroup's limit where there is one, whatever of it is in use."""
    group = tmp_path / "cgroup" / "job"
    group.mkdir(parents=True)
    (tmp_path / "own").write_text("0::/job\n")
    monkeypatch.setattr(memory, "_OWN_CGROUP", tmp_path / "own")
    monkeypatch.setattr(memory, "_CGROUP", tmp_path / "cgroup")
    (group / "memory.max").write_text(str(GIB))
    fits = int(FLOAT32_SHARE * GIB / 4)
    for used in (0, GIB - 1):
        (group / "memory.current").write_text(str(used))
        assert memory.total_memory() == GIB
        chosen, why = chosen_dtype(config(dtype, fits - 1_000_000), CPU, False)
        assert chosen == "float32"
        assert "of 1.0 GiB" in why
        assert chosen_dtype(config(dtype, fits), CPU, False)[0] == (dtype or "bfloat16")
    (group / "memory.max").write_text("max")
    assert memory.total_memory() == memory.psutil.virtual_memory().total


def test_load_model_takes_it_by_default(tmp_path: Path) -> None:
    from transformers import LlamaForCausalLM

    LlamaForCausalLM(config("bfloat16")).to(torch.bfloat16).save_pretrained(tmp_path)
    assert load_model(str(tmp_path), device="cpu")[0].dtype == torch.float32
    assert load_model(str(tmp_path), device="cpu", dtype="bfloat16")[0].dtype == torch.bfloat16
