"""sha256 of what a model directory holds, cached by (path, size, mtime, inode)."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
from pathlib import Path

from sparkablate.home import home
from sparkablate.progress import Progress

CHUNK_BYTES = 8 << 20

#: Files that decide which ids a text becomes.
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
)


def weight_files(directory: Path) -> list[Path]:
    """What decides the logits: the configuration, the weights (safetensors, else .bin), model code."""
    weights = sorted(directory.glob("*.safetensors")) or sorted(directory.glob("*.bin"))
    return (
        [path for path in (directory / "config.json",) if path.is_file()]
        + weights
        + sorted(directory.glob("*.py"))
    )


def tokenizer_files(directory: Path) -> list[Path]:
    return [path for name in TOKENIZER_FILES if (path := directory / name).is_file()]


def digest_files(files: list[Path], progress: Progress) -> str:
    """One sha256 over the files' names and contents, independent of the directory they are in."""
    cache_path = home() / "fingerprints.json"
    cache = _read_cache(cache_path)
    total = float(sum(path.stat().st_size for path in files))
    done = 0.0
    entries: list[tuple[str, str]] = []
    changed = False
    for path in files:
        key = _key(path)
        if key not in cache:
            cache[key] = _digest(path, done, total, progress)
            changed = True
        done += path.stat().st_size
        progress("fingerprint", done, total, "bytes")
        entries.append((path.name, cache[key]))
    if changed:
        _write_cache(cache_path, cache)
    return hashlib.sha256(json.dumps(sorted(entries)).encode()).hexdigest()


def _key(path: Path) -> str:
    status = path.stat()
    return f"{path.resolve()}|{status.st_size}|{status.st_mtime_ns}|{status.st_ino}"


def _digest(path: Path, before: float, total: float, progress: Progress) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(CHUNK_BYTES):
            digest.update(chunk)
            progress("fingerprint", before + stream.tell(), total, "bytes")
    return digest.hexdigest()


def _read_cache(path: Path) -> dict[str, str]:
    """A cache that is missing, torn or somebody else's is an empty one: the digests are made again."""
    try:
        cache = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError):
        return {}
    return cache if isinstance(cache, dict) else {}


def _write_cache(path: Path, cache: dict[str, str]) -> None:
    """Where it cannot be written (a home that another user made, a full disk) the next load reads the files
    again."""
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.name)
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as stream:
                json.dump(cache, stream)
            Path(temporary).replace(path)
        finally:
            Path(temporary).unlink(missing_ok=True)
