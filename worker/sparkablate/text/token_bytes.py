"""Which bytes a token stands for. Not every token is whole characters, so there may be no text of its own."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from tokenizers import pre_tokenizers

from sparkablate.errors import SparkablateError

#: How sentencepiece writes a space.
SPACE = "\u2581"

#: How tokenizers with byte fallback write one byte.
BYTE_PIECE = re.compile(r"<0x([0-9A-F]{2})>")


def token_bytes(tokenizer: Any, ids: Sequence[int]) -> list[bytes]:
    """Each token's bytes, with the space that begins a word.

    Pieces of the vocabulary are read as the tokenizer's own decoder joins them (bytes written as characters,
    sentencepiece's spaces and single bytes); a decoder of another kind decodes each token alone.

    Raises ``load_failed`` where there is no tokenizer.
    """
    if tokenizer is None:
        raise SparkablateError("load_failed", "the model's files hold no tokenizer to show tokens with")
    backend = getattr(tokenizer, "backend_tokenizer", None)
    decoder = None if backend is None else json.loads(backend.to_str())["decoder"]
    kinds = set() if decoder is None else set(_kinds(decoder))
    added = tokenizer.added_tokens_decoder
    pieces = tokenizer.convert_ids_to_tokens(list(ids))
    characters = _byte_characters() if "ByteLevel" in kinds else {}
    found = []
    for token, piece in zip(ids, pieces, strict=True):
        if token in added:
            found.append(str(added[token]).encode())
        elif piece is None:
            found.append(f"<token {token}>".encode())
        elif characters and all(character in characters for character in piece):
            found.append(bytes(characters[character] for character in piece))
        elif "ByteFallback" in kinds and (byte := BYTE_PIECE.fullmatch(piece)):
            found.append(bytes.fromhex(byte[1]))
        elif kinds & {"ByteFallback", "Metaspace"}:
            found.append(piece.replace(SPACE, " ").encode())
        else:
            found.append(tokenizer.decode([token], clean_up_tokenization_spaces=False).encode())
    return found


def _kinds(decoder: dict[str, Any]) -> Iterator[str]:
    yield decoder["type"]
    for part in decoder.get("decoders", []):
        yield from _kinds(part)


def _byte_characters() -> dict[str, int]:
    """Character → byte of a byte-level vocabulary: a printable one is itself, the others follow in order."""
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    own = {character: ord(character) for character in alphabet if ord(character) < 256}
    others: Iterable[str] = sorted(character for character in alphabet if character not in own)
    return {**own, **dict(zip(others, sorted(set(range(256)) - set(own.values())), strict=True))}
