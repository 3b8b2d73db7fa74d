"""Table: where other readers of a checkpoint are known to read a baked model wrongly, by model type."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass

GGUF_COMMAND = "python convert_hf_to_gguf.py {directory} --outfile {file} --outtype f32"


@dataclass(frozen=True)
class Reader:
    """What is known of one model type. A text is a warning; empty: nothing is known against it."""

    #: A head that was tied in the source and is a tensor of its own now.
    untied_head: str = ""
    #: Fewer layers than the pattern of attention types was made for.
    pruned: str = ""
    #: Other readers that were run on a checkpoint whose configuration switches biases on, e.g. "vLLM 0.32.0".
    biases: tuple[str, ...] = ()
    #: Whether llama.cpp's converter knows the architecture at all.
    llama_cpp: bool = True


_PATTERN = (
    "llama.cpp derives which layers have which attention from the layer's number, "
    "which is no longer the source's"
)

#: From llama.cpp's converter (gemma.py, qwen.py), its loaders and vLLM's pull requests. Rows whose directions
#: do not bake never have an untied head.
READERS: Mapping[str, Reader] = {
    "gemma": Reader(untied_head="llama.cpp drops lm_head.weight and takes the edited embedding for the head"),
    "gemma2": Reader(pruned=_PATTERN),
    "gemma3_text": Reader(pruned=_PATTERN),
    "gpt2": Reader(
        untied_head="vLLM before 0.32 may take the embedding for the head (its pull request 51665); "
        "0.32.0 reads it rightly"
    ),
    "cohere2": Reader(
        untied_head="vLLM and llama.cpp take the embedding for the head, whatever the checkpoint says",
        pruned=_PATTERN,
    ),
    "gpt_oss": Reader(pruned=_PATTERN),
    "smollm3": Reader(pruned="llama.cpp leaves out rotary positions in every fourth layer, by its number"),
    "qwen3_next": Reader(pruned=_PATTERN),
    "opt": Reader(llama_cpp=False),
    **dict.fromkeys(
        (
            "cohere2_moe",
            "exaone4",
            "exaone_moe",
            "llama4_text",
            "olmo3",
            "qwen3_5_moe_text",
            "qwen3_5_text",
        ),
        Reader(pruned=_PATTERN),
    ),
}
#: Programs with code of their own for each architecture.
OTHERS = ("vLLM", "TGI", "llama.cpp")
#: For model types without a row.
UNKNOWN = Reader()


def warnings_for(model_type: str, untied: bool, pruned: bool, biases: bool) -> list[str]:
    """What a person has to know before another program reads the result."""
    reader = READERS.get(model_type, UNKNOWN)
    found = []
    if untied and reader.untied_head:
        found.append(f"untied head: {reader.untied_head}")
    if pruned and reader.pruned:
        found.append(f"pruned layers: {reader.pruned}")
    if biases:
        unchecked = [name for name in OTHERS if not any(name in one for one in reader.biases)]
        checked = f"; checked: {', '.join(reader.biases)}" if reader.biases else ""
        if unchecked:
            found.append(f"biases: {', '.join(unchecked)} not checked on checkpoints like this one{checked}")
    return found


def converts(model_type: str, warnings: list[str]) -> bool:
    """False where the conversion for llama.cpp is known not to give the same model."""
    concerned = any("llama.cpp" in warning for warning in warnings)
    return not concerned and READERS.get(model_type, UNKNOWN).llama_cpp


def gguf_command(directory: str) -> str:
    """The conversion command for a directory, as somebody types it."""
    return GGUF_COMMAND.format(directory=shlex.quote(directory), file=shlex.quote(f"{directory}/model.gguf"))
