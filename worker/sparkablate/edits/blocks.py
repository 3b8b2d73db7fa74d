"""The `applied` blocks that are open on a model act as one, whoever opened them and whichever ends first."""

from __future__ import annotations

import contextlib
import sys
import threading
import warnings
from collections import defaultdict
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, ContextDecorator, ExitStack
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import Any, Protocol
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from sparkablate.anatomy.modules import resolve
from sparkablate.anatomy.sites import SiteMap, Tap, site_row
from sparkablate.catalog import DONOR_MODES
from sparkablate.edits.bound import Bound
from sparkablate.edits.bypass import Skip
from sparkablate.edits.caches import Filled
from sparkablate.edits.eager import EAGER
from sparkablate.edits.hooks import Edit, Hook, on_tap
from sparkablate.edits.positions import FirstTokens, named_arguments
from sparkablate.edits.prompts import Prompts
from sparkablate.errors import SparkablateError
from sparkablate.specs import (
    AblationSpec,
    Spec,
    canonical,
    canonical_order,
    check_overlaps,
    spec_id,
    validate,
)


class Editor(Protocol):
    """What a block needs of its AblationManager."""

    model: nn.Module
    sites: SiteMap

    def _bind(self, specs: Sequence[Spec]) -> list[Bound]: ...

    def _compile(
        self, union: Sequence[Bound], first_tokens: FirstTokens, prompts: Prompts
    ) -> list[tuple[Tap, str, Edit]]: ...

    def _constants(self, union: Sequence[Bound], first_tokens: FirstTokens) -> dict[int, Edit]: ...


@dataclass(frozen=True, eq=False)
class Block:
    manager: Editor
    bound: tuple[Bound, ...]
    #: File and line where it was opened: where its warnings point.
    where: tuple[str, int]
    #: What `Applied._ran` was.
    ran: int

    def warn(self, message: str) -> None:
        warnings.warn_explicit(message, UserWarning, *self.where)


class Applied(ContextDecorator, AbstractContextManager[None]):
    """What `AblationManager.applied` gives: a block that may be entered again once it has ended."""

    def __init__(self, manager: Editor, specs: Sequence[Spec]) -> None:
        self._manager, self._specs = manager, specs
        self._entered: list[Block] = []

    def __enter__(self) -> None:
        opener = sys._getframe(1)
        while opener.f_back is not None and opener.f_code.co_filename == contextlib.__file__:
            opener = opener.f_back
        where = (opener.f_code.co_filename, opener.f_lineno)
        self._entered.append(_enter(self._manager, self._specs, where))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if not self._entered:
            raise SparkablateError("usage", "this applied() block is not open")
        _leave(self._entered.pop(), failed=kind is not None)


class _Pass(threading.local):
    """One thread's pass in hand: the edits that it must reach, those that it has, and whether it goes on."""

    def __init__(self) -> None:
        self.due: frozenset[str] = frozenset()
        self.reached: set[str] = set()


class OpenBlocks:
    """What is open on one model, and the hooks that make it so.

    A tap has one hook for as long as any edit acts there, so that it keeps its place among others' hooks.
    """

    def __init__(self, stack: nn.Module) -> None:
        self.blocks: list[Block] = []
        #: Passes of the model that began, and edits that acted.
        self.ran = 0
        self._stack = stack
        self._first_tokens = FirstTokens()
        self._prompts = Prompts()
        self._has_donors = False
        self._watching = ExitStack()
        self._watched: set[nn.Module] = set()
        self._edits: dict[tuple[int, str], list[tuple[str, Edit]]] = {}
        self._hooks: dict[tuple[int, str], tuple[Tap, Hook]] = {}
        self._skips: dict[int, Skip] = {}
        #: Label of each edit, and those that may act before the stack is called.
        self._due: frozenset[str] = frozenset()
        self._early: frozenset[str] = frozenset()
        self._pass = _Pass()
        self._filled = Filled(())
        self._pass_hooks = [
            Hook(stack, self._begins, before=True),
            Hook(stack, self._ends, with_kwargs=True),
        ]

    @property
    def specs(self) -> list[Spec]:
        return [bound.spec for block in self.blocks for bound in block.bound]

    def set(self, blocks: list[Block]) -> None:
        """Makes the union of these blocks act. Raises, and changes nothing, where it cannot be made."""
        union = list(blocks[0].bound) if len(blocks) == 1 else merged(blocks)
        compiled: list[tuple[Tap, str, Edit]] = []
        constants: dict[int, Edit] = {}
        if blocks:
            manager = blocks[-1].manager
            with torch.inference_mode(False):  # its tensors could not take part in a backward pass
                compiled = manager._compile(union, self._first_tokens, self._prompts)
                constants = manager._constants(union, self._first_tokens)
            self._check_modules(blocks[-1].manager, compiled, union)
        self.blocks = blocks
        self._watch(union)
        skips = skipped(union)
        self._skip(skips, constants)
        by_place: dict[tuple[int, str], list[tuple[Tap, str, Edit]]] = defaultdict(list)
        for tap, label, edit in compiled:
            by_place[id(tap.module), tap.side].append((tap, label, edit))
        for place in self._hooks.keys() - by_place.keys():
            self._hooks.pop(place)[1].remove()
            del self._edits[place]
        for place, here in by_place.items():
            self._edits[place] = [(label, edit) for _, label, edit in here]
            if place not in self._hooks:
                tap = here[0][0]
                self._hooks[place] = tap, on_tap(tap, partial(self._edited, place))
        embedding = {tap.path for block in blocks for tap in block.manager.sites.embedding}
        self._early = frozenset(label for tap, label, _ in compiled if tap.path in embedding)
        self._due = frozenset([*(label for _, label, _ in compiled), *map(spec_id, skips.values())])
        self._filled = Filled(union)
        self._has_donors = any(
            isinstance(one.spec, AblationSpec) and one.spec.mode in DONOR_MODES for one in union
        )

    def close(self) -> None:
        self.set([])
        for hook in self._pass_hooks:
            hook.remove()

    def fault(self) -> str | None:
        """Why an edit may not have acted, though the block was open: somebody changed the model under it."""
        root = self.blocks[-1].manager.model
        for tap, hook in self._hooks.values():
            if not hook.in_place:
                return f"the hook at {tap.path} was taken off while applied() was open"
            if fault := replaced(root, tap):
                return fault
        return None

    # ── The model's passes ───────────────────────────────────────────────────────────────────
    def _begins(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.ran += module is self._stack
        self._pass.reached &= self._early
        self._pass.due = self._due
        named = named_arguments(module, args, kwargs)
        if self._has_donors:
            self._prompts.begins(named, self._filled.tokens(named))
        if (warning := self._filled.foreign(named)) is not None:
            self.blocks[-1].warn(warning)

    def _ends(self, module: nn.Module, args: Any, kwargs: dict[str, Any], output: Any) -> None:
        missed = sorted((self._pass.due & self._due) - self._pass.reached)
        self._pass.due = frozenset()
        self._pass.reached = set()
        seen = self._prompts.ends() if self._has_donors else 0
        if missed:
            raise SparkablateError(
                "hook_failed", f"the model ran, but never passed the tensor that {missed[0]} edits"
            )
        self._filled.mark(named_arguments(module, args, kwargs), output, seen)

    def _edited(self, place: tuple[int, str], tensor: Tensor) -> Tensor:
        for label, edit in self._edits.get(place, ()):
            self._reach(label)
            tensor = edit(tensor)
        return tensor

    def _reach(self, label: str) -> None:
        self.ran += 1
        self._pass.reached.add(label)

    # ── Installing ───────────────────────────────────────────────────────────────────────────
    def _check_modules(
        self, manager: Editor, compiled: Sequence[tuple[Tap, str, Edit]], union: Sequence[Bound]
    ) -> None:
        taps = [tap for tap, _, _ in compiled if (id(tap.module), tap.side) not in self._hooks]
        taps += [manager.sites.layers[index].stream for index in skipped(union)]
        for tap in taps:
            if fault := replaced(manager.model, tap):
                raise SparkablateError("hook_failed", fault)

    def _watch(self, union: Sequence[Bound]) -> None:
        """First tokens, while an edit asks for them: of the outermost module that is called."""
        wanted: set[nn.Module] = set()
        if any(bound.spec.positions == "not_first" for bound in union):
            wanted = {self._stack, *(block.manager.model for block in self.blocks)}
        if wanted != self._watched:
            self._watching.close()
            self._watching.enter_context(self._first_tokens.watching(*wanted))
            self._watched = wanted

    def _skip(self, wanted: dict[int, AblationSpec], constants: dict[int, Edit]) -> None:
        layers = self.blocks[-1].manager.sites.layers if self.blocks else ()
        for index in self._skips.keys() - wanted.keys():
            self._skips.pop(index).remove()
        for index in wanted.keys() - self._skips.keys():
            reach = partial(self._reach, spec_id(wanted[index]))
            self._skips[index] = Skip(layers[index], reach)
        for index, skip in self._skips.items():
            skip.constant = constants.get(index)


#: By the module whose forward runs the layers.
_OPEN: WeakKeyDictionary[nn.Module, OpenBlocks] = WeakKeyDictionary()
_LOCK = threading.RLock()


def is_open(sites: SiteMap) -> bool:
    """Whether any manager edits this model."""
    return sites.stack in _OPEN


def is_edited(model: nn.Module) -> bool:
    """As `is_open`, of a model that was not located yet."""
    return any(module in _OPEN for module in model.modules())


def _enter(manager: Editor, specs: Sequence[Spec], where: tuple[str, int]) -> Block:
    sites = manager.sites
    validate(specs, sites)
    with _LOCK:
        found = _OPEN.get(sites.stack)
        if found is not None:
            check_overlaps([*found.specs, *specs], sites)
        # canonical, so that the order in which they are given changes no bit
        bound = manager._bind(canonical(specs))
        EAGER.enter()
        here = OpenBlocks(sites.stack) if found is None else found
        block = Block(manager, tuple(bound), where, here.ran)
        try:
            here.set([*here.blocks, block])
        except BaseException:
            if found is None:
                here.close()
            EAGER.leave()
            raise
        _OPEN[sites.stack] = here
        return block


def _leave(block: Block, failed: bool) -> None:
    stack = block.manager.sites.stack
    with _LOCK:
        here = _OPEN[stack]
        fault, idle = here.fault(), here.ran == block.ran
        rest = [other for other in here.blocks if other is not block]
        if rest:
            here.set(rest)
        else:
            here.close()
            del _OPEN[stack]
        stood = EAGER.leave()
    if failed:
        return
    if fault is not None:
        raise SparkablateError("hook_failed", fault)
    if not stood:
        block.warn(
            "torch.compiler.set_stance was called inside applied(): what was compiled may have run without "
            "the edits; leave the stance alone inside the block"
        )
    if idle:
        block.warn(
            f"no pass of this {type(block.manager.model).__name__} ran inside applied(): nothing was edited; "
            "call the model itself, since a copy of it (exported, traced, captured in a CUDA graph, in "
            "another process) does not see the edits"
        )


def merged(blocks: Sequence[Block]) -> list[Bound]:
    """In canonical order; heads of one layer, mode and positions that are given the same are one spec."""
    groups: dict[tuple[Any, ...], list[list[Bound]]] = defaultdict(list)
    for number, one in enumerate(bound for block in blocks for bound in block.bound):
        spec = one.spec
        key: tuple[Any, ...] = (number,)
        if isinstance(spec, AblationSpec) and spec.parts:
            key = (spec.kind, spec.layer, spec.mode, spec.positions)
        alike = groups[key]
        same = next((group for group in alike if _equal(group[0].given, one.given)), None)
        if same is None:
            alike.append([one])
        else:
            same.append(one)
    whole = [
        Bound(canonical([one.spec for one in group])[0], group[0].given)
        for alike in groups.values()
        for group in alike
    ]
    return sorted(whole, key=lambda one: canonical_order(one.spec))


def _equal(first: Tensor | None, second: Tensor | None) -> bool:
    return first is second or (first is not None and second is not None and torch.equal(first, second))


def replaced(root: nn.Module, tap: Tap) -> str | None:
    """What to say where the model has another module at the tap's path by now."""
    found = resolve(root, tap.path)
    if found is tap.module:
        return None
    return (
        f"{tap.path} is another module than when the AblationManager was made; make a new AblationManager "
        "for the model as it is now"
    )


def skipped(union: Iterable[Bound]) -> dict[int, AblationSpec]:
    """Layer → the spec that skips it."""
    specs = (bound.spec for bound in union)
    return {
        spec.layer: spec for spec in specs if isinstance(spec, AblationSpec) and site_row(spec.kind) is None
    }
