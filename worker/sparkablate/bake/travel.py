"""What travels with a model besides weights and configuration, and what stays behind, and why."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath

from sparkablate.bake.place import RECORD, printable, sync_directory, sync_file
from sparkablate.errors import SparkablateError
from sparkablate.printable import is_unicode

CARD = "README.md"
#: Names that the result has files of its own under: the source's get another one.
TAKEN = (CARD, RECORD)
#: A file beyond this is no tokenizer, template or licence, but data that happens to lie there.
MAX_FILE_BYTES = 1 << 30
#: Left-behind names that a note spells out before it says how many more there are.
SHOWN = 12

WEIGHTS = "weights in a form or place that this bake does not read"
TRAINING = "the state of a training run"
CODE = "code"
PICKLE = "a pickle, which may run code"
HIDDEN = "hidden"
ADAPTER = "an adapter's configuration, without which stock transformers would load the adapter as well"
ANOTHER_MODEL = "another model's directory"
LINK_OUT = "a link out of the model's directory"
LINK_TO_FOLDER = "a link to a folder"
DANGLING = "a link to nothing"
SPECIAL = "neither a file nor a folder"
LARGE = f"larger than {MAX_FILE_BYTES >> 30} GiB"
UNNAMED = "its name is no UTF-8 text"

#: Pattern of a name in lower case → why such a file stays behind. The first that fits holds.
LEFT: Mapping[str, str] = {
    **dict.fromkeys(("tokenizer*.bin", "vocab*.bin"), ""),
    **dict.fromkeys(
        ("optimizer*", "scheduler*.pt", "scaler*.pt", "rng_state*", "training_args.bin"), TRAINING
    ),
    **dict.fromkeys(
        (
            "*.safetensors",
            "*.bin",
            "*.pt",
            "*.pt2",
            "*.pth",
            "*.ckpt",
            "*.ckpt.*",
            "*.distcp",
            "*.h5",
            "*.hdf5",
            "*.keras",
            "*.msgpack",
            "*.onnx",
            "*.onnx_data*",
            "*.onnx.data",
            "*.gguf",
            "*.ggml",
            "*.llamafile",
            "*.tflite",
            "*.mlmodel",
            "*.pdparams",
            "*.pdopt",
            "*.params",
            "*.npz",
            "*.npy",
            "*.ot",
            "*.nemo",
            "*.engine",
            "*.plan",
            # Which of those files holds which tensor.
            "*.safetensors.index.json",
            "*.bin.index.json",
            "*.h5.index.json",
            "*.msgpack.index.json",
        ),
        WEIGHTS,
    ),
    **dict.fromkeys(("*.pkl", "*.pickle", "*.joblib", "*.dill"), PICKLE),
    **dict.fromkeys(
        (
            "*.py",
            "*.pyc",
            "*.pyi",
            "*.pyx",
            "*.ipynb",
            "*.so",
            "*.so.*",
            "*.dylib",
            "*.dll",
            "*.exe",
            "*.sh",
            "*.bat",
            "*.cmd",
            "*.ps1",
            "*.js",
            "*.mjs",
            "*.ts",
            "*.wasm",
            "*.jar",
            "*.whl",
            "*.c",
            "*.cc",
            "*.cpp",
            "*.cu",
            "*.cuh",
            "*.h",
            "*.hpp",
            "*.rs",
            "*.go",
        ),
        CODE,
    ),
    "adapter_config.json": ADAPTER,
    ".gitattributes": "",
    ".*": HIDDEN,
}
#: Folders that are left as a whole.
LEFT_FOLDERS: Mapping[str, str] = {
    "__pycache__": CODE,
    "*.mlpackage": WEIGHTS,
    "*.mlmodelc": WEIGHTS,
    ".*": HIDDEN,
}
#: A folder of templates that transformers reads, through a link too; but its templates alone.
TEMPLATES = "additional_chat_templates"
#: What transformers itself reads beside weights and configuration: taken through a link wherever it leads,
#: since people put model directories together out of links. Any other could bring along anybody's file.
READ_BY_TRANSFORMERS = (
    "tokenizer*",
    "vocab.*",
    "merges.txt",
    "*.tiktoken",
    "*.model",
    "tekken.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "generation_config.json",
    "chat_template*",
    "*processor_config.json",
    "license*",
    "notice*",
)


@dataclass(frozen=True)
class Travelling:
    """`files`: path in the result, with / → the source's file. `left`: path in the source → why."""

    files: Mapping[str, Path]
    left: Mapping[str, str]

    @property
    def bytes(self) -> int:
        return sum(path.stat().st_size for path in self.files.values())


def find(source: Path, read: Collection[str], omitted: Collection[Path]) -> Travelling:
    """What of `source` a bake takes along. `read`: names of the weights that the bake reads, and of the
    configuration. `omitted`: directories that are not the source's, like a target inside it.

    Raises "input_missing" for what cannot be looked at.
    """
    files: dict[str, Path] = {}
    left: dict[str, str] = {}
    away = {path.resolve() for path in omitted}
    inside = (source.resolve(), _hub_blobs(source.resolve()))
    try:
        for path in _walk(source, inside, away, left):
            name = path.relative_to(source).as_posix()
            if name in read:
                continue
            if why := _why_left(path, inside):
                left[name] = why
            else:
                files[name] = path
    except OSError as error:
        raise SparkablateError("input_missing", f"{source}: what lies beside the weights: {error}") from error
    return Travelling(_renamed(files), {_text(name): why for name, why in left.items()})


def copy(travelling: Travelling, directory: Path, stop: Callable[[], None]) -> list[str]:
    """Copies and syncs the files; their names. `stop` may raise, between files."""
    folders = set()
    for name, source in travelling.files.items():
        stop()
        target = directory / name
        target.parent.mkdir(parents=True, exist_ok=True)
        folders.add(target.parent)
        try:
            stream = source.open("rb")
        except OSError as error:
            raise SparkablateError("input_missing", f"{source} cannot be read: {error}") from error
        with stream, target.open("xb") as written:
            shutil.copyfileobj(stream, written)
        sync_file(target)
    for folder in folders - {directory}:
        sync_directory(folder)
    return list(travelling.files)


def note(left: Mapping[str, str]) -> list[str]:
    """What is left behind in one sentence; none where nothing is."""
    if not left:
        return []
    by_reason: dict[str, list[str]] = {}
    for name, why in left.items():
        by_reason.setdefault(why, []).append(printable(name))
    parts = []
    for why, names in by_reason.items():
        more = len(names) - SHOWN
        parts.append(f"{', '.join(names[:SHOWN])}{f' and {more} more' if more > 0 else ''} ({why})")
    return [f"left behind in the source: {'; '.join(parts)}"]


def _walk(
    source: Path, inside: tuple[Path, Path | None], away: set[Path], left: dict[str, str]
) -> Iterator[Path]:
    """Everything below `source` that is no folder, in order; folders that stay behind go into `left`."""
    waiting = [source]
    while waiting:
        folder = waiting.pop()
        entries = sorted(folder.iterdir())
        if folder != source and _is_model(entries):
            left[f"{folder.relative_to(source).as_posix()}/"] = ANOTHER_MODEL
            continue
        folders = []
        for path in entries:
            if not path.is_dir():
                yield path
            elif path.resolve() in away:
                continue
            elif (
                why := LINK_TO_FOLDER if folder != source and folder.is_symlink() else _why_folder_left(path)
            ):
                left[f"{path.relative_to(source).as_posix()}/"] = why
            else:
                folders.append(path)
        waiting += reversed(folders)


def _is_model(entries: list[Path]) -> bool:
    names = {path.name.lower() for path in entries}
    return "config.json" in names and any(_fitting(name, LEFT) == WEIGHTS for name in names)


def _why_folder_left(path: Path) -> str:
    if path.is_symlink() and path.name != TEMPLATES:
        return LINK_TO_FOLDER
    return _fitting(path.name, LEFT_FOLDERS)


def _why_left(path: Path, inside: tuple[Path, Path | None]) -> str:
    if not is_unicode(path.name):
        return UNNAMED
    if why := _fitting(path.name, LEFT):
        return why
    if not os.path.exists(path):
        return DANGLING
    if path.parent.is_symlink() and path.parent.name == TEMPLATES and path.suffix != ".jinja":
        return LINK_OUT
    if path.is_symlink() and not _is_read(path.name):
        end = path.resolve()
        if not any(root is not None and end.is_relative_to(root) for root in inside):
            return LINK_OUT
    found = path.stat()
    if not stat.S_ISREG(found.st_mode):
        return SPECIAL
    return LARGE if found.st_size > MAX_FILE_BYTES else ""


def _fitting(name: str, patterns: Mapping[str, str]) -> str:
    return next((why for pattern, why in patterns.items() if fnmatch(name.lower(), pattern)), "")


def _is_read(name: str) -> bool:
    return any(fnmatch(name.lower(), pattern) for pattern in READ_BY_TRANSFORMERS)


def _hub_blobs(source: Path) -> Path | None:
    """Where the links of a hub snapshot lead: models--OWNER--NAME/snapshots/COMMIT → …/blobs."""
    parent = source.parent
    blobs = parent.parent / "blobs"
    return blobs if parent.name == "snapshots" and blobs.is_dir() else None


def _renamed(files: Mapping[str, Path]) -> dict[str, Path]:
    """A name that the result takes itself becomes NAME.source.EXT. Told apart without regard to case, as some
    file systems do."""
    taken = {name.lower() for name in (*TAKEN, *files)}
    renamed = {}
    for name, path in files.items():
        new = name
        if name.lower() in {one.lower() for one in TAKEN}:
            while new.lower() in taken:
                pure = PurePosixPath(new)
                new = f"{pure.stem}.source{pure.suffix}"
            taken.add(new.lower())
        renamed[new] = path
    return renamed


def _text(name: str) -> str:
    return os.fsencode(name).decode("utf-8", "backslashreplace")
