"""Tiny model directories as users have them: config, safetensors, a real byte-level tokenizer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

import tiny_models

#: Every byte is a token, and <s> and </s> besides: any text can be tokenised, and nothing has to be trained.
ALPHABET = sorted(pre_tokenizers.ByteLevel.alphabet())
VOCABULARY = {"<s>": 0, "</s>": 1, **{character: index + 2 for index, character in enumerate(ALPHABET)}}


def save(
    directory: Path, name: str = "llama", *, adds_bos: bool = False, adds_eos: bool = False, seed: int = 0
) -> Path:
    """Writes the tiny model ``name`` with a vocabulary of 258 tokens, and returns its directory."""
    tiny = tiny_models.TINY[name]
    config = {**tiny.config, "vocab_size": len(VOCABULARY)}
    model = tiny_models.make(tiny_models.Tiny(tiny.model_type, config, tiny.text_type), seed=seed)
    model.save_pretrained(directory)
    tokenizer = Tokenizer(models.BPE(vocab=VOCABULARY, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    if adds_bos or adds_eos:
        form = ["<s>"] * adds_bos + ["$A"] + ["</s>"] * adds_eos
        tokenizer.post_processor = processors.TemplateProcessing(form, None, [("<s>", 0), ("</s>", 1)])
    wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>")
    wrapped.save_pretrained(directory)
    return directory


def model_config(directory: Path, **changes: Any) -> dict[str, Any]:
    """What a `load` says of the model in ``directory``."""
    return {
        "name": str(directory),
        "revision": None,
        "dtype": "float32",
        "device": "cpu",
        "device_map": None,
        "attn_implementation": None,
        "threads": 1,
        "trust_remote_code": False,
        **changes,
    }
