"""A target directory that is absent or complete, whatever happens: written beside its place, then renamed."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError

from sparkablate.errors import SparkablateError

#: Written into every baked directory; --force replaces nothing that lacks it.
RECORD = "sparkablate_bake.json"


@dataclass(frozen=True)
class Place:
    """`target`: where the directory will be. `model`: where it is written. `work`: for what is not kept."""

    target: Path
    work: Path

    @property
    def model(self) -> Path:
        return self.work / "model"

    @property
    def replaced(self) -> Path:
        return self.work / "replaced"

    def finish(self) -> None:
        """Puts the written directory into its place; all of its files must be synced already."""
        sync_directory(self.model)
        if self.target.is_dir():
            self.target.rename(self.replaced)
        self.model.rename(self.target)
        sync_directory(self.target.parent)


def check_target(target: Path, source: Path, force: bool) -> None:
    """Raises "usage" where the target is the source, exists, or (with force) was not made by a bake."""
    if target == source or source.is_relative_to(target):
        raise SparkablateError("usage", f"--out {target} is the source model's own directory")
    if not target.exists():
        return
    if not force:
        raise SparkablateError(
            "usage", f"{target} exists; pass --force to replace it, or choose another --out"
        )
    made_by_bake = target.is_dir() and ((target / RECORD).is_file() or not any(target.iterdir()))
    if not made_by_bake:
        raise SparkablateError(
            "usage", f"{target} holds no {RECORD}, so --force does not replace it: it was not made by a bake"
        )


@contextmanager
def placed(target: Path) -> Iterator[Place]:
    """Holds the work directory of a target, emptied of what a killed bake left there; removes it at the end.

    Raises "usage" while another bake writes the same target, "disk_full" where there is no room.
    """
    work = target.parent / f".{target.name}.sparkablate-bake"
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        lock = _lock(work, target)
    except OSError as error:
        raise _disk_error(error, target) from error
    try:
        _clear(Place(target, work))
        try:
            yield Place(target, work)
        except (OSError, SafetensorError) as error:
            raise _disk_error(error, target) from error
    finally:
        shutil.rmtree(work, ignore_errors=True)
        os.close(lock)


def _lock(work: Path, target: Path) -> int:
    """Descriptor of the held lock file: the kernel frees it when this process dies."""
    path = work / "lock"
    while True:
        work.mkdir(exist_ok=True)
        try:
            descriptor = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        except FileNotFoundError:
            continue  # the bake that held it has just removed it
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            raise SparkablateError("usage", f"another bake is writing {target}") from None
        try:
            if os.stat(path).st_ino == os.fstat(descriptor).st_ino:
                return descriptor
        except FileNotFoundError:
            pass
        os.close(descriptor)


def _clear(place: Place) -> None:
    """Removes what a killed bake left; a target that it had moved aside goes back."""
    if place.replaced.is_dir() and not place.target.exists():
        place.replaced.rename(place.target)
    for path in place.work.iterdir():
        if path.name == "lock":
            continue
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
    place.model.mkdir()


def require_space(directory: Path, needed: int) -> None:
    """Raises "disk_full" before anything is written."""
    while not directory.is_dir():
        directory = directory.parent
    free = shutil.disk_usage(directory).free
    if free < needed:
        raise SparkablateError(
            "disk_full", f"{directory} has {_gib(free)} free, and the bake needs {_gib(needed)} there"
        )


def sync_file(path: Path) -> None:
    with path.open("rb") as stream:
        os.fsync(stream.fileno())


def sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _disk_error(error: OSError | SafetensorError, target: Path) -> SparkablateError:
    """safetensors wraps what the system said into a text."""
    full = (errno.ENOSPC, errno.EDQUOT)
    if getattr(error, "errno", None) in full or any(f"os error {code}" in str(error) for code in full):
        return SparkablateError("disk_full", f"no room left for {target}: {error}")
    return SparkablateError("usage", f"{target} cannot be written: {error}")


def _gib(count: int) -> str:
    return f"{count / 2**30:.2f} GiB"
