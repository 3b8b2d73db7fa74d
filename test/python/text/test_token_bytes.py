"""Tokens as bytes: joined, they are the text that the tokenizer itself would give back."""

from __future__ import annotations

import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from sparkablate.errors import SparkablateError
from sparkablate.text.token_bytes import token_bytes

TEXT = "It cost 5 €, naïve 漢字 \U0001f600\n\tend\x00\u2581"
BYTE_PIECES = [f"<0x{byte:02X}>" for byte in range(256)]


def byte_level(*merges: tuple[str, str]) -> PreTrainedTokenizerFast:
    pieces = [
        "<s>",
        *sorted(pre_tokenizers.ByteLevel.alphabet()),
        *(a + b for a, b in merges),
    ]
    inner = Tokenizer(
        models.BPE(
            vocab={piece: index for index, piece in enumerate(pieces)},
            merges=list(merges),
        )
    )
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=inner, bos_token="<s>")


def sentencepiece_like(decoder: decoders.Decoder) -> PreTrainedTokenizerFast:
    """As LLaMA's: spaces as ▁, single bytes for what the vocabulary does not hold."""
    pieces = ["<unk>", *BYTE_PIECES, *"▁Itcos", "▁c", "▁co"]
    inner = Tokenizer(
        models.BPE(
            vocab={piece: index for index, piece in enumerate(pieces)},
            merges=[("▁", "c"), ("▁c", "o")],
            unk_token="<unk>",
            byte_fallback=True,
        )
    )
    inner.normalizer = normalizers.Replace(" ", "▁")
    inner.decoder = decoder
    return PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="<unk>")


LLAMA = decoders.Sequence(
    [
        decoders.Replace("▁", " "),
        decoders.ByteFallback(),
        decoders.Fuse(),
        decoders.Strip(" ", 1, 0),
    ]
)
GEMMA = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])


def ids_of(tokenizer: PreTrainedTokenizerFast, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def test_byte_level_tokens_join_to_the_text_whatever_they_split() -> None:
    tokenizer = byte_level(("Ġ", "c"), ("Ã", "¯"))
    ids = ids_of(tokenizer, TEXT)
    found = token_bytes(tokenizer, ids)
    assert b"".join(found) == TEXT.encode()
    assert b" c" in found
    assert "ï".encode() in found
    assert b"\xe2" in found  # a third of the euro sign


@pytest.mark.parametrize("decoder", [LLAMA, GEMMA])
def test_sentencepiece_tokens_keep_their_space_and_their_bytes(
    decoder: decoders.Decoder,
) -> None:
    tokenizer = sentencepiece_like(decoder)
    text = "It cost 5 €"
    found = token_bytes(tokenizer, ids_of(tokenizer, text))
    assert b"".join(found) == text.encode()
    assert found[2] == b" co"
    assert found[-3:] == [b"\xe2", b"\x82", b"\xac"]


def test_added_tokens_are_their_own_text_also_where_they_look_like_bytes() -> None:
    tokenizer = byte_level()
    tokenizer.add_tokens(["<0x41>", "Ġé"])
    ids = ids_of(tokenizer, "a<0x41>bĠé")
    assert token_bytes(tokenizer, [0, *ids]) == [
        b"<s>",
        b"a",
        b"<0x41>",
        b"b",
        "Ġé".encode(),
    ]


def test_other_tokenizers_decode_token_by_token_and_padding_has_a_name() -> None:
    words = {"[UNK]": 0, "some": 1, "words": 2}
    inner = Tokenizer(models.WordLevel(vocab=words, unk_token="[UNK]"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="[UNK]")
    assert token_bytes(tokenizer, [1, 2, 0]) == [b"some", b"words", b"[UNK]"]
    assert token_bytes(tokenizer, [7]) == [b"<token 7>"]


def test_without_a_tokenizer_it_says_so() -> None:
    with pytest.raises(SparkablateError, match="hold no tokenizer"):
        token_bytes(None, [1])
