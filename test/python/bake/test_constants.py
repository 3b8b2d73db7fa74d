"""A layer's constant write, baked: into its own MLP's bias, or of a deleted layer into one below."""

from __future__ import annotations

import json
import math
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import tiny_models
from sparkablate import AblationManager, AblationSpec, DirectionSpec, SparkablateError
from sparkablate.bake import live
from sparkablate.bake.baking import Baking, Source
from sparkablate.bake.certificate import judge, run_jobs
from sparkablate.bake.foresight import Wanted, foresee
from sparkablate.bake.place import placed
from sparkablate.progress import silent
from sparkablate.specs import Spec

LAYERS = 6


def constant(*layers: int) -> list[Spec]:
    return [AblationSpec("layer", layer, mode="mean") for layer in layers]


def direction(*layers: int, seed: int = 0) -> DirectionSpec:
    vector = torch.randn(tiny_models.D_MODEL, generator=torch.Generator().manual_seed(seed))
    return DirectionSpec("project_out", vector / vector.norm(), layers=layers)


def source(name: str, directory: Path) -> Source:
    if not directory.exists():
        tiny = tiny_models.TINY[name]
        model = tiny_models.make(
            tiny_models.Tiny(tiny.model_type, {**tiny.config, "num_hidden_layers": LAYERS})
        )
        model.save_pretrained(directory)
        manager = AblationManager(model)
        manager.calibrate_means([tiny_models.tokens(4, 16)])
        source.held[directory] = Source(name, None, directory, None, manager)
    return source.held[directory]


source.held = {}  # type: ignore[attr-defined]

#: What is baked, of which model, and whether layers are deleted.
BAKED: dict[str, tuple[str, list[Spec], bool]] = {
    "both of two neighbours deleted": ("llama", constant(3, 4), True),
    "one deleted, one kept as its constant": ("llama", [*constant(4), AblationSpec("mlp", 1)], True),
    "layer 0 as its constant": ("llama", constant(0), False),
    "the last": ("llama", constant(LAYERS - 1), True),
    "beside a skipped one": ("llama", [*constant(3), AblationSpec("layer", 2)], True),
    "writes that are scaled": ("granite", constant(2, 4), True),
    "scaled, not deleted": ("granite", constant(2), False),
    "attention and MLP side by side": ("gpt_neox", constant(3), True),
    "a bias that is there": ("gpt2", constant(3), True),
    "a direction that its writes lack": ("llama", [*constant(3), direction(3)], True),
    "a direction that the receiving layer lacks": ("llama", [*constant(3), direction(2)], True),
    "directions of both": ("granite", [*constant(3), direction(2, 3), direction(3, seed=1)], True),
    "half of a direction, everywhere": (
        "llama",
        [*constant(3), DirectionSpec("project_out", direction(0).vector, coefficient=0.5)],
        True,
    ),
    "what receives it is a mean itself": ("llama", [*constant(3), AblationSpec("mlp", 2, mode="mean")], True),
}


@pytest.fixture(scope="module")
def certified(tmp_path_factory: pytest.TempPathFactory) -> Any:
    root = tmp_path_factory.mktemp("constants")
    patched = pytest.MonkeyPatch()
    patched.setattr(live, "BLOCKS", 2)
    patched.setattr(live, "LENGTH", 24)
    with ExitStack() as stack:
        written = {}
        for case, (name, specs, prune) in BAKED.items():
            target = root / case.replace(" ", "-").replace(",", "")
            baking = Baking(source(name, root / name), specs, target, "float32", prune, force=False)
            written[case] = baking.write(stack.enter_context(placed(target)), silent, lambda: None)
        reports = run_jobs([one.job for one in written.values()], root, silent, lambda: None)
        yield {
            case: (one, judge(report, one.floor, one.job["dtype"]))
            for (case, one), report in zip(written.items(), reports, strict=True)
        }
    patched.undo()


@pytest.mark.parametrize("case", BAKED)
def test_the_checkpoint_is_the_live_model(case: str, certified: Any) -> None:
    _, certificate = certified[case]
    assert certificate["passed"], json.dumps(certificate, indent=1)


def test_it_lies_in_the_layer_below_divided_by_its_scale(certified: Any) -> None:
    written, _ = certified["writes that are scaled"]
    held = next(one for path, one in source.held.items() if path.name == "granite")  # type: ignore[attr-defined]
    tensors = load_file(f"{written.job['directory']}/model.safetensors")
    scale = held.manager.model.config.residual_multiplier
    for deleted, receiver in ((2, 1), (4, 2)):  # 3 is the third that is left
        expected = held.manager.mean(("layer", deleted, "all")) / scale
        torch.testing.assert_close(tensors[f"model.layers.{receiver}.mlp.down_proj.bias"], expected)
    assert any("layer 2's in layer 1's, layer 4's in layer 3's" in note for note in written.record["notes"])


@pytest.mark.parametrize(
    ("name", "specs", "prune", "said"),
    [
        ("llama", constant(0), True, "no layer below it stays"),
        ("llama", constant(0, 1), True, "no layer below it stays"),
        ("mixtral", constant(3), True, "several experts"),
        ("mixtral", constant(3), False, "several experts"),
        ("mistral", constant(3), True, "no key of its stock configuration"),
        ("olmo2", constant(3), True, "a norm follows the projection"),
        ("olmo2", constant(3), False, "a norm follows the projection"),
        ("gemma2", constant(3), True, "a norm follows the projection"),
    ],
)
def test_where_nothing_takes_it(name: str, specs: Any, prune: bool, said: str, tmp_path: Path) -> None:
    held = source(name, tmp_path / name)
    for attempt in (
        lambda: Baking(held, specs, tmp_path / "out", "float32", prune, force=False),
        lambda: foresee(
            str(held.directory), None, False, Wanted(specs, tmp_path / "out", "auto", prune, False)
        ),
    ):
        with pytest.raises(SparkablateError, match=said) as caught:
            attempt()
        assert caught.value.code == "bake_refused"


def test_it_is_computed_in_float32(tmp_path: Path) -> None:
    held = source("llama", tmp_path / "llama")
    wanted = Wanted(constant(3), tmp_path / "o", "auto", True, False)
    foreseen = foresee(str(held.directory), None, False, wanted)
    assert (foreseen.form.written, foreseen.form.live) == ("float32", "float32")
    # The biases that hold the constant are counted: those of the bake, and those of the stock model.
    baking = Baking(held, constant(3), tmp_path / "o", "float32", True, force=False)
    assert foreseen.after.parameters == baking.parameters["after"]
    assert foreseen.after.bytes == 4 * sum(math.prod(output.shape) for output in baking.outputs)
