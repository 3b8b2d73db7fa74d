"""Direction files written and read in Python: the format of `sparkablate direction`."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import tiny_models
from sparkablate import AblationManager, SparkablateError, load_direction, save_direction
from sparkablate.directions import find_directions

WIDTH = tiny_models.D_MODEL
UNIT = torch.nn.functional.normalize(torch.randn(WIDTH, generator=torch.Generator().manual_seed(3)), dim=0)


def test_what_is_saved_is_loaded_bit_for_bit(tmp_path: Path, tiny: Any) -> None:
    path = tmp_path / "it.safetensors"
    saved = save_direction(
        path, UNIT, model=tiny("llama"), layer=1, position=2, norm=3.5, metadata={"prompts": "mine"}
    )
    found = load_direction(path)
    assert torch.equal(found.vector, UNIT)
    assert (found.norm, found.layer, found.sha256) == (3.5, 1, saved.sha256)
    assert found.metadata == saved.metadata
    assert found.metadata["position"] == "-2"
    assert found.metadata["prompts"] == "mine"
    assert [one.name for one in tmp_path.iterdir()] == ["it.safetensors"]


def test_the_bytes_are_what_the_controller_reads(tmp_path: Path) -> None:
    """As src/directions/file.ts wants it: one tensor, F32 [d_model], its bytes and nothing behind them."""
    path = tmp_path / "it.safetensors"
    save_direction(path, UNIT.numpy().astype(np.float64) * 4, layer=0)
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    metadata = header.pop("__metadata__")
    assert header == {"direction": {"dtype": "F32", "shape": [WIDTH], "data_offsets": [0, 4 * WIDTH]}}
    assert len(data) == 8 + length + 4 * WIDTH
    assert metadata["layer"] == "0"
    assert float(metadata["norm"]) == pytest.approx(4, rel=1e-6)


def test_lengths_become_norms(tmp_path: Path) -> None:
    for number, vector in enumerate((UNIT * 7, (UNIT * 7).tolist(), (UNIT * 7).numpy(), UNIT.half() * 7)):
        saved = save_direction(tmp_path / f"{number}.safetensors", vector)
        assert saved.norm == pytest.approx(7, rel=1e-3)
        torch.testing.assert_close(saved.vector, UNIT, rtol=1e-3, atol=1e-3)


def test_a_found_direction_keeps_its_facts_and_acts_the_same(tmp_path: Path, tiny: Any) -> None:
    manager = AblationManager(tiny("llama"))
    sides = [[[1 + side, 5, 6 + number] for number in range(9)] for side in range(2)]
    candidate = find_directions(manager, *sides, resamples=2).candidates[1]
    found = save_direction(tmp_path / "it.safetensors", candidate, model=manager.model)
    assert (found.layer, found.norm) == (candidate.layer, candidate.norm)
    spec = load_direction(tmp_path / "it.safetensors").spec("add", coefficient=2)
    assert (spec.layers, spec.norm, spec.coefficient) == ((candidate.layer,), candidate.norm, 2)
    assert found.spec("project_out").layers == "all"
    ids = tiny_models.tokens()
    with torch.inference_mode(), manager.applied(spec):
        edited = manager.model(ids).logits
    with torch.inference_mode():
        assert not torch.equal(edited, manager.model(ids).logits)


def test_pt_files_are_read_too(tmp_path: Path) -> None:
    torch.save({"it": UNIT * 2, "layer": 5}, tmp_path / "it.pt")
    found = load_direction(tmp_path / "it.pt")
    assert found.layer == 5
    assert found.norm == pytest.approx(2, rel=1e-6)


def test_nothing_is_replaced_unless_it_is_forced(tmp_path: Path) -> None:
    path = tmp_path / "it.safetensors"
    save_direction(path, UNIT)
    before = path.read_bytes()
    with pytest.raises(SparkablateError, match="pass force=True to replace it") as caught:
        save_direction(path, UNIT.flip(0))
    assert caught.value.code == "usage"
    assert path.read_bytes() == before
    save_direction(path, UNIT.flip(0), force=True)
    assert torch.equal(load_direction(path).vector, UNIT.flip(0))


@pytest.mark.parametrize(
    ("tensors", "metadata", "words"),
    [
        ({"other": UNIT}, {}, "holds other, and must hold one tensor"),
        ({"direction": UNIT, "more": UNIT.clone()}, {}, "holds direction, more"),
        ({"direction": UNIT * 2}, {}, "of length 2, and must be float32"),
        ({"direction": UNIT.double()}, {}, "a float64 tensor"),
        ({"direction": UNIT[None]}, {}, "of shape [1, 32]"),
        ({"direction": UNIT * float("nan")}, {}, "of length nan"),
        ({"direction": UNIT}, {"layer": "-1"}, "metadata layer is '-1'"),
        ({"direction": UNIT}, {"norm": "0"}, "metadata norm is '0'"),
        ({"direction": UNIT}, {"norm": "much"}, "metadata norm is 'much'"),
    ],
)
def test_files_that_are_no_directions(
    tensors: dict[str, Any], metadata: dict[str, str], words: str, tmp_path: Path
) -> None:
    save_file(tensors, tmp_path / "it.safetensors", metadata or None)
    with pytest.raises(SparkablateError) as caught:
        load_direction(tmp_path / "it.safetensors")
    assert caught.value.code == "config_invalid"
    assert str(tmp_path / "it.safetensors") in caught.value.message
    assert words in caught.value.message


@pytest.mark.parametrize("data", [b"", b"xx", b"\0" * 64, struct.pack("<Q", 1 << 40)], ids=len)
def test_files_that_are_no_safetensors(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "it.safetensors").write_bytes(data)
    with pytest.raises(SparkablateError, match="cannot be read as safetensors") as caught:
        load_direction(tmp_path / "it.safetensors")
    assert caught.value.code == "config_invalid"
