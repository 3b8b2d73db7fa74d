"""What is saved besides the weights: sparkablate_bake.json and the model card."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sparkablate.specs import AblationSpec, Spec, spec_id

CHUNK_BYTES = 8 << 20


def described(spec: Spec) -> dict[str, Any]:
    """An intervention as `intervention` of src/protocol/messages.ts."""
    if isinstance(spec, AblationSpec):
        parts = (
            {"heads": list(spec.heads)}
            if spec.heads
            else {"groups": list(spec.groups)}
            if spec.groups
            else {}
        )
        positions = {} if spec.kind == "layer" else {"positions": spec.positions}
        return {"kind": spec.kind, "layer": spec.layer, "mode": spec.mode, **parts, **positions}
    return {
        "kind": "direction",
        "op": spec.op,
        "at": spec.at,
        "layers": spec.layers if spec.layers == "all" else list(spec.layers),
        "coefficient": spec.coefficient,
        "positions": spec.positions,
        "sha256": spec.sha256,
    }


def file_digests(directory: Path) -> dict[str, str]:
    """sha256 of every file below the directory, by its relative name."""
    return {
        path.relative_to(directory).as_posix(): _digest(path)
        for path in sorted(directory.rglob("*"))
        if path.is_file()
    }


def _digest(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def model_card(
    record: dict[str, Any], specs: Sequence[Spec], compared: Mapping[str, Any] | None = None
) -> str:
    """README.md of the baked directory. `compared`: rows and paragraphs of the section "before and after"."""
    base, certificate = record["base_model"], record["certificate"]
    behaviour, edit = certificate["behaviour"], certificate["edit"]
    in_memory = "sha256" in base
    local = in_memory or Path(base["name"]).is_absolute() or base["name"].startswith("builtin:")
    made_of = (
        f"A model that was in memory (sha256 of its tensors: `{base['sha256']}`)"
        if in_memory
        else f"`{base['name']}`{_revision(base)}"
    )
    front = (
        "---\n" + ("" if local else f"base_model: {base['name']}\n") + "tags: [ablation, sparkablate]\n---\n"
    )
    floor = "" if behaviour["floor"] is None else f" (two equal live runs differ by {behaviour['floor']:.1e})"
    notes = [f"- {note}" for note in record["notes"]]
    gguf = record["gguf_command"]
    lines = [
        f"# {record['condition']}",
        "",
        f"{made_of}, with this ablation written into its weights:"
        if in_memory
        else f"{made_of} with this ablation written into its weights:",
        "",
        *(f"- `{spec_id(spec)}`" for spec in specs),
        "",
        "No custom code, and no parameters that its stock class does not know: stock transformers loads it."
        if record["biases"]
        else "No new parameters and no custom code: stock transformers loads it.",
        *(["", "**Note**", "", *notes] if notes else []),
        *_before_and_after(compared, record.get("timing")),
        "",
        "## Certificate",
        "",
        "Measured in a fresh process with stock transformers, against the live intervention on fixed text:",
        "",
        f"- edited tensors: {edit['edited']}, equal to the source's: {edit['equal']}",
        f"- largest logit difference over largest logit: {behaviour['logit_difference']:.2e}, "
        f"tolerance {behaviour['tolerance']:.1e}{floor}",
        f"- KL(live ‖ baked): {behaviour['kl']:.2e} nats, Δ NLL: {behaviour['delta_nll']:.2e} nats a token",
        f"- positions: {behaviour['positions']}, of which {behaviour['rerouted']} took other experts",
        "",
        "`sparkablate_bake.json` holds all figures and the sha256 of every file.",
        *(["", "## GGUF", "", "In this directory:", "", f"    {gguf}"] if gguf is not None else []),
        "",
        f"Made with sparkablate {record['versions']['sparkablate']}.",
    ]
    return front + "\n".join(lines) + "\n"


def _before_and_after(compared: Mapping[str, Any] | None, timing: Mapping[str, Any] | None) -> list[str]:
    """In Markdown, which the rows and paragraphs are already."""
    if compared is None:
        return []
    rows = [(row["what"], row["before"], row["after"]) for row in compared["rows"]]
    if timing is not None:
        rows.append(("tokens a second", f"{timing['before']:,.0f}", f"{timing['after']:,.0f}"))
    speed = (
        "Tokens a second were not measured: source and result do not fit into memory beside each other."
        if timing is None
        else f"Tokens a second: forward passes of stock transformers over {timing['batch_size']} × "
        f"{timing['seq_len']} tokens without a cache, by turns, the middle one of {timing['rounds']}, both "
        f"in {timing['dtype']} on {timing['device']}, CPU threads: {timing['threads']}. Other batches and "
        "machines give other figures."
    )
    return [
        "",
        "## Before and after",
        "",
        "| | before | after |",
        "| :-- | --: | --: |",
        *(f"| {what} | {before} | {after} |" for what, before, after in rows),
        "",
        *[line for paragraph in [*compared["paragraphs"], speed] for line in (paragraph, "")][:-1],
    ]


def _revision(base: dict[str, Any]) -> str:
    return "" if base["revision"] is None else f" at `{base['revision']}`"
