"""Key/value caches under edits: what a cache holds was computed with the edits of its time."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import cached_property
from typing import Any

from sparkablate.edits.bound import Bound
from sparkablate.edits.positions import cache_of, tokens_before
from sparkablate.specs import DirectionSpec, spec_id

#: Attribute of a cache (which a copy of it takes along) that says under which edits it was filled.
_MARK = "_sparkablate_edits"


class Filled:
    """The edits in force, and which caches were filled under them."""

    def __init__(self, union: Sequence[Bound]) -> None:
        self._union = union
        self._warned = False

    def foreign(self, kwargs: dict[str, Any]) -> str | None:
        """What to say of the cache among a pass's arguments, once, where it was filled under other edits."""
        cache = cache_of(kwargs)
        if cache is None or self._warned or getattr(cache, _MARK, "") == self._key:
            return None
        if not tokens_before(cache):
            return None
        self._warned = True
        return (
            "a key/value cache that was filled without these edits is used inside applied(): its tokens keep "
            "their keys and values from then; start from an empty cache for the numbers of the edited model"
        )

    def mark(self, kwargs: dict[str, Any], output: Any) -> None:
        """Remembers that the pass has filled its cache."""
        cache = cache_of(kwargs)
        if cache is None and hasattr(output, "__dict__"):  # made in the pass
            cache = cache_of(vars(output))  # asking the output itself for an old name logs a deprecation
        if cache is not None and hasattr(cache, "__dict__") and not self._warned:
            setattr(cache, _MARK, self._key)

    @cached_property
    def _key(self) -> str:
        digest = hashlib.sha256()
        for bound in self._union:
            spec = bound.spec
            more = (spec.sha256, spec.norm) if isinstance(spec, DirectionSpec) else ()
            digest.update(repr((spec_id(spec), more)).encode())
            if bound.given is not None:
                digest.update(bound.given.detach().float().cpu().numpy().tobytes())
        return digest.hexdigest()
