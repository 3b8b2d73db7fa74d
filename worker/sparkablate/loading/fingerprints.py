"""sha256 of what a model directory holds, cached by (path, device, inode, size, mtime, ctime)."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from sparkablate.errors import SparkablateError
from sparkablate.loading.home import home
from sparkablate.progress import Progress

CHUNK_BYTES = 8 << 20

#: Until a file is older than this a second write may leave no trace: it can fall on the same tick of the
#: file system's clock. Kernels tick every 1 to 10 ms; some file systems keep whole seconds, FAT even ones.
FINE_TICK_NS = 50_000_000
COARSE_TICK_NS = 2_000_000_000

#: What 0.1.0 took for the tokenizer: still compared with what it stored. model_files.py knows all of them.
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
    """What 0.1.0 took for the model: the configuration, the weights (safetensors, else .bin), model code."""
    weights = sorted(directory.glob("*.safetensors")) or sorted(directory.glob("*.bin"))
    return (
        [path for path in (directory / "config.json",) if path.is_file()]
        + weights
        + sorted(directory.glob("*.py"))
    )


def tokenizer_files(directory: Path) -> list[Path]:
    return [path for name in TOKENIZER_FILES if (path := directory / name).is_file()]


class Stamp(NamedTuple):
    """What changes when a file does. Times in ns. Anybody can set mtime; ctime is the kernel's."""

    device: int
    inode: int
    size: int
    mtime: int
    ctime: int

    @classmethod
    def of(cls, path: Path | int) -> Stamp:
        """Of the file that a link leads to."""
        status = os.stat(path)
        return cls(status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)

    def young_for(self) -> int:
        """For how many ns from now a write may still leave this stamp as it is."""
        tick = COARSE_TICK_NS if self.ctime % 1_000_000_000 == 0 else FINE_TICK_NS
        return min(tick, max(0, self.ctime + tick - time.time_ns()))


def digest_files(files: list[Path], progress: Progress) -> str:
    """One sha256 over the files' names and contents, independent of the directory they are in."""
    digests = digest_each(files, progress)
    return combined((path.name, digests[path]) for path in files)


def combined(entries: Iterable[tuple[str, str]]) -> str:
    """One sha256 of names and digests, in any order."""
    return hashlib.sha256(json.dumps(sorted(entries)).encode()).hexdigest()


def digest_each(files: Iterable[Path], progress: Progress) -> dict[Path, str]:
    """The sha256 of each file. Raises ``load_failed`` for one that does not hold still."""
    files = list(dict.fromkeys(files))
    cache_path = home() / "fingerprints.json"
    cache = _read_cache(cache_path)
    total = float(sum(path.stat().st_size for path in files))
    done = 0.0
    digests: dict[Path, str] = {}
    changed = False
    for path in files:
        stamp = Stamp.of(path)
        known = cache.get(_key(path, stamp))
        if known is None:
            # Looked at before the file is read: what is written later has another stamp.
            lasts = stamp.young_for() == 0
            known = _digest(path, done, total, progress)
            if lasts:
                _remember(cache, path, stamp, known)
                changed = True
        digests[path] = known
        done += stamp.size
        progress("fingerprint", done, total, "bytes")
    if changed:
        _write_cache(cache_path, cache)
    return digests


def _key(path: Path, stamp: Stamp) -> str:
    return "|".join(map(str, (path.resolve(), *stamp)))


def _remember(cache: dict[str, str], path: Path, stamp: Stamp, digest: str) -> None:
    """Of a path only the newest state is worth its place."""
    before = f"{path.resolve()}|"
    for key in [key for key in cache if key.startswith(before)]:
        del cache[key]
    cache[_key(path, stamp)] = digest


def _digest(path: Path, before: float, total: float, progress: Progress) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        stamp = Stamp.of(stream.fileno())
        while chunk := stream.read(CHUNK_BYTES):
            digest.update(chunk)
            progress("fingerprint", before + stream.tell(), total, "bytes")
        if Stamp.of(stream.fileno()) != stamp:
            raise SparkablateError(
                "load_failed", f"{path} was written to while it was read: try again when it is complete"
            )
    return digest.hexdigest()


def _read_cache(path: Path) -> dict[str, str]:
    """A cache that is missing, torn or somebody else's is an empty one: the digests are made again."""
    try:
        cache = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
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
