"""A target directory that is absent or complete, whatever happens: written beside its place, then renamed."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import re
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError

from sparkablate.errors import SparkablateError
from sparkablate.loading.memory import gib
from sparkablate.wording import flag

#: Written into every baked directory; --force replaces nothing that lacks it.
RECORD = "sparkablate_bake.json"
#: What lies in a work directory besides its lock: see Place, live.py, certificate.py.
LEFTOVERS = re.compile(r"model|replaced|offload|jobs\.json|vectors\.safetensors|block-\d+\.safetensors")
#: Names that a message spells out before it says how many more there are.
SHOWN = 5


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

    @staticmethod
    def of(target: Path) -> Place:
        return Place(target, target.parent / f".{target.name}.sparkablate-bake")

    def finish(self) -> None:
        """Puts the written directory into its place; all of its files must be synced already."""
        sync_directory(self.model)
        if self.target.is_dir():
            self.target.rename(self.replaced)
        self.model.rename(self.target)
        sync_directory(self.target.parent)


def resolve_target(out: Path) -> Path:
    """The absolute path of the target, with no link on the way to it; the target itself may be one."""
    path = Path(os.path.abspath(out.expanduser()))
    return Path(os.path.realpath(path.parent)) / path.name


def check_target(target: Path, source: Path | None, force: bool) -> None:
    """Raises "usage" where the target is or holds the source, exists, or (with force) holds anything that was
    not written by a bake. Both paths are resolved;
    `source`: None where it is no directory yet."""
    try:
        _check(target, source, force)
    except OSError as error:
        raise SparkablateError("usage", f"{target} cannot be written: {error}") from error


def _check(target: Path, source: Path | None, force: bool) -> None:
    if not os.path.lexists(target):
        return
    holders = () if source is None else (source, *source.parents)
    if target.exists() and any(target.samefile(path) for path in holders):
        raise SparkablateError(
            "usage", f"{flag('out')} {target} is the source model's own directory, or contains it"
        )
    if not force:
        raise SparkablateError(
            "usage",
            f"{target} exists; pass {flag('force', True)} to replace it, or choose another {flag('out')}",
        )
    if target.is_symlink():
        raise SparkablateError(
            "usage",
            f"{target} is a symbolic link, so {flag('force', True)} does not replace it; name what it "
            "points to",
        )
    if not target.is_dir() or (any(target.iterdir()) and not (target / RECORD).is_file()):
        raise SparkablateError(
            "usage",
            f"{target} holds no {RECORD}, so {flag('force', True)} does not replace it: it was not made by a "
            "bake",
        )
    if strangers := _strangers(target):
        raise SparkablateError(
            "usage",
            f"{target} holds files that no bake put there: {shown(strangers)}; {flag('force', True)} would "
            "delete them. "
            f"Move them away, or choose another {flag('out')}",
        )


def _strangers(target: Path) -> list[str]:
    """Files of a baked directory that its record does not name; folders that hold none are not counted."""
    record = target / RECORD
    if not record.exists():
        return []
    try:
        made = set(json.loads(record.read_text(encoding="utf-8"))["files"]) | {RECORD}
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise SparkablateError(
            "usage", f"{record} cannot be read, so {flag('force', True)} does not replace {target}: {error}"
        ) from error
    found = []
    for folder, folders, files in os.walk(target):
        here = Path(folder)
        links = [name for name in folders if (here / name).is_symlink()]
        found += [(here / name).relative_to(target).as_posix() for name in [*files, *links]]
    return sorted(set(found) - made)


def shown(names: list[str]) -> str:
    """The first names, and how many more there are; what no terminal should obey is escaped."""
    more = len(names) - SHOWN
    return ", ".join(map(printable, names[:SHOWN])) + (f" and {more} more" if more > 0 else "")


def printable(name: str) -> str:
    return name if name.isprintable() else ascii(name)


@contextmanager
def placed(target: Path) -> Iterator[Place]:
    """Holds the work directory of a target, emptied of what a killed bake left there; removes it at the end,
    and with it the directories above it that were made for a target that did not come to be.

    Raises "usage" while another bake writes the same target, and where the work directory is not ours,
    "disk_full" where there is no room.
    """
    place = Place.of(target)
    work = place.work
    made: list[Path] = []
    try:
        try:
            _make(target.parent, made)
            lock = _lock(work, target)
        except OSError as error:
            raise _disk_error(error, target) from error
        try:
            _clear(place)
            try:
                yield place
            except (OSError, SafetensorError) as error:
                raise _disk_error(error, target) from error
        finally:
            _remove(work)
            os.close(lock)
    finally:
        for directory in reversed(made):
            with suppress(OSError):  # it holds the target by now, or what somebody put there meanwhile
                directory.rmdir()


def _make(directory: Path, made: list[Path]) -> None:
    """As `mkdir -p`; adds to `made` what was not there, the outermost first."""
    if directory.is_dir():
        return
    if directory.parent != directory:
        _make(directory.parent, made)
    try:
        directory.mkdir()
    except FileExistsError:
        if not directory.is_dir():
            raise
    else:
        made.append(directory)


def _lock(work: Path, target: Path) -> int:
    """Descriptor of the held lock file in a work directory of ours: the kernel frees it when this process
    dies. Nothing is written into, or removed from, a directory that is not."""
    while True:
        directory = _own_directory(work)
        try:
            if directory is None:
                continue  # the bake that held it has just removed it
            descriptor = _held(directory, work, target)
            if descriptor is None:
                continue
            try:
                _require_leftovers(directory, work)
            except BaseException:
                os.close(descriptor)
                raise
            return descriptor
        finally:
            if directory is not None:
                os.close(directory)


def _own_directory(work: Path) -> int | None:
    """Descriptor of the work directory, made where it is not there; None where it went away meanwhile."""
    made = True
    try:
        os.mkdir(work, 0o700)
    except FileExistsError:
        made = False
    try:
        directory = os.open(work, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENOTDIR):
            raise _not_ours(work, "it is a symbolic link or a file") from error
        raise
    try:
        owner = os.fstat(directory).st_uid
        # What this process has just made is its own, whatever a mounted file system says of owners.
        if not made and owner != os.geteuid():
            raise _not_ours(work, f"it belongs to user {owner}")
        names = os.listdir(directory)
        if names and "lock" not in names:
            raise _not_ours(work, f"it holds {shown(sorted(names))}")
    except BaseException:
        os.close(directory)
        raise
    return directory


def _held(directory: int, work: Path, target: Path) -> int | None:
    """Descriptor of the lock file, locked; None where it was removed meanwhile."""
    flags = os.O_CREAT | os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    try:
        descriptor = os.open("lock", flags, 0o600, dir_fd=directory)
    except FileNotFoundError:
        return None
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.EISDIR, errno.ENXIO):
            raise _not_ours(work, "its lock is not a file") from error
        raise
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise _not_ours(work, "its lock is not a file")
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.stat("lock", dir_fd=directory, follow_symlinks=False).st_ino == os.fstat(descriptor).st_ino:
            return descriptor
    except FileNotFoundError:
        pass
    except BlockingIOError:
        os.close(descriptor)
        raise SparkablateError("usage", f"another bake is writing {target}") from None
    except BaseException:
        os.close(descriptor)
        raise
    os.close(descriptor)
    return None


def _require_leftovers(directory: int, work: Path) -> None:
    """Only what a killed bake leaves may be removed: a link or an unknown name is somebody else's."""
    # A 0.1.0 bake left it open to its group.
    os.fchmod(directory, 0o700)
    with os.scandir(directory) as entries:
        strangers = sorted(
            entry.name
            for entry in entries
            if entry.name != "lock" and (entry.is_symlink() or not LEFTOVERS.fullmatch(entry.name))
        )
    if strangers:
        raise _not_ours(work, f"it holds {shown(strangers)}")


def _not_ours(work: Path, why: str) -> SparkablateError:
    return SparkablateError(
        "usage",
        f"{work} is needed to write beside {flag('out')}, and no bake of yours left it there: {why}. Nothing "
        f"in it was touched; move it away, or choose another {flag('out')}",
    )


def _remove(work: Path) -> None:
    """The lock last: without it, what a kill leaves half removed would not be known for ours."""
    # What ended the bake is told, not that its disk cannot be written to any more.
    with suppress(OSError):
        _empty(work)
    shutil.rmtree(work, ignore_errors=True)


def _empty(work: Path) -> None:
    for path in work.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name != "lock":
            path.unlink()


def _clear(place: Place) -> None:
    """Removes what a killed bake left; a target that it had moved aside goes back."""
    if place.replaced.is_dir() and not os.path.lexists(place.target):
        place.replaced.rename(place.target)
    _empty(place.work)
    place.model.mkdir()


def require_space(directory: Path, needed: int) -> None:
    """Raises "disk_full" before anything is written."""
    while not directory.is_dir():
        directory = directory.parent
    free = shutil.disk_usage(directory).free
    if free < needed:
        raise SparkablateError(
            "disk_full", f"{directory} has {gib(free)} free, but the bake needs {gib(needed)} there"
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
        return SparkablateError("disk_full", f"no space left for {target}: {error}")
    return SparkablateError("usage", f"{target} cannot be written: {error}")
