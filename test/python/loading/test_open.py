"""Loading: names, refusals that say what to do, devices, fingerprints."""

from __future__ import annotations

import json
import shutil
import time
import warnings
from pathlib import Path
from typing import Any

import model_directory
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

import tiny_models
from sparkablate.engines.local import LocalEngine
from sparkablate.engines.requests import Inspect, Load
from sparkablate.errors import SparkablateError
from sparkablate.loading import numerics
from sparkablate.loading.configuration import resolve_source
from sparkablate.loading.fingerprints import Stamp, digest_files, tokenizer_files, weight_files
from sparkablate.loading.open import load_model, open_model
from sparkablate.progress import silent


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPARKABLATE_HOME", str(tmp_path / "home"))


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return model_directory.save(tmp_path_factory.mktemp("model"))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_a_directory_is_loaded_in_the_dtype_asked_for(directory: Path, dtype: str) -> None:
    model, tokenizer = load_model(str(directory), dtype=dtype, device="cpu")
    assert not model.training
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert {parameter.dtype for parameter in model.parameters()} == {getattr(torch, dtype)}
    with torch.inference_mode():
        logits = model(**tokenizer("Catherine", return_tensors="pt", return_token_type_ids=False)).logits
    assert bool(torch.isfinite(logits).all())


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_fp8_on_a_cpu_is_unpacked_and_says_so(directory: Path, tmp_path: Path, dtype: str) -> None:
    """Against the plain checkpoint of the same numbers: each packed weight times its scale."""
    packed, plain = (shutil.copytree(directory, tmp_path / name) for name in ("packed", "plain"))
    tensors, numbers = load_file(directory / "model.safetensors"), {}
    for name, tensor in dict(tensors).items():
        numbers[name] = tensor
        if name.endswith("_proj.weight"):
            scale = tensor.abs().max() / torch.finfo(torch.float8_e4m3fn).max
            tensors[name] = (tensor / scale).to(torch.float8_e4m3fn)
            tensors[f"{name}_scale_inv"] = scale.reshape(1, 1)
            numbers[name] = tensors[name].float() * scale
    save_file(tensors, packed / "model.safetensors", {"format": "pt"})
    save_file(numbers, plain / "model.safetensors", {"format": "pt"})
    config = json.loads((packed / "config.json").read_text())
    method = {"quant_method": "fp8", "weight_block_size": [128, 128], "activation_scheme": "dynamic"}
    (packed / "config.json").write_text(json.dumps({**config, "quantization_config": method}))
    opened = open_model(str(packed), revision=None, dtype=dtype, device="cpu", threads=None)
    # In bfloat16 transformers rounds the product its own way.
    stock = AutoModelForCausalLM.from_pretrained(
        plain if dtype == "float32" else packed, dtype=getattr(torch, dtype)
    )
    ids = torch.arange(40).reshape(2, 20)
    with torch.inference_mode():
        assert torch.equal(opened.model(ids).logits, stock(ids).logits)
    told = f"is quantised (fp8): here its weights are unpacked, to {dtype}"
    assert any(told in notice for notice in opened.notices)


def test_attention_implementation_and_threads_are_those_asked_for(directory: Path) -> None:
    before = torch.get_num_threads()
    try:
        model, _ = load_model(str(directory), device="cpu", attn_implementation="eager", threads=2)
        described = numerics.describe(model, full_logits=False)
    finally:
        torch.set_num_threads(before)
    assert described["attn_implementation"] == "eager"
    assert described["threads"] == 2
    assert described["deterministic"] is True


@pytest.mark.parametrize(
    ("name", "code", "message"),
    [
        ("{tmp}/nothing", "model_not_found", "there is no directory .*/nothing"),
        ("./nothing", "model_not_found", "there is no directory"),
        ("{tmp}/empty", "model_not_found", "no config.json"),
        ("builtin:gpt5", "model_not_found", "known: builtin:smollm2-135m"),
        ("builtin:smollm2-135m", "environment_missing", "run 'sparkablate setup'"),
    ],
)
def test_a_name_that_leads_nowhere_is_answered_with_the_remedy(
    tmp_path: Path, name: str, code: str, message: str
) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(SparkablateError, match=message) as caught:
        load_model(name.format(tmp=tmp_path))
    assert caught.value.code == code


def test_a_hub_name_is_left_to_the_hub() -> None:
    assert resolve_source("meta-llama/Llama-3.1-8B") == "meta-llama/Llama-3.1-8B"


def test_remote_code_needs_a_pinned_commit() -> None:
    for revision in (None, "main"):
        with pytest.raises(SparkablateError, match="pin revision to a commit") as caught:
            load_model("owner/name", trust_remote_code=True, revision=revision)
        assert caught.value.code == "config_invalid"


@pytest.mark.parametrize("meta", [True, False])
def test_no_command_reads_remote_code_of_a_branch(meta: bool) -> None:
    request = {
        "name": "owner/name",
        "revision": "main",
        "dtype": "float32",
        "device": "cpu",
        "device_map": None,
        "attn_implementation": None,
        "threads": 1,
        "trust_remote_code": True,
    }
    for ask in (
        lambda: LocalEngine().answer(Inspect(request, meta)),
        lambda: LocalEngine().answer(Load(request, 8, 1, may_offload=meta)),
    ):
        with pytest.raises(SparkablateError, match="pin revision to a commit") as caught:
            ask()
        assert caught.value.code == "config_invalid"


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("hidden_act", "gleu", "KeyError: 'gleu'"),
        ("num_attention_heads", 3, "hidden size"),
        ("hidden_size", -4, "negative dimension"),
        ("num_key_value_heads", 0, "ZeroDivisionError"),
    ],
)
def test_a_configuration_of_no_model_is_refused_by_name(
    key: str, value: Any, words: str, tmp_path: Path
) -> None:
    directory = model_directory.save(tmp_path / "model")
    path = directory / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), key: value}))
    with pytest.raises(SparkablateError, match=words) as caught:
        load_model(str(directory), dtype="float32", device="cpu")
    assert caught.value.code == "load_failed"
    assert str(directory) in caught.value.message


def test_an_unknown_model_type_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "no-such-type"}))
    with pytest.raises(SparkablateError, match="no-such-type") as caught:
        load_model(str(tmp_path))
    assert caught.value.code == "load_failed"


def test_a_torn_weight_file_is_refused(tmp_path: Path) -> None:
    directory = model_directory.save(tmp_path / "model")
    weights = directory / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(SparkablateError) as caught:
        load_model(str(directory), dtype="float32", device="cpu")
    assert caught.value.code == "load_failed"


def test_weights_that_are_missing_are_not_made_up(tmp_path: Path) -> None:
    """Stock transformers fills them with random numbers and a warning."""
    directory = model_directory.save(tmp_path / "model")
    weights = load_file(directory / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, directory / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(SparkablateError, match=r"layers\.1\.mlp\.up_proj\.weight") as caught:
        load_model(str(directory), dtype="float32", device="cpu")
    assert caught.value.code == "load_failed"


@pytest.mark.parametrize(
    ("row", "buffer"),
    [("deepseek_v3", "e_score_correction_bias"), ("gemma4_text", "layer_scalar"), ("gemma4", "layer_scalar")],
)
def test_buffers_that_no_tensor_fills_are_not_made_up(row: str, buffer: str, tmp_path: Path) -> None:
    directory = model_directory.save(tmp_path / "model", row)
    weights = load_file(directory / "model.safetensors")
    name = next(name for name in weights if name.endswith(buffer))
    del weights[name]
    save_file(weights, directory / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(SparkablateError, match=f"lacks 1 weights, e.g. {name}") as caught:
        load_model(str(directory), dtype="float32", device="cpu")
    assert caught.value.code == "load_failed"


def test_buffers_that_a_type_may_leave_out_are_named(tmp_path: Path) -> None:
    config = {**tiny_models.TINY["deepseek_v3"].config, "num_key_value_heads": 4}
    model = tiny_models.make(tiny_models.Tiny("axk1", config))
    model.save_pretrained(tmp_path)
    whole = load_file(tmp_path / "model.safetensors")
    without = {name: tensor for name, tensor in whole.items() if "e_score_correction_bias" not in name}
    assert len(without) == len(whole) - 2
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        load_model(str(tmp_path), dtype="float32", device="cpu")
    save_file(without, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.warns(UserWarning, match=r"2 tensors that .* does not hold .*e_score_correction_bias"):
        load_model(str(tmp_path), dtype="float32", device="cpu")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_the_proof_passes_where_arithmetic_is_ieee(dtype: torch.dtype) -> None:
    numerics.prove(torch.device("cpu"), dtype)


def test_ten_bits_of_mantissa_are_not_float32() -> None:
    """What TF32 does to the operands is beyond the proving matmul's bound."""
    generator = torch.Generator().manual_seed(0)
    left, right = (torch.randn(128, 128, generator=generator) for _ in range(2))
    rounded = [(matrix.view(torch.int32) & ~0x1FFF).view(torch.float32) for matrix in (left, right)]
    exact = left.double() @ right.double()
    error = (rounded[0].double() @ rounded[1].double() - exact).norm() / exact.norm()
    assert error / torch.finfo(torch.float32).eps > 10 * numerics.PROOF_UNITS


def test_a_device_that_is_not_there_is_named() -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has CUDA")
    with pytest.raises(SparkablateError, match=r"'cuda' is not available.*available: cpu") as caught:
        numerics.resolve_device("cuda")
    assert caught.value.code == "device_unavailable"


def test_fingerprints_follow_contents_not_places(tmp_path: Path) -> None:
    first, second, other = (
        model_directory.save(tmp_path / name, seed=seed) for name, seed in (("a", 0), ("b", 0), ("c", 1))
    )
    digests = [digest_files(weight_files(path), silent) for path in (first, second, other)]
    assert digests[0] == digests[1] != digests[2]
    assert len({digest_files(tokenizer_files(path), silent) for path in (first, second, other)}) == 1


def test_a_file_is_read_once_until_it_changes(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"a" * 100)
    time.sleep(Stamp.of(path).young_for() / 1e9)  # until then it is read each time
    done: list[float] = []

    def progress(stage: str, amount: float, total: float | None, unit: str) -> None:
        done.append(amount)

    first = digest_files([path], progress)
    assert len(done) == 2  # one for the read, one for the file
    done.clear()
    assert digest_files([path], progress) == first
    assert len(done) == 1
    path.write_bytes(b"b" * 100)
    assert digest_files([path], silent) != first


def test_fingerprints_need_no_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"a")
    first = digest_files([path], silent)
    (tmp_path / "a file").write_text("")
    monkeypatch.setenv("SPARKABLATE_HOME", str(tmp_path / "a file" / "home"))
    assert digest_files([path], silent) == first


def test_a_torn_cache_of_fingerprints_is_made_again(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"a")
    time.sleep(Stamp.of(path).young_for() / 1e9)
    first = digest_files([path], silent)
    (tmp_path / "home" / "fingerprints.json").write_text('{"torn')
    assert digest_files([path], silent) == first
