"""What exists, and what does not meet, as src/protocol/catalog.ts and features.ts have it.

`catalog.json` is generated from it. Tables in this package add functions; `complete` holds each to the
catalogue's names when it is imported.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal


@dataclass(frozen=True)
class Parts:
    """How specs, maps and messages name the parts of a site, e.g. heads."""

    #: Field of `AblationSpec` that lists them.
    field: str
    #: Field of `LayerSites` that counts them.
    count: str
    #: Field of `LayerSites` that counts the finer site's parts, which they hold in equal runs.
    holds: str | None
    #: One of them, in messages.
    one: str


@dataclass(frozen=True)
class Site:
    """A kind of place in a layer that can be edited."""

    #: The smallest site that it is a part of.
    within: str | None
    parts: Parts | None
    edit: Literal["mode", "skip", "direction"]
    #: Whose mean and whose activation on other tokens it takes.
    values: str | None


@dataclass(frozen=True)
class ModeNeeds:
    #: The site's calibrated mean, or a donor: its activation on other tokens.
    needs: Literal["mean", "donor"] | None


@dataclass(frozen=True)
class MetricColumns:
    #: What the metric gives, in order.
    columns: tuple[str, ...]
    #: The unedited model's logits, or a wrong answer's token.
    needs: Literal["baseline", "wrong"] | None
    #: How the values at the tokens of an item's answer become the item's.
    item: Literal["mean", "sum", "every"]


_CATALOG: dict[str, Any] = json.loads((Path(__file__).parent / "catalog.json").read_bytes())

_sites = {
    name: Site(**{**row, "parts": row["parts"] and Parts(**row["parts"])})
    for name, row in _CATALOG["sites"].items()
}
#: In canonical order; behind the catalogue's, those that others have added.
SITES: Mapping[str, Site] = MappingProxyType(_sites)
#: Of the catalogue alone, like the tuples made from it.
SITE_ORDER = tuple(SITES)
#: Sites that a mode acts on.
MODED_SITES = tuple(name for name, site in SITES.items() if site.edit == "mode")
#: Sites with values of their own: those that have a mean, and a donor.
VALUE_SITES = tuple(name for name, site in SITES.items() if site.values == name)
#: Fields of `AblationSpec` that list parts.
PART_FIELDS = tuple(site.parts.field for site in SITES.values() if site.parts)
#: Fields of `LayerSites` that count parts.
PART_COUNTS = tuple(site.parts.count for site in SITES.values() if site.parts)

MODES: Mapping[str, ModeNeeds] = MappingProxyType(
    {name: ModeNeeds(**row) for name, row in _CATALOG["modes"].items()}
)
#: Modes that put in what the site has on other tokens.
DONOR_MODES = tuple(name for name, mode in MODES.items() if mode.needs == "donor")
#: What becomes of a whole layer.
LAYER_MODES = tuple(_CATALOG["layer_modes"])
POSITIONS = tuple(_CATALOG["positions"])
#: What is done with a direction → where it may be; the first place is the default.
OPERATIONS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {name: tuple(places) for name, places in _CATALOG["operations"].items()}
)
METRICS: Mapping[str, MetricColumns] = MappingProxyType(
    {
        name: MetricColumns(tuple(row["columns"]), row["needs"], row["item"])
        for name, row in _CATALOG["metrics"].items()
    }
)
_REFUSALS = {frozenset(row["features"]): (row["code"], row["sentence"]) for row in _CATALOG["refusals"]}
LIMITS: Mapping[str, int] = MappingProxyType(_CATALOG["limits"])
#: Environment variables that decide what is loaded, or a result's bits.
DECIDING_VARIABLES = re.compile(_CATALOG["deciding_variables"])


def refusal(one: str, other: str) -> tuple[str, str]:
    """Error code and sentence of two features that do not meet: src/protocol/features.ts has them."""
    return _REFUSALS[frozenset({one, other})]


def is_within(site: str, whole: str) -> bool:
    """Whether the site, or one that it is a part of, is a part of the other."""
    within = SITES[site].within
    return within is not None and (within == whole or is_within(within, whole))


#: What others call their sites and metrics: a package's name, a dot, and more.
_OWN_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)+")


def is_own(name: str) -> bool:
    """Whether a site or metric is somebody's own, which only this process knows: no config, run or checkpoint
    can name it."""
    return "." in name


def own_name(what: str, name: Any) -> str:
    """Raises ValueError for a name that could be the catalogue's some day."""
    if not isinstance(name, str) or not _OWN_NAME.fullmatch(name) or len(name) > 64:
        raise ValueError(
            f"name must be your package's name, a dot and the {what}'s name, e.g. "
            f'"mypackage.{"gate" if what == "site" else "entropy"}", not {name!r:.80}'
        )
    return name


def add_site(name: str, site: Site) -> None:
    _sites[name] = site


def complete(table: str, names: Iterable[str], wanted: Iterable[str]) -> None:
    """Raises ImportError where a table's names are not the catalogue's."""
    found, expected = set(names), set(wanted)
    if found != expected:
        off = [f"lacks {name!r}" for name in sorted(expected - found)]
        off += [f"has {name!r} besides" for name in sorted(found - expected)]
        raise ImportError(f"{table} does not fit src/protocol/catalog.ts: it {', it '.join(off)}")
