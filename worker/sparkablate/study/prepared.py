"""What `sweep()` was asked for, and a run that is ready to be measured."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

from sparkablate.engines.loaded import Loaded
from sparkablate.engines.local import LocalEngine
from sparkablate.study import inputs
from sparkablate.study.planning import Plan
from sparkablate.study.sampling import Chosen
from sparkablate.study.subject import Subject


@dataclass(frozen=True)
class Settings:
    """What is measured on. ``blocks`` None: all there are."""

    text: inputs.Source | None
    task: inputs.Task | None
    calibration: inputs.Source | None
    seq_len: int
    batch_size: int
    blocks: int | None
    calibration_blocks: int
    add_bos: bool | str
    seed: int
    metrics: tuple[str, ...]


@dataclass(frozen=True)
class Study:
    """A run that is ready to be measured."""

    subject: Subject
    settings: Settings
    loaded: Loaded
    engine: LocalEngine
    plan: Plan
    chosen: Chosen
    shape: tuple[int, int]
    metrics: tuple[str, ...]

    @cached_property
    def wire(self) -> dict[str, Any]:
        """`loadedModel` of src/protocol/messages.ts, in the shape that is measured."""
        return self.loaded.to_wire(self.shape, 0.0, False)

    @property
    def kept(self) -> dict[str, bytes]:
        """Texts in memory, which a directory of the run keeps."""
        settings = self.settings
        found = {one.keep: one.kept for one in (settings.text, settings.calibration) if one and one.kept}
        task = settings.task
        return {**found, **({} if task is None or task.path else {task.name: task.data})}
