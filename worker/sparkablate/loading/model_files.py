"""Every file that decides a loaded model, and whether it still holds what was loaded.

Weights are mapped, not copied: who writes into a file changes the model that is being measured. The kernel
sets a file's ctime before it changes a byte, so a measurement whose files have the stamps of the load when it
is done was made with the weights of the load. What leaves no stamp (a mapping that was written to before) is
left to the look at the baseline (``engines/local.py``).
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sparkablate.errors import SparkablateError
from sparkablate.loading.checkpoint_files import WEIGHTS
from sparkablate.loading.fingerprints import Stamp, combined, digest_each, tokenizer_files, weight_files
from sparkablate.progress import Progress, silent

#: Names in a model's directory that decide what it computes, what a text becomes and how it is continued;
#: the weights besides. A test holds them against the names that transformers' tokenizers know.
PATTERNS = (
    "config.json",
    "generation_config.json",
    "adapter_config.json",
    "*.py",
    "*token*",
    "*vocab*",
    "*merges*",
    "tekken.json",
    "emoji.json",
    "byte_maps.json",
    "word_*.json",
    "normalizer.json",
    "dict.txt",
    "*.model",
    "*.model.v*",
    "*.tiktoken",
    "*.spm",
    "*.bpe",
    "*.codes",
    "*chat_template*",
    "*.jinja",
    "*/*.jinja",
)


@dataclass(frozen=True)
class Listed:
    path: Path
    #: Mapped while the model is in memory, or fetched at every pass.
    weights: bool


def list_files(directory: Path, named: Iterable[str] = ()) -> dict[str, Listed]:
    """Name → file. The name is relative to the directory, or as an index or the tokenizer gives it.

    ``named``: further names of tokenizer files (``names_of``).
    """
    found: dict[str, Listed] = {}

    def add(name: str, weights: bool) -> None:
        name = Path(os.path.normpath(name)).as_posix()
        path = directory / name
        if path.is_file():
            found.setdefault(name, Listed(path, weights))

    for name in _weight_names(directory):
        add(name, weights=True)
    for path in weight_files(directory):
        add(path.name, weights=path.suffix in (".safetensors", ".bin"))
    for pattern in PATTERNS:
        for path in sorted(directory.glob(pattern)):
            name = path.relative_to(directory).as_posix()
            if not name.startswith("."):
                add(name, weights=False)
    for name in (*_files_of_tokenizer_config(directory), *named):
        add(name, weights=False)
    return found


def names_of(tokenizer: Any) -> tuple[str, ...]:
    """Names of the files that a tokenizer's class reads, also one that came with the model."""
    names = getattr(type(tokenizer), "vocab_files_names", None)
    return tuple(name for name in names.values() if isinstance(name, str)) if isinstance(names, dict) else ()


def _weight_names(directory: Path) -> Iterator[str]:
    """Each index of the format that transformers reads here, and the files that it names."""
    config = _json(directory / "config.json")
    explicit = config.get("transformers_weights")
    if isinstance(explicit, str):
        yield explicit
        yield from _named_by_index(directory / explicit)
    chosen = next((name for name, _ in WEIGHTS if (directory / name).is_file()), None)
    if chosen is None:
        return
    yield chosen
    suffix = ".safetensors.index.json" if ".safetensors" in chosen else ".bin.index.json"
    for index in sorted(directory.glob(f"*{suffix}")):
        yield index.name
        yield from _named_by_index(index)


def _named_by_index(index: Path) -> list[str]:
    files = _json(index).get("weight_map")
    values = files.values() if isinstance(files, dict) else ()
    return sorted({name for name in values if isinstance(name, str)})


def _files_of_tokenizer_config(directory: Path) -> list[str]:
    config = _json(directory / "tokenizer_config.json")
    return [value for key, value in config.items() if key.endswith("_file") and isinstance(value, str)]


def _json(path: Path) -> dict[str, Any]:
    """Empty for what is no JSON object: whether that matters is the loader's to say."""
    try:
        content = json.loads(path.read_bytes()) if path.suffix == ".json" else None
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def here(source: str, revision: str | None) -> Path | None:
    """Where the files of a model lie before it is loaded; None for those yet to be fetched."""
    if Path(source).is_dir():
        return Path(source)
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(source, "config.json", revision=revision)
    return Path(found).parent if isinstance(found, str) else None


def settled(directory: Path | None) -> dict[Path, Stamp]:
    """The files' stamps, once they are old enough for every later write to give others: after 50 ms, where
    the file system keeps whole seconds after 2 s."""
    if directory is None:
        return {}
    return {file.path: _settled(file.path) for file in list_files(directory).values()}


def _settled(path: Path) -> Stamp:
    time.sleep(Stamp.of(path).young_for() / 1e9)
    return Stamp.of(path)


@dataclass
class _Held:
    """A file as it was loaded. ``how``: mode, links and owner, whose change changes the ctime too."""

    path: Path
    weights: bool
    sha256: str
    stamp: Stamp
    how: tuple[int, ...]


class ModelFiles:
    """The files of a loaded model as they were when it was loaded."""

    def __init__(
        self, directory: Path, tokenizer: Any, before: dict[Path, Stamp], progress: Progress
    ) -> None:
        """``before``: what ``settled`` gave before the model was read. Raises ``load_failed`` where a file
        changed meanwhile."""
        self.directory = directory
        self._named = names_of(tokenizer)
        listed = list_files(directory, self._named)
        stamps = {file.path: Stamp.of(file.path) for file in listed.values()}
        digests = digest_each(stamps, progress)
        self._held: dict[str, _Held] = {}
        for name, file in listed.items():
            path = file.path
            if before.get(path, stamps[path]) != stamps[path] or Stamp.of(path) != stamps[path]:
                raise SparkablateError(
                    "load_failed",
                    f"{path} was written to while the model was loaded: try again when it is complete",
                )
            self._held[name] = _Held(path, file.weights, digests[path], stamps[path], _how(path))
        self._weights = [held for held in self._held.values() if held.weights]
        self._digests = digests

    @property
    def weights_sha256(self) -> str:
        """In 0.1.0's way, which runs have stored."""
        return combined((path.name, self._digests[path]) for path in weight_files(self.directory))

    @property
    def tokenizer_sha256(self) -> str:
        """In 0.1.0's way, which runs have stored."""
        return combined((path.name, self._digests[path]) for path in tokenizer_files(self.directory))

    def to_wire(self) -> dict[str, Any]:
        """The ``modelFiles`` of src/protocol/messages.ts."""
        return {
            "directory": str(self.directory.resolve()),
            "entries_sha256": entries_sha256(self.directory),
            "files": [
                {"name": name, "sha256": held.sha256, "stamp": _wired(held.stamp)}
                for name, held in sorted(self._held.items())
            ],
        }

    def unchanged(self, progress: Progress) -> bool:
        """Whether all files, and no others, are there with the contents that were loaded."""
        now = list_files(self.directory, self._named)
        if {name: file.path for name, file in now.items()} != {n: h.path for n, h in self._held.items()}:
            return False
        for held in self._held.values():
            if Stamp.of(held.path) == held.stamp:
                continue
            stamp = _settled(held.path)
            if digest_each([held.path], progress)[held.path] != held.sha256:
                return False
            held.stamp, held.how = stamp, _how(held.path)
        return True

    def check(self) -> None:
        """Raises ``baseline_changed`` where a weight file was written to or replaced since the load. Takes a
        few µs a file."""
        for held in self._weights:
            try:
                if Stamp.of(held.path) != held.stamp:
                    self._check_anew(held)
            except OSError as error:
                raise _changed(held.path, f"went out of reach ({error.strerror})") from error

    def _check_anew(self, held: _Held) -> None:
        """A new link, owner or mode (backups, chmod) leaves the content alone, and so does a file system that
        numbers its files anew; anything else is a write, whatever the file holds by now."""
        stamp, how = Stamp.of(held.path), _how(held.path)
        described = how != held.how and stamp._replace(ctime=held.stamp.ctime) == held.stamp
        numbered = stamp._replace(device=held.stamp.device, inode=held.stamp.inode) == held.stamp
        if not described and not numbered:
            raise _changed(held.path, "was written to or replaced")
        try:
            same = digest_each([held.path], silent)[held.path] == held.sha256
        except SparkablateError as error:
            raise _changed(held.path, "was written to") from error
        if not same:
            raise _changed(held.path, "was written to")
        held.stamp, held.how = stamp, how


def _how(path: Path) -> tuple[int, ...]:
    status = path.stat()
    return status.st_mode, status.st_nlink, status.st_uid, status.st_gid


def _changed(path: Path, what: str) -> SparkablateError:
    return SparkablateError(
        "baseline_changed",
        f"{path} {what} while the model was in use. What was measured before is the loaded model's and is "
        "kept. Put the old file back and run the same command again to continue; choose another output.dir "
        "to measure the new one",
    )


def _wired(stamp: Stamp) -> str:
    """Without the device, whose number a restart may change. The controller writes it likewise."""
    return f"{stamp.size} {stamp.mtime} {stamp.ctime} {stamp.inode}"


def entries_sha256(directory: Path) -> str:
    """Of the names in a model's directory, and of the templates one below: where it is the same nothing came
    that could decide the model. The controller computes it likewise (src/store/model-files.ts)."""
    names: list[bytes] = []
    for entry in os.scandir(os.fsencode(directory)):
        names.append(entry.name)
        if entry.is_dir() and not entry.name.startswith(b"."):
            inside = os.listdir(entry.path)
            names += [entry.name + b"/" + name for name in inside if name.endswith(b".jinja")]
    return hashlib.sha256(b"\0".join(sorted(names))).hexdigest()
