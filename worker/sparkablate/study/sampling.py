"""Token ids → the blocks that are measured: src/samples/blocks.ts and items.ts, drawn alike, so that the same
text, sizes and seed give the same blocks in both languages (test/contract/sampling.json)."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from sparkablate.errors import SparkablateError
from sparkablate.measure.items import EncodedItem

#: Longest text that is used, in tokens.
MAX_TEXT_TOKENS = 4_000_000
#: Width of the windows of evaluation text that calibration text is searched for.
SHARED_RUN_TOKENS = 32


@dataclass(frozen=True)
class Block:
    """``index``: of the block in the text, of the item in the task; ``ids``: int32 [pos]."""

    index: int
    ids: np.ndarray
    sha256: str
    #: Of an item: what `Answers.from_wire` takes.
    answer: dict[str, Any] | None = None


@dataclass
class Chosen:
    """``donors``: of mode resample, for each evaluation block another that no other one has."""

    evaluation: list[Block]
    calibration: list[Block] = field(default_factory=list)
    donors: list[Block] = field(default_factory=list)
    notices: list[str] = field(default_factory=list)
    seq_len: int = 0


@dataclass(frozen=True)
class Shape:
    """``bos``: the token that stands in front of every block, and counts in ``seq_len``."""

    seq_len: int
    bos: int | None

    @property
    def width(self) -> int:
        """Tokens of the text in one block."""
        return self.seq_len - (self.bos is not None)


@dataclass(frozen=True)
class Text:
    name: str
    ids: np.ndarray
    notices: Sequence[str] = ()


@dataclass(frozen=True)
class Wanted:
    """Blocks or items; ``evaluation`` None: all there are."""

    evaluation: int | None
    calibration: int
    batch_size: int
    seed: int
    resample: bool


def shuffled(total: int, seed: int) -> list[int]:
    """0 … total − 1 in the seed's order (Fisher and Yates)."""
    order = list(range(total))
    words = _words(seed)
    for place in range(total - 1):
        other = place + _below(total - place, words)
        order[place], order[other] = order[other], order[place]
    return order


def _words(seed: int) -> Iterator[int]:
    """Uniform 32-bit words: sha256 of "sparkablate blocks <seed> <counter>", eight big-endian words each."""
    counter = 0
    while True:
        digest = hashlib.sha256(f"sparkablate blocks {seed} {counter}".encode()).digest()
        yield from (int.from_bytes(digest[at : at + 4], "big") for at in range(0, len(digest), 4))
        counter += 1


def _below(bound: int, words: Iterator[int]) -> int:
    """Words of the last, incomplete multiple of ``bound`` are thrown away."""
    while True:
        word = next(words)
        if word < 2**32 - 2**32 % bound:
            return word % bound


def whole_batches(most: int, batch_size: int) -> int:
    """Whole batches, since another batch shape gives other bits; less than one where there is no more."""
    return most - (most % batch_size if most > batch_size else 0)


def block_at(ids: np.ndarray, index: int, shape: Shape) -> Block:
    block = np.zeros(shape.seq_len, dtype="<i4")
    if shape.bos is not None:
        block[0] = shape.bos
    block[shape.seq_len - shape.width :] = ids[index * shape.width : (index + 1) * shape.width]
    return Block(index, block, sha256(block))


def sha256(ids: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(ids, dtype="<i4").tobytes()).hexdigest()


# ── Texts ────────────────────────────────────────────────────────────────────────────────────────
def choose_blocks(text: Text, calibration: Text | None, shape: Shape, wanted: Wanted) -> Chosen:
    """``calibration`` None: blocks of the text that evaluation does not use. Raises ``text_too_short``."""
    notices: list[str] = []
    ids, blocks = _usable(text, shape, notices)
    own = calibration is None or np.array_equal(calibration.ids, text.ids)
    most = blocks if wanted.evaluation is None else wanted.evaluation
    for_donors = most if wanted.resample else 0
    reserved = _reserve(text.name, blocks, most, max(wanted.calibration, for_donors)) if own else 0
    order = shuffled(blocks, wanted.seed)
    taken = order[: whole_batches(min(most, blocks - reserved), wanted.batch_size)]
    if len(taken) < most:
        notices.append(_fewer("evaluation", most, len(taken), text.name, blocks))
    evaluation = [block_at(ids, index, shape) for index in taken]
    found = Chosen(evaluation, notices=notices, seq_len=shape.seq_len)
    if wanted.calibration == 0 and not wanted.resample:
        return found
    source = text if own or calibration is None else calibration
    source_ids, source_blocks = (ids, blocks) if own else _usable(source, shape, notices)
    rest = shuffled(source_blocks, wanted.seed)[len(taken) if own else 0 :]
    usable = Text(source.name, source_ids)
    if wanted.calibration > 0:
        found.calibration = disjoint(usable, rest, wanted.calibration, evaluation, shape, notices)
        if len(found.calibration) < wanted.calibration:
            notices.append(
                _fewer("calibration", wanted.calibration, len(found.calibration), source.name, source_blocks)
            )
    if wanted.resample:
        drawn = disjoint(usable, rest, len(evaluation), evaluation, shape, notices, "source")
        paired = whole_batches(len(drawn), wanted.batch_size)
        if paired < len(evaluation):
            notices.append(
                f"mode resample needs a donor block for every evaluation block: {source.name} has "
                f"{len(drawn)} for {len(evaluation)}, so {paired} are evaluated"
            )
        found.evaluation, found.donors = evaluation[:paired], drawn[:paired]
    return found


def _usable(text: Text, shape: Shape, notices: list[str]) -> tuple[np.ndarray, int]:
    """The text within the cap, and how many blocks it holds."""
    notices += text.notices
    if len(text.ids) > MAX_TEXT_TOKENS:
        notices.append(f"{text.name}: the first {MAX_TEXT_TOKENS} of {len(text.ids)} tokens are used")
    ids = text.ids[:MAX_TEXT_TOKENS]
    blocks, dropped = divmod(len(ids), shape.width)
    if blocks == 0:
        bos = "" if shape.bos is None else " after its BOS token"
        raise SparkablateError(
            "text_too_short",
            f"{text.name}: the text has {len(ids)} tokens, and a block of seq_len {shape.seq_len} takes "
            f"{shape.width}{bos}; give a longer text, or a smaller seq_len",
        )
    if dropped:
        notices.append(
            f"{text.name}: {blocks} blocks; the last {dropped} tokens fill no block and are dropped"
        )
    return ids, blocks


def _reserve(name: str, blocks: int, wanted: int, besides: int) -> int:
    """Blocks that evaluation must leave; in proportion where the text is too short for both."""
    if besides == 0 or wanted + besides <= blocks:
        return besides
    if blocks < 2:
        raise SparkablateError(
            "text_too_short",
            f"{name}: the text holds one block; evaluation and calibration need one each: give a longer "
            "text, a calibration text, or a smaller seq_len",
        )
    return min(blocks - 1, max(1, blocks * besides // (wanted + besides)))


def _fewer(what: str, wanted: int, found: int, name: str, blocks: int) -> str:
    return f"{what} uses {found} of the {wanted} blocks asked for: {name} holds {blocks}"


def disjoint(
    source: Text,
    order: Sequence[int],
    wanted: int,
    evaluation: Sequence[Block],
    shape: Shape,
    notices: list[str],
    what: str = "calibration",
) -> list[Block]:
    """The first ``wanted`` blocks of ``order`` that share no run of tokens with the evaluation blocks."""
    offset = shape.seq_len - shape.width
    width = min(SHARED_RUN_TOKENS, shape.width)
    seen = {
        block.ids[at : at + width].tobytes()
        for block in evaluation
        for at in range(offset, len(block.ids) - width + 1, width)
    }
    found: list[Block] = []
    left = 0
    for index in order:
        if len(found) == wanted:
            break
        block = block_at(source.ids, index, shape)
        windows = range(offset, len(block.ids) - width + 1)
        if any(block.ids[at : at + width].tobytes() in seen for at in windows):
            left += 1
        else:
            found.append(block)
    if left:
        notices.append(f"{source.name}: {left} {what} blocks repeat evaluation text and are left out")
    if not found:
        raise SparkablateError(
            "text_too_short",
            f"{source.name}: no {what} block is left that does not repeat evaluation text: give another "
            "calibration text, or fewer blocks",
        )
    return found


# ── Tasks ────────────────────────────────────────────────────────────────────────────────────────
def choose_items(name: str, encoded: Sequence[EncodedItem], bos: int | None, wanted: Wanted) -> Chosen:
    """Evaluation rows of one length, and calibration rows out of the other items."""
    total = len(encoded)
    rows = [_row(item, bos) for item in encoded]
    most = total if wanted.evaluation is None else wanted.evaluation
    reserved = _reserve_items(name, total, most, wanted.calibration)
    order = shuffled(total, wanted.seed)
    taken = order[: whole_batches(min(most, total - reserved), wanted.batch_size)]
    notices = [] if len(taken) == most else [_fewer_items(name, "evaluation", most, len(taken), total)]
    calibration = order[len(taken) :][: wanted.calibration]
    if len(calibration) < wanted.calibration:
        notices.append(_fewer_items(name, "calibration", wanted.calibration, len(calibration), total))
    seq_len = max(len(ids) for ids, _ in rows)
    return Chosen(
        [_padded(index, *rows[index], seq_len) for index in taken],
        [Block(index, rows[index][0], sha256(rows[index][0])) for index in calibration],
        notices=notices,
        seq_len=seq_len,
    )


def _row(item: EncodedItem, bos: int | None) -> tuple[np.ndarray, dict[str, Any]]:
    shift = 0 if bos is None else 1
    ids = np.array([*([] if bos is None else [bos]), *item.ids], dtype="<i4")
    wrong = None if item.at < 0 else {"at": item.at + shift, "token": item.wrong}
    return ids, {"begin": item.begin + shift, "end": len(ids), "wrong": wrong}


def _padded(index: int, ids: np.ndarray, answer: dict[str, Any], seq_len: int) -> Block:
    """The item, padded on the right with its own last token; its digest is of what is measured."""
    padded = np.full(seq_len, ids[-1], dtype="<i4")
    padded[: len(ids)] = ids
    wrong = answer["wrong"] or {"at": -1, "token": -1}
    numbers = np.array([answer["begin"], answer["end"], wrong["at"], wrong["token"]], dtype="<i4")
    digest = hashlib.sha256(ids.tobytes() + numbers.tobytes()).hexdigest()
    return Block(index, padded, digest, answer)


def _reserve_items(name: str, total: int, wanted: int, besides: int) -> int:
    if besides == 0 or wanted + besides <= total:
        return besides
    if total < 2:
        raise SparkablateError(
            "text_too_short", f"{name}: mode mean needs items that evaluation does not use, and there is one"
        )
    return min(total - 1, max(1, total * besides // (wanted + besides)))


def _fewer_items(name: str, what: str, wanted: int, found: int, total: int) -> str:
    return f"{what} uses {found} of the {wanted} items asked for: {name} holds {total}, and batches are whole"
