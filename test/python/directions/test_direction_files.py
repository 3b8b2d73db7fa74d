"""Directions out of pickles: what is read, and what is refused without being run."""

from __future__ import annotations

import io
import pickle
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch

from sparkablate.directions.files import unpickle_direction
from sparkablate.errors import SparkablateError


def saved(value: Any) -> bytes:
    file = io.BytesIO()
    torch.save(value, file)
    return file.getvalue()


def refused(data: bytes) -> str:
    with pytest.raises(SparkablateError) as caught:
        unpickle_direction(data)
    assert caught.value.code == "config_invalid"
    return caught.value.message


class Touch:
    """Unpickling it creates a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (open, (str(self.path), "w"))


def test_a_raw_difference_is_divided_by_its_length() -> None:
    vector, norm, layer = unpickle_direction(saved(torch.tensor([3.0, 0.0, -4.0], dtype=torch.bfloat16)))
    assert vector.dtype == torch.float32
    assert torch.equal(vector, torch.tensor([0.6, 0.0, -0.8]))
    assert (norm, layer) == (5.0, None)


def test_a_unit_vector_keeps_its_bits() -> None:
    unit = torch.nn.functional.normalize(torch.randn(64), dim=0)
    vector, norm, layer = unpickle_direction(saved({"v": unit, "layer": 7, "norm": 2.5, "note": "text"}))
    assert torch.equal(vector, unit)
    assert (norm, layer) == (2.5, 7)
    assert unpickle_direction(saved(unit[None])).norm == 1.0


def test_a_malicious_pickle_is_refused_and_not_run(tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    zipped = saved({"direction": torch.ones(4), "extra": Touch(canary)})
    assert "could run code" in refused(zipped)
    bare = pickle.dumps(Touch(canary))
    assert "no .pt file" in refused(bare)
    assert not canary.exists()
    torch.load(io.BytesIO(zipped), weights_only=False)  # it does run where nothing forbids it
    assert canary.exists()


def test_a_zip_that_unpacks_to_more_than_a_direction_is_refused_before_it_is_unpacked() -> None:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x/data.pkl", b"\0" * (65 << 20))
    assert "unpacks to" in refused(file.getvalue())


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"a": torch.ones(2), "b": torch.ones(2)}, "holds 2 tensors"),
        ({"layer": 3}, "holds 0 tensors"),
        ([torch.ones(2)], "holds 0 tensors"),
        (torch.ones(2, 2), "shape [2, 2]"),
        (torch.ones(0), "shape [0]"),
        (torch.zeros(3), "length is 0"),
        (torch.tensor([1.0, float("nan")]), "length is nan"),
        (torch.arange(3), "torch.int64"),
        (torch.ones(1).expand(1 << 40), "torch.float32"),
        (
            {"v": torch.ones(4), "norm": 3.0},
            "records the norm 3.0, but the direction's length is 2",
        ),
        ({"v": torch.ones(1), "norm": -1.0}, "norm is -1.0"),
        ({"v": torch.ones(1), "layer": "last"}, "layer is 'last'"),
    ],
)
def test_other_contents_are_refused(value: Any, message: str) -> None:
    assert message in refused(saved(value))


def test_what_torch_cannot_read_is_refused() -> None:
    whole = saved(torch.ones(4))
    assert "no .pt file" in refused(whole[:-30])
    assert "no .pt file" in refused(b"")
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("nothing", b"")
    assert "cannot be read" in refused(file.getvalue())
