"""The edits that a walk is made under: everything, the baseline too, is measured on top of them."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

from sparkablate.edits.given import between
from sparkablate.manager import AblationManager
from sparkablate.specs import DirectionSpec, Spec, spec_id


@dataclass(frozen=True)
class Given:
    """``specs`` are canonical; none: the walk is the unedited model's."""

    manager: AblationManager
    specs: tuple[Spec, ...] = ()

    def edits(self, first: int, last: int) -> AbstractContextManager[Any]:
        """Applies what of them acts in these layers."""
        return applied(self.manager, between(self.specs, first, last, self.manager.sites))

    @property
    def edits_embedding(self) -> bool:
        return any(isinstance(spec, DirectionSpec) and spec.edits_embedding for spec in self.specs)

    @property
    def key(self) -> tuple[object, ...]:
        """Equal where the edits are: what they put in aside."""
        return tuple(
            (spec_id(spec), spec.sha256, self.manager.direction(spec)[1])
            if isinstance(spec, DirectionSpec)
            else spec
            for spec in self.specs
        )


def applied(manager: AblationManager, specs: Sequence[Spec]) -> AbstractContextManager[Any]:
    """The model as it is where there are none: an empty block would warn."""
    return manager.applied(specs) if specs else nullcontext()
