"""Ids of conditions read back, and what people may type besides: ranges, lists, layers counted from the end.

docs/condition-ids.md has the grammar; src/conditions/parse.ts is the same in TypeScript, message for message.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any, NoReturn

from sparkablate.arguments import described
from sparkablate.catalog import LAYER_MODES, LIMITS, MODES, OPERATIONS, POSITIONS, SITES
from sparkablate.errors import SparkablateError
from sparkablate.specs import AblationSpec, DirectionSpec, Spec, condition_id

EXAMPLES = "L14.head[3,7].zero, L5.mlp.mean, L26.layer.skip or dir[1a2b3c4d].project_out"
DETAILS = ("at", "layers", "coefficient")
#: Characters of the text that a message repeats.
SHOWN = 120


class Condition(list[Spec]):
    """The specs of one condition; `str()` gives its canonical id."""

    def __str__(self) -> str:
        return condition_id(self)


def parse_condition(
    text: str, n_layers: int | None = None, directions: Iterable[DirectionSpec | str] = ()
) -> Spec | Condition:
    """An id as sparkablate prints it, or as people type it, as what `applied()` takes.

    Args:
        text: like "L14.head[3,7].zero + L26.layer.skip"; "L3..5.mlp.mean" is three edits that act jointly.
        n_layers: of the model; only needed for layers that are counted from the end, like "L-1.attn.zero".
        directions: those that `dir[…]` may name by the first digits of their sha256.

    Returns: one spec, or a list of several (none for "baseline"); `str()` of either is the canonical id.
    Raises SparkablateError: "config_invalid" with what is wrong, "conditions_overlap" where a part is edited
    twice.
    """
    if not isinstance(text, str):
        raise SparkablateError("usage", f"a condition's id is a text, not {described(text)}")
    if n_layers is not None and (isinstance(n_layers, bool) or not isinstance(n_layers, int) or n_layers < 1):
        raise SparkablateError(
            "usage", f"n_layers is the model's number of layers, not {described(n_layers)}"
        )
    specs = _parsed(_Scanner(text.strip()), n_layers, list(directions))
    return specs[0] if len(specs) == 1 else Condition(specs)


def with_ids_read(specs: Any, n_layers: int | None, directions: Iterable[str]) -> Any:
    """What `applied()` was given, each text in it as the specs that it names; the rest as it stands."""
    if isinstance(specs, str):
        specs = [specs]
    if isinstance(specs, AblationSpec | DirectionSpec | Mapping) or not isinstance(specs, Iterable):
        return specs
    known = list(directions)
    found: list[Any] = []
    for spec in specs:
        read = parse_condition(spec, n_layers, known) if isinstance(spec, str) else spec
        found += read if isinstance(read, Condition) else [read]
    return found


class _Scanner:
    """A text that is read from left to right; what is wrong with it is said with the text in front."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.place = 0

    @property
    def rest(self) -> str:
        return self.text[self.place :]

    def since(self, place: int) -> str:
        return self.text[place : self.place].strip()

    def take(self, pattern: str) -> str | None:
        """What matches here, and is then read."""
        found = re.compile(pattern, re.ASCII).match(self.text, self.place)
        if found is None:
            return None
        self.place = found.end()
        return found.group()

    def name(self, known: Iterable[str]) -> str | None:
        """The name that stands here, the longest first: one may be the beginning of another."""
        for name in sorted(known, key=len, reverse=True):
            if self.rest.startswith(name) and not re.match(r"\w", self.rest[len(name) :], re.ASCII):
                self.place += len(name)
                return name
        return None

    def word(self) -> str:
        """What stands here up to the next sign; it stays to be read."""
        found = re.match(r"[^.,\[\]()@+\s]*", self.rest)
        return found.group() if found else ""

    def unknown(self, what: str, known: Iterable[str]) -> NoReturn:
        """Refuses what stands where a name was to be."""
        word = self.word()
        wrong = f'"{word}" is no {what}' if word else f"the {what} is missing"
        self.fail(f"{wrong}; allowed: {', '.join(known)}")

    def fail(self, what: str, code: str = "config_invalid") -> NoReturn:
        shown = f"{self.text[: SHOWN - 1]}…" if len(self.text) > SHOWN else self.text
        raise SparkablateError(code, f'"{shown}": {what}')


def _parsed(scanner: _Scanner, n_layers: int | None, directions: list[DirectionSpec | str]) -> list[Spec]:
    if scanner.rest == "":
        scanner.fail(f"a condition is missing; write one like {EXAMPLES}")
    if scanner.rest == "baseline":
        return []
    if re.fullmatch(r"null\[\d+\]", scanner.rest, re.ASCII):
        scanner.fail("is a control that measures rounding, not an edit")
    if re.fullmatch(r"joint\[\d+ interventions, [0-9a-f]{16}\]", scanner.rest, re.ASCII):
        scanner.fail("stands for an id that was too long to be printed: give the run that holds it")
    specs: list[Spec] = []
    more: str | None = "+"
    while more is not None:
        scanner.take(r"[ \t]+")
        specs += _edit(scanner, n_layers, directions)
        if len(specs) > LIMITS["listed"]:
            scanner.fail(f"more than {LIMITS['listed']} edits are listed")
        scanner.take(r"[ \t]+")
        more = scanner.take(r"\+")
    if scanner.rest != "":
        scanner.fail(f'"{scanner.rest}" is left over; edits are joined by +')
    _refuse_twice(scanner, specs)
    return specs


def _edit(scanner: _Scanner, n_layers: int | None, directions: list[DirectionSpec | str]) -> list[Spec]:
    if scanner.take(r"dir\[") is not None:
        return [_direction(scanner, n_layers, directions)]
    start = scanner.place
    if scanner.take(r"L(?=-?\d)") is None:
        here = scanner.word() or scanner.rest
        scanner.fail(
            "an edit must follow the +" if here == "" else f'"{here}" is no edit; write one like {EXAMPLES}'
        )
    layers = _layers(scanner, n_layers)
    if layers is None:
        scanner.fail("a layer's number must follow the comma")
    if scanner.take(r"\.") is None:
        here = scanner.since(start)
        scanner.fail(f"a dot and the site must follow {here}, like {here}.attn")
    kinds = [name for name, site in SITES.items() if site.edit != "direction"]
    kind = scanner.name(kinds)
    if kind is None:
        scanner.unknown("site", kinds)
    parts = _parts(scanner, kind, start)
    mode = _mode(scanner, kind, start)
    positions = _positions(scanner, kind)
    fields: dict[str, Any] = {"kind": kind, **parts, "mode": mode, "positions": positions}
    return [AblationSpec(layer=layer, **fields) for layer in layers]


def _parts(scanner: _Scanner, kind: str, start: int) -> dict[str, list[int]]:
    named = SITES[kind].parts
    site = scanner.since(start)
    opened = scanner.take(r"\[[ \t]*") is not None
    if named is None:
        if opened:
            scanner.fail(f"{kind} is edited whole: leave out what stands in brackets")
        return {}
    if not opened:
        scanner.fail(f"the {named.field} must follow {site} in brackets, like {site}[0]")
    found = _list(scanner, lambda first, last: _part_span(scanner, first, last, named.one))
    if found is None or scanner.take(r"[ \t]*\]") is None:
        scanner.fail(f"the brackets behind {site} hold numbers of {named.field}, like {site}[0,2..4]")
    return {named.field: sorted(found)}


def _mode(scanner: _Scanner, kind: str, start: int) -> str:
    skips = SITES[kind].edit == "skip"
    site = scanner.since(start)
    if scanner.take(r"\.") is None:
        example = "skip" if skips else next(iter(MODES))
        scanner.fail(f"a dot and the mode must follow {site}, like {site}.{example}")
    # As in a config, zero is another word for skip.
    mode = scanner.name([*LAYER_MODES, "zero"] if skips else MODES)
    if mode is None:
        scanner.unknown(f"mode of {kind}", LAYER_MODES if skips else MODES)
    return "skip" if skips and mode == "zero" else mode


def _positions(scanner: _Scanner, kind: str) -> str:
    if scanner.take("@") is None:
        return "all"
    positions = scanner.name(POSITIONS)
    if positions is None:
        scanner.unknown("choice of positions", POSITIONS)
    if positions != "all" and SITES[kind].edit == "skip":
        scanner.fail(f"a layer is skipped at all positions: leave out @{positions}")
    return positions


def _direction(
    scanner: _Scanner, n_layers: int | None, directions: list[DirectionSpec | str]
) -> DirectionSpec:
    """Behind `dir[`."""
    digest = scanner.take(r"[0-9a-f]{1,64}(?=\])")
    if digest is None:
        scanner.fail("dir[…] holds the first digits of the direction's sha256, like dir[1a2b3c4d]")
    scanner.take(r"\]")
    if scanner.take(r"\.") is None:
        example = f"dir[{digest}].{next(iter(OPERATIONS))}"
        scanner.fail(f"a dot and the operation must follow dir[{digest}], like {example}")
    op = scanner.name(OPERATIONS)
    if op is None:
        scanner.unknown("operation on a direction", OPERATIONS)
    details = _details(scanner, op, n_layers)
    positions = _positions(scanner, "direction")
    known = {one if isinstance(one, str) else one.sha256: one for one in directions}
    found = [sha256 for sha256 in known if sha256.startswith(digest)]
    if not found:
        scanner.fail(f"dir[{digest}] is none of the directions that are given here")
    if len(found) > 1:
        scanner.fail(f"dir[{digest}] is the beginning of {len(found)} directions: give more digits")
    given = known[found[0]]
    if isinstance(given, DirectionSpec):
        return replace(given, op=op, positions=positions, **details)
    return DirectionSpec(op, sha256=given, positions=positions, **details)


def _details(scanner: _Scanner, op: str, n_layers: int | None) -> dict[str, Any]:
    found: dict[str, Any] = {"at": OPERATIONS[op][0], "layers": "all", "coefficient": 1.0}
    if scanner.take(r"\([ \t]*") is None:
        return found
    seen: list[str] = []
    more: str | None = ","
    while more is not None:
        name = scanner.name(DETAILS)
        if name is None or scanner.take(r"[ \t]*=[ \t]*") is None:
            allowed = ", ".join(f"{one}=…" for one in DETAILS)
            scanner.fail(f'"{scanner.rest}" begins no detail of a direction; allowed: {allowed}')
        if name in seen:
            scanner.fail(f"{name} is given twice: keep one")
        seen.append(name)
        found[name] = _detail(scanner, name, op, n_layers)
        more = scanner.take(r"[ \t]*,[ \t]*")
    if scanner.take(r"[ \t]*\)") is None:
        scanner.fail("the parenthesis is not closed")
    return found


def _detail(scanner: _Scanner, name: str, op: str, n_layers: int | None) -> Any:
    if name == "at":
        place = scanner.name(OPERATIONS[op])
        if place is None:
            scanner.unknown(f"place of {op}", OPERATIONS[op])
        return place
    if name == "layers":
        if scanner.name(["all"]):
            return "all"
        layers = _layers(scanner, n_layers) if scanner.take(r"\[[ \t]*") is not None else None
        if layers is None or scanner.take(r"[ \t]*\]") is None:
            scanner.fail("layers= takes all, or numbers in brackets, like layers=[0,2..4]")
        return tuple(sorted(layers))
    written = scanner.take(r"(?i:[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?)")
    value = math.nan if written is None else float(written)
    if not math.isfinite(value):
        scanner.fail("coefficient= takes a number, like coefficient=0.5")
    return value


def _layers(scanner: _Scanner, n_layers: int | None) -> list[int] | None:
    return _list(scanner, lambda first, last: _layer_span(scanner, first, last, n_layers))


def _list(scanner: _Scanner, span: Callable[[int, int], list[int]]) -> list[int] | None:
    """In the order of writing; None: there is no number here."""
    found: list[int] = []
    more: str | None = ","
    while more is not None:
        first = _number(scanner)
        if first is None:
            return None
        last = first if scanner.take(r"[ \t]*\.\.[ \t]*") is None else _number(scanner)
        if last is None:
            scanner.fail(f"a number must follow {first}..")
        for value in span(first, last):
            if value in found:
                scanner.fail(f"{value} is listed twice: keep one")
            found.append(value)
        if len(found) > LIMITS["listed"]:
            scanner.fail(f"more than {LIMITS['listed']} are listed")
        more = scanner.take(r"[ \t]*,[ \t]*")
    return found


def _number(scanner: _Scanner) -> int | None:
    written = scanner.take(r"-?\d+")
    if written is None:
        return None
    # Python itself refuses int() of thousands of digits.
    digits = written.lstrip("-0")[:20]
    if int(digits or "0") > LIMITS["index"]:
        scanner.fail(f"{written} is too large; allowed: up to {LIMITS['index']}")
    return -int(digits or "0") if written.startswith("-") else int(digits or "0")


def _part_span(scanner: _Scanner, first: int, last: int, one: str) -> list[int]:
    if first < 0 or last < 0:
        scanner.fail(
            f"{one} {first if first < 0 else last} is negative; only layers are counted from the end"
        )
    return _expanded(scanner, first, last)


def _layer_span(scanner: _Scanner, first: int, last: int, n_layers: int | None) -> list[int]:
    if n_layers is None:
        if first < 0 or last < 0:
            scanner.fail(
                f"layer {first if first < 0 else last} is counted from the end, "
                "and the number of layers is not known here"
            )
        return _expanded(scanner, first, last)
    for layer in (first, last):
        if layer < -n_layers:
            scanner.fail(f"layer {layer} does not exist; the model has {n_layers} layers")
    return _expanded(scanner, first + n_layers * (first < 0), last + n_layers * (last < 0))


def _expanded(scanner: _Scanner, first: int, last: int) -> list[int]:
    if last < first:
        scanner.fail(f"the range {first}..{last} runs backwards")
    if last - first >= LIMITS["listed"]:
        scanner.fail(f"more than {LIMITS['listed']} are listed")
    return list(range(first, last + 1))


def _refuse_twice(scanner: _Scanner, specs: Iterable[Spec]) -> None:
    seen: set[str] = set()
    for spec in specs:
        if isinstance(spec, DirectionSpec):
            continue
        for part in spec.parts or (None,):
            what = f"L{spec.layer}.{spec.kind}{'' if part is None else f'[{part}]'}"
            if what in seen:
                scanner.fail(f"{what} is edited twice", "conditions_overlap")
            seen.add(what)
