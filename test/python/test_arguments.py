"""Odd arguments of the public functions: a coded error that says what is wanted, never a cut-off number."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import tiny_models
from sparkablate import AblationManager, AblationSpec, DirectionSpec, SparkablateError
from sparkablate.bake import bake
from sparkablate.directions import find_directions
from sparkablate.directions.scores import Answers
from sparkablate.model import load_model

IDS = tiny_models.tokens()
UNIT = torch.eye(tiny_models.D_MODEL)[0]
NAN = float("nan")
WIDE = torch.zeros(tiny_models.D_MODEL)


def head(**fields: Any) -> AblationSpec:
    return AblationSpec(**{"kind": "head", "layer": 0, "heads": (0,), **fields})


def added(**fields: Any) -> DirectionSpec:
    return DirectionSpec(**{"op": "add", "vector": UNIT, **fields})


def raised(work: Callable[[], Any]) -> SparkablateError:
    with pytest.raises(SparkablateError) as caught:
        work()
    assert len(caught.value.message) < 400
    return caught.value


@pytest.mark.parametrize("value", [1.5, 1.0, True, -1, "0", None, [0], NAN, torch.tensor(1.0)], ids=repr)
def test_a_layer_is_an_index(value: Any) -> None:
    error = raised(lambda: head(layer=value))
    assert error.code == "config_invalid"
    assert error.message.startswith("layer")


@pytest.mark.parametrize(
    "value",
    [3, [1.5], [1.0], "37", b"37", [True], ["1"], [None], [[1]], {1: 2}, np.array(3), torch.tensor([1.0])],
    ids=repr,
)
@pytest.mark.parametrize(
    "make", [lambda x: head(heads=x), lambda x: added(layers=x)], ids=["heads", "layers"]
)
def test_heads_and_layers_are_lists_of_indices(make: Callable[[Any], Any], value: Any) -> None:
    error = raised(lambda: make(value))
    assert error.code == "config_invalid"
    assert "are indices from 0" in error.message


def test_indices_of_every_kind_are_the_same_spec() -> None:
    plain = head(layer=1, heads=(0, 2))
    for heads in ([2, 0], {0, 2}, range(0, 3, 2), np.array([0, 2]), torch.tensor([2, 0]), iter((0, 2))):
        spec = head(layer=np.int64(1), heads=heads)
        assert spec == plain
        assert {type(one) for one in (spec.layer, *spec.heads)} == {int}
    assert AblationSpec("mlp", 0, heads=None, mode=None) == AblationSpec("mlp", 0)  # type: ignore[arg-type]
    assert added(coefficient=np.float32(2), norm=torch.tensor(0.5)) == added(coefficient=2, norm=0.5)


@pytest.mark.parametrize("value", [1, ["zero"], b"zero", np.array(["a", "b"]), torch.zeros(2)], ids=repr)
@pytest.mark.parametrize("name", ["kind", "mode", "positions"])
def test_words_are_texts(name: str, value: Any) -> None:
    assert "is none of" in raised(lambda: head(**{name: value})).message
    other = {"kind": "op", "mode": "at", "positions": "positions"}[name]
    assert raised(lambda: added(**{other: value})).code == "config_invalid"


@pytest.mark.parametrize("name", ["coefficient", "norm"])
@pytest.mark.parametrize("value", ["1", None, True, 1j, NAN, 10**400, [1.0], torch.ones(2)], ids=repr)
def test_a_directions_numbers_are_finite(name: str, value: Any) -> None:
    error = raised(lambda: added(**{name: value}))
    assert error.code == "config_invalid"
    assert f"{name} of a direction must be a finite number" in error.message


@pytest.mark.parametrize(
    "value",
    [1, "x", ["x"], np.eye(4) + 1j, UNIT.to(torch.complex64), UNIT.to("meta"), UNIT.to_sparse()],
    ids=lambda value: type(value).__name__,
)
def test_a_directions_vector_is_a_tensor(value: Any, manager: Callable[[str], AblationManager]) -> None:
    for work in (lambda: added(vector=value), lambda: manager("llama").set_direction("it", value)):
        error = raised(work)
        assert error.code == "config_invalid"
        assert "is a tensor, an array or a list of real numbers" in error.message
    assert raised(lambda: DirectionSpec(op="add", sha256=3)).code == "config_invalid"  # type: ignore[arg-type]


#: What a manager's functions are given, and the code that it ends with.
USES: dict[str, tuple[Callable[[AblationManager], Any], str]] = {
    "no batches": (lambda m: m.calibrate_means(None), "usage"),
    "a text": (lambda m: m.calibrate_means("text"), "usage"),
    "another dictionary": (lambda m: m.calibrate_means({"ids": IDS}), "usage"),
    "texts": (lambda m: m.calibrate_means(["text"]), "usage"),
    "floats": (lambda m: m.calibrate_means([IDS.float()]), "usage"),
    "truth values": (lambda m: m.calibrate_means([IDS > 0]), "usage"),
    "rows of several lengths": (lambda m: m.calibrate_means([[[1, 2], [3]]]), "usage"),
    "a mask with gaps": (
        lambda m: m.calibrate_means({"input_ids": IDS, "attention_mask": (IDS + 1).cumsum(1) % 2}),
        "usage",
    ),
    "a mask of another shape": (
        lambda m: m.calibrate_means({"input_ids": IDS, "attention_mask": IDS[:1]}),
        "usage",
    ),
    "ids past the embedding": (lambda m: m.calibrate_means([IDS + tiny_models.VOCAB]), "config_invalid"),
    "ids below 0": (lambda m: m.calibrate_means([-1 - IDS]), "config_invalid"),
    "empty batches": (lambda m: m.calibrate_means([IDS[:, :0], IDS[:0]]), "means_missing"),
    "keys: a text": (lambda m: m.calibrate_means([IDS], keys=["mlp"]), "usage"),
    "keys: a number": (lambda m: m.calibrate_means([IDS], keys=3), "usage"),
    "keys: too short": (lambda m: m.calibrate_means([IDS], keys=[("mlp",)]), "usage"),
    "keys: the last layer": (lambda m: m.calibrate_means([IDS], keys=[("mlp", -1)]), "config_invalid"),
    "keys: no layer": (lambda m: m.calibrate_means([IDS], keys=[("mlp", 99)]), "config_invalid"),
    "keys: a group": (lambda m: m.calibrate_means([IDS], keys=[("kv_group", 0)]), "config_invalid"),
    "keys: a direction": (lambda m: m.calibrate_means([IDS], keys=[("direction", 0)]), "config_invalid"),
    "keys: positions": (lambda m: m.calibrate_means([IDS], keys=[("mlp", 0, "last")]), "config_invalid"),
    "source: none": (lambda m: m.record_sources(None), "usage"),
    "source: a text": (lambda m: m.record_sources("text"), "usage"),
    "source: two masks": (
        lambda m: m.record_sources({"input_ids": IDS, "attention_mask": IDS}, attention_mask=IDS),
        "usage",
    ),
    "source: empty": (lambda m: m.record_sources(IDS[:, :0]), "usage"),
    "source: past": (lambda m: m.record_sources(IDS + tiny_models.VOCAB), "config_invalid"),
    "source: mode": (lambda m: m.record_sources(IDS, mode="zero"), "usage"),
    "source: list mode": (lambda m: m.record_sources(IDS, mode=["patch"]), "usage"),
    "source: mask": (lambda m: m.record_sources(IDS, attention_mask=torch.ones(3)), "usage"),
    "source: mask list": (lambda m: m.record_sources(IDS, attention_mask=[1]), "usage"),
    "source: keys": (lambda m: m.record_sources(IDS, keys=[("mlp", 0, "all")]), "usage"),
    "source: negative": (lambda m: m.record_sources(IDS, keys=[("mlp", -1)]), "config_invalid"),
    "sources: none": (lambda m: m.set_sources("patch", None), "usage"),
    "sources: keys": (lambda m: m.set_sources("patch", {"mlp": WIDE}), "usage"),
    "sources: values": (lambda m: m.set_sources("patch", {("mlp", 0): 3}), "usage"),
    "means: none": (lambda m: m.set_means(None), "usage"),
    "means: list": (lambda m: m.set_means([WIDE]), "usage"),
    "means: keys": (lambda m: m.set_means({"mlp": WIDE}), "usage"),
    "means: values": (lambda m: m.set_means({("mlp", 0): [0.0]}), "usage"),
    "means: negative": (lambda m: m.set_means({("mlp", -1): WIDE}), "config_invalid"),
    "mean": (lambda m: m.mean(3), "usage"),
    "direction": (lambda m: m.direction("it"), "usage"),
    "direction's name": (lambda m: m.set_direction(None, UNIT), "usage"),
    "direction's norm": (lambda m: m.set_direction("it", UNIT, "1"), "config_invalid"),
    "applied": (lambda m: m.applied(3), "config_invalid"),
    "sites": (lambda m: AblationManager(m.model, sites="llama"), "usage"),  # type: ignore[arg-type]
}


@pytest.mark.parametrize("name", USES)
def test_a_managers_arguments(name: str, manager: Callable[[str], AblationManager]) -> None:
    work, code = USES[name]
    held = manager("llama")
    assert raised(lambda: work(held)).code == code


def test_means_that_are_refused_leave_those_that_were_set(manager: Callable[[str], AblationManager]) -> None:
    held = manager("llama")
    held.set_means({("mlp", 0): WIDE})  # type: ignore[dict-item]
    raised(lambda: held.set_means({("mlp", 1): WIDE, ("mlp", 2): [0.0]}))  # type: ignore[dict-item]
    assert held.mean(("mlp", 0)).shape == WIDE.shape  # type: ignore[arg-type]


PROMPTS = [[1 + side, 5, 6 + number] for side in range(2) for number in range(9)]


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"positive": None}, "usage"),
        ({"positive": "text"}, "usage"),
        ({"positive": ["text"] * 9}, "usage"),
        ({"negative": [1] * 9}, "usage"),
        ({"negative": [[1.5]] * 9}, "usage"),
        ({"negative": [[]] * 9}, "usage"),
        ({"end_positions": 1}, "usage"),
        ({"end_positions": ()}, "config_invalid"),
        ({"end_positions": (0,)}, "config_invalid"),
        ({"end_positions": (1, 1)}, "config_invalid"),
        ({"end_positions": (1.0,)}, "config_invalid"),
        ({"held_out": 0}, "config_invalid"),
        ({"held_out": 1}, "config_invalid"),
        ({"held_out": "half"}, "config_invalid"),
        ({"resamples": 0}, "config_invalid"),
        ({"resamples": 1.5}, "config_invalid"),
        ({"seed": "0"}, "config_invalid"),
        ({"answers": (1, 2)}, "usage"),
        ({"answers": Answers(1, 2)}, "usage"),  # type: ignore[arg-type]
        ({"answers": Answers((), (2,))}, "usage"),
        ({"manager": None}, "usage"),
    ],
    ids=repr,
)
def test_a_search_for_directions(
    fields: dict[str, Any], code: str, manager: Callable[[str], AblationManager]
) -> None:
    given = {"manager": manager("llama"), "positive": PROMPTS[:9], "negative": PROMPTS[9:], **fields}
    assert raised(lambda: find_directions(**given)).code == code


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        *(({"name": name}, "model_not_found") for name in (None, 3, "", ["x"], b"x", Path("./x"))),
        *(({"dtype": dtype}, "config_invalid") for dtype in (None, ["float32"], torch.int8)),
        *(({"device": device}, "device_unavailable") for device in (None, ["cpu"], torch.device("meta"))),
        *(({"threads": threads}, "config_invalid") for threads in (0, -1, "2", 1.5, True, 10**9)),
        # The text "false" is true.
        *(({"trust_remote_code": trust}, "config_invalid") for trust in ("false", 1, None)),
        ({"revision": 3}, "config_invalid"),
    ],
    ids=repr,
)
def test_loading(fields: dict[str, Any], code: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    assert raised(lambda: load_model(**{"name": str(tmp_path), "device": "cpu", **fields})).code == code


@pytest.mark.parametrize("fields", [{"out": out} for out in (None, 3, "", b"x", "a\0b")], ids=repr)
def test_baking(fields: dict[str, Any]) -> None:
    given = {"model": "missing", "specs": AblationSpec("mlp", 0), **fields}
    assert raised(lambda: bake(**given)).code == "usage"
    assert raised(lambda: bake("missing", 3, "out")).code == "config_invalid"  # type: ignore[arg-type]
