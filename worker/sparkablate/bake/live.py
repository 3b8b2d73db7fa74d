"""The live side of the certificate: the intervention on the source model, its logits kept on disk."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from sparkablate.bake.verify import watching_experts
from sparkablate.edits.hooks import Edit, editing
from sparkablate.loading.numerics import device_of
from sparkablate.manager import AblationManager
from sparkablate.progress import Progress
from sparkablate.specs import AblationSpec, DirectionSpec, Spec

#: Shape of the fixed text. With 1024 positions, one whose experts differ is under the limit of 0.1 %.
BLOCKS, LENGTH = 8, 128
TEXT = Path(__file__).with_name("certificate.txt")


def fixed_ids(tokenizer: Any, vocab_size: int, max_positions: int | None) -> Tensor:
    """Token ids int64 [blocks, pos] of the fixed text; random ones (seeded) where there is no tokenizer or
    its vocabulary is not the model's."""
    length = LENGTH if max_positions is None else min(LENGTH, max_positions)
    wanted = BLOCKS * length
    if tokenizer is not None:
        ids = tokenizer(TEXT.read_text(encoding="utf-8"), add_special_tokens=False)["input_ids"]
        if ids and max(ids) < vocab_size:
            repeated = (ids * -(-wanted // len(ids)))[:wanted]
            return torch.tensor(repeated).view(BLOCKS, length)
    generator = torch.Generator().manual_seed(0)
    return torch.randint(vocab_size, (BLOCKS, length), generator=generator)


def record(
    manager: AblationManager,
    specs: Sequence[Spec],
    ids: Tensor,
    into: Path,
    progress: Progress,
    stop: Callable[[], None],
    resummed: Sequence[nn.Module] = (),
) -> float | None:
    """Writes block-N.safetensors (ids [1, pos], logits [pos, vocab] in float32, experts:PATH [pos, k]) for
    every block of `ids` [blocks, pos]; returns the floor.

    The floor is the largest logit difference between two algebraically equal live runs over the largest
    logit: directions projected in float32 and in float64; sums of which the result has fewer terms, those of
    the `resummed` projections, likewise; below float32, a run whose stream was moved by one unit in the last
    place. None where the two sides have to be equal to 1e-5.
    """
    model: Any = manager.model
    low_precision = model.dtype != torch.float32
    directed = any(isinstance(spec, DirectionSpec) for spec in specs)
    controls = _controls(manager, specs, directed, low_precision, resummed)
    passes = 1 + len(controls)
    total = float(passes * len(ids))
    done = 0

    # What runs in a skipped layer (for its keys and values) reaches nothing.
    idle = tuple(
        f"{manager.sites.layers[spec.layer].path}."
        for spec in specs
        if isinstance(spec, AblationSpec) and spec.kind == "layer"
    )

    def run(edits: Callable[[], Any], block: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        nonlocal done
        stop()
        with torch.inference_mode(), edits(), watching_experts(model) as experts:
            logits = model(input_ids=block.to(device_of(model)), use_cache=False).logits
        done += 1
        progress("live", float(done), total, "blocks")
        return logits[0].float().cpu(), {
            name: chosen for name, chosen in experts.items() if not name.startswith(idle)
        }

    largest = 0.0
    differences = 0.0
    for number, block in enumerate(ids.split(1)):
        logits, experts = run(lambda: manager.applied(specs), block)
        kept = {f"experts:{name}": chosen.contiguous() for name, chosen in experts.items()}
        save_file(
            {"ids": block.contiguous(), "logits": logits.contiguous(), **kept},
            into / f"block-{number:03d}.safetensors",
        )
        largest = max(largest, float(logits.abs().max()))
        for control in controls:
            other, other_experts = run(control, block)
            same = torch.ones(len(logits), dtype=torch.bool)
            for name, chosen in experts.items():
                same &= (other_experts[name] == chosen).all(dim=-1)
            first = len(same) if bool(same.all()) else int((~same).nonzero()[0])
            if first:
                differences = max(differences, float((other - logits)[:first].abs().max()))
    return differences / (largest or 1.0) if passes > 1 else None


def _controls(
    manager: AblationManager,
    specs: Sequence[Spec],
    directed: bool,
    low_precision: bool,
    resummed: Sequence[nn.Module],
) -> list[Callable[[], Any]]:
    controls: list[Callable[[], Any]] = []
    if resummed:

        def summed() -> ExitStack:
            stack = ExitStack()
            stack.enter_context(manager.applied(specs))
            for module in resummed:
                stack.callback(module.register_forward_hook(_in_float64).remove)
            return stack

        controls.append(summed)
    if directed:
        controls.append(lambda: _InFloat64(manager).applied(specs))
    if low_precision:

        def moved() -> ExitStack:
            stack = ExitStack()
            stack.enter_context(manager.applied(specs))
            stack.enter_context(editing([(manager.sites.layers[0].stream, _one_ulp)]))
            return stack

        controls.append(moved)
    return controls


def _in_float64(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
    """What the projection gives, summed in float64."""
    if any(parameter.device.type == "meta" for parameter in module.parameters()):
        return _one_ulp(output)  # its weights are on disk by now
    twin = copy.copy(module)  # of the same class and settings; hooks run around a call, not around forward
    twin._parameters = {
        name: None if value is None else nn.Parameter(value.double(), requires_grad=False)
        for name, value in module._parameters.items()
    }
    return twin.forward(args[0].double()).to(output.dtype)


def _one_ulp(x: Tensor) -> Tensor:
    """Every number moved to its neighbour, up or down at random (seeded)."""
    generator = torch.Generator().manual_seed(0)
    up = torch.randint(0, 2, x.shape, generator=generator).bool().to(x.device)
    limit = torch.full_like(x, torch.inf)
    return torch.nextafter(x, torch.where(up, limit, -limit))


class _InFloat64(AblationManager):
    """The same interventions; directions are projected out in float64 and cast back."""

    def __init__(self, manager: AblationManager) -> None:
        super().__init__(manager.model, manager.sites)
        self._means, self._directions = manager._means, manager._directions

    def _vector_edits(self, specs: Sequence[DirectionSpec]) -> list[tuple[list[DirectionSpec], Edit]]:
        return [(members, _widened(edit)) for members, edit in super()._vector_edits(specs)]


def _widened(edit: Edit) -> Edit:
    return lambda x: edit(x.double()).to(x.dtype)
