"""What conditions with a donor take from it: recorded a few sites at a time, in the order of the walk."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field

import torch
from torch import Tensor

from sparkablate.catalog import LIMITS
from sparkablate.edits.donors import SourceKey, needed_donors, record_activations
from sparkablate.manager import AblationManager
from sparkablate.measure.likelihood import Likelihood
from sparkablate.measure.walk import Entries, bypassing_above
from sparkablate.specs import Spec

#: Sites whose activations [batch, pos, width] are kept at a time, unless one condition needs more.
KEPT_SITES = LIMITS["kept_donors"]


@dataclass
class Donors:
    """``ids``: mode → the source's tokens [batch, pos], row i for row i of the blocks, in the same batch
    shape: another gives other bits."""

    manager: AblationManager
    likelihood: Likelihood
    entries: Entries
    ids: Mapping[str, Tensor]
    _kept: dict[str, dict[SourceKey, Tensor]] = field(default_factory=dict)

    def provide(self, specs: Sequence[Spec], upcoming: Iterable[Sequence[Spec]]) -> None:
        """Gives the manager what ``specs`` take. What is not kept yet is recorded in one pass over the
        source, together with what the ``upcoming`` conditions take."""
        for mode, ids in self.ids.items():
            needed = needed_donors(specs, mode)
            if not needed:
                continue
            if not self._kept.get(mode, {}).keys() >= set(needed):
                wanted = dict.fromkeys(needed)
                for others in upcoming:
                    more = [key for key in needed_donors(others, mode) if key not in wanted]
                    if len(wanted) + len(more) > KEPT_SITES:
                        break
                    wanted |= dict.fromkeys(more)
                self._kept.pop(mode, None)  # the new ones need its memory
                self.manager.set_sources(mode, {})
                self._kept[mode] = self._record(list(wanted), ids)
            self.manager.set_sources(mode, self._kept[mode])

    def provide_row(self, specs: Sequence[Spec], row: int) -> None:
        """The same for one block alone; nothing is kept."""
        self.forget()
        for mode, ids in self.ids.items():
            if needed := needed_donors(specs, mode):
                self.manager.set_sources(mode, self._record(needed, ids[row : row + 1]))

    def forget(self) -> None:
        """Frees what is kept."""
        self._kept.clear()
        for mode in self.ids:
            self.manager.set_sources(mode, {})

    def same(self, ids: Mapping[str, Tensor]) -> bool:
        """Whether these are its tokens."""
        return self.ids.keys() == ids.keys() and all(torch.equal(self.ids[mode], ids[mode]) for mode in ids)

    def _record(self, keys: Sequence[SourceKey], ids: Tensor) -> dict[SourceKey, Tensor]:
        highest = max(key.layer for key in keys)
        with ExitStack() as stack:
            if self.entries.walkable:
                stack.enter_context(bypassing_above(self.likelihood.sites, highest))
            return record_activations(self.likelihood.sites, keys, lambda: self.likelihood.final_hidden(ids))
