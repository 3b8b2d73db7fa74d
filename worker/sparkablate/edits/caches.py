"""Key/value caches under edits: what a cache holds was computed with the edits of its time."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import cached_property
from typing import Any

from sparkablate.edits.bound import Bound
from sparkablate.edits.positions import cache_of, counts_tokens, tokens_before
from sparkablate.specs import DirectionSpec, spec_id

#: Attribute of a cache, which a copy of it takes along: the edits that it was filled under, and its tokens.
_MARK = "_sparkablate_edits"


class Filled:
    """The edits in force, and which caches were filled under them."""

    def __init__(self, union: Sequence[Bound]) -> None:
        self._union = union
        self._warned = False

    def foreign(self, kwargs: dict[str, Any]) -> str | None:
        """What to say of the cache among a pass's arguments, once, where it was filled under other edits."""
        cache = cache_of(kwargs)
        if cache is None or self._warned or self._filled_here(cache) or not tokens_before(cache):
            return None
        self._warned = True
        return (
            "a key/value cache that was filled without these edits is used inside applied(): its tokens keep "
            "their keys and values from then; start from an empty cache for the numbers of the edited model"
        )

    def tokens(self, kwargs: dict[str, Any]) -> int | None:
        """How many tokens stand before this pass, all of them run under these edits; None: others do."""
        cache = cache_of(kwargs)
        if cache is None or not tokens_before(cache):
            return 0
        if not self._filled_here(cache):
            return None
        # What has recurrent states alone does not count; what does may have been cut back since.
        return tokens_before(cache) if counts_tokens(cache) else getattr(cache, _MARK)[1]

    def _filled_here(self, cache: Any) -> bool:
        return getattr(cache, _MARK, ("", 0))[0] == self._key

    def mark(self, kwargs: dict[str, Any], output: Any, seen: int) -> None:
        """Remembers that the pass has filled its cache, which now stands for `seen` tokens."""
        cache = cache_of(kwargs)
        if cache is None and hasattr(output, "__dict__"):  # made in the pass
            cache = cache_of(vars(output))  # asking the output itself for an old name logs a deprecation
        if cache is not None and hasattr(cache, "__dict__") and not self._warned:
            setattr(cache, _MARK, (self._key, seen))

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
