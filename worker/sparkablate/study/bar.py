"""The bar of a sweep: in notebooks a widget, in terminals a line."""

from __future__ import annotations

from types import TracebackType
from typing import Any


class Bar:
    """Called as a `Progress` before the sweep; then a step a measurement. `shown` False: silent."""

    def __init__(self, shown: bool) -> None:
        self._shown = shown
        self._bar: Any = None

    def __enter__(self) -> Bar:
        if self._shown:
            from tqdm.auto import tqdm

            self._bar = tqdm(unit="", desc="model", leave=False)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.close()

    def __call__(self, stage: str, done: float, total: float | None, unit: str) -> None:
        if self._bar is not None:
            self._bar.set_description_str(stage)

    def begin(self, measurements: int, conditions: int) -> None:
        """``measurements``: pairs of a condition and a batch."""
        if self._bar is not None:
            self._bar.reset(total=measurements)
            self._bar.set_description_str(f"{conditions} conditions")

    def step(self) -> None:
        if self._bar is not None:
            self._bar.update()
