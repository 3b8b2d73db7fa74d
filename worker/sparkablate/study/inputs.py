"""What a sweep is measured on, as people give it: a file, a text, a dataset, a task."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sparkablate.arguments import described
from sparkablate.errors import SparkablateError
from sparkablate.study.directory import compact
from sparkablate.text.files import decode, join_files

#: A text in memory is longer than any file's name that is meant.
SHORTEST_TEXT = 200
WIKITEXT = {"path": "wikitext", "config": "wikitext-2-raw-v1", "split": "test", "column": "text"}
DATASET_KEYS = ("path", "config", "split", "column")


@dataclass(frozen=True)
class Source:
    """``text`` None: ``dataset`` names it. ``path``: absolute, of a file; a text in memory has none and is
    kept beside the run under ``keep``."""

    name: str
    text: str | None
    dataset: dict[str, Any] | None
    path: Path | None
    notices: tuple[str, ...] = ()
    keep: str = ""

    @property
    def kept(self) -> bytes | None:
        return None if self.path is not None or self.text is None else self.text.encode()

    def in_config(self, directory: Path | None) -> Any:
        """As `eval.dataset` names it."""
        if self.dataset is not None:
            return self.dataset
        return str(self.path or (directory or Path()) / self.keep)

    @property
    def digest(self) -> str | None:
        """As src/run/recognise.ts has it; None for a dataset of the hub."""
        if self.dataset is not None:
            return compact(self.dataset)
        data = self.path.read_bytes() if self.path is not None else (self.kept or b"")
        return hashlib.sha256(data).hexdigest()


def source_of(argument: str, given: Any, keep: str) -> Source:
    """``argument``: its name. Raises ``usage``, ``input_missing``, ``config_invalid``."""
    if isinstance(given, Mapping):
        return _dataset(argument, given)
    if not isinstance(given, str | os.PathLike):
        raise SparkablateError(
            "usage",
            f"{argument}: give a text, the path of a .txt file, or a dataset like "
            f"{{'path': 'wikitext', 'config': 'wikitext-2-raw-v1', 'split': 'test', 'column': 'text'}}, not "
            f"{described(given)}",
        )
    if given == "wikitext":
        return _dataset(argument, WIKITEXT)
    if isinstance(given, str) and (len(given) >= SHORTEST_TEXT or "\n" in given):
        decode(given.encode("utf-8", "surrogatepass"), argument)
        return Source(keep, given, None, None, keep=keep)
    path = Path(given)
    if path.is_dir():
        return _dataset(
            argument, {"path": str(path.resolve()), "config": None, "split": "train", "column": "text"}
        )
    if not path.is_file():
        raise SparkablateError(
            "input_missing",
            f"{argument}: there is no file {str(given)!r}; a text in memory needs at least {SHORTEST_TEXT} "
            "characters, or a line break",
        )
    joined = join_files([path])
    return Source(path.name, joined.text, None, path.resolve(), tuple(joined.notices))


def _dataset(argument: str, given: Mapping[str, Any]) -> Source:
    unknown = sorted(set(given) - {*DATASET_KEYS, "name"})
    if unknown or not isinstance(given.get("path", given.get("name")), str):
        what = f"has no key {unknown[0]!r}" if unknown else "needs 'path'"
        raise SparkablateError("usage", f"{argument}: a dataset {what}; its keys: {', '.join(DATASET_KEYS)}")
    dataset = {
        "path": given.get("path", given.get("name")),
        "config": given.get("config"),
        "split": given.get("split", "test"),
        "column": given.get("column", "text"),
    }
    name = " ".join(str(dataset[key]) for key in ("path", "config", "split") if dataset[key] is not None)
    return Source(name, None, dataset, None)


@dataclass(frozen=True)
class Task:
    name: str
    items: list[dict[str, str]]
    sha256: str
    path: Path | None
    data: bytes

    @property
    def wrong(self) -> bool:
        return "wrong" in self.items[0]


def task_of(given: Any) -> Task:
    """A file of JSON lines, or a list of items. Raises ``usage``, ``input_missing``, ``config_invalid``."""
    path: Path | None = None
    if isinstance(given, str | os.PathLike):
        path = Path(given)
        if not path.is_file():
            raise SparkablateError("input_missing", f"task: there is no file {str(given)!r}")
        data = path.read_bytes()
        lines = decode(data, str(path)).split("\n")
        while lines and not lines[-1].strip():
            lines.pop()
        found = [
            (f"{path}:{number}", _json(f"{path}:{number}", line)) for number, line in enumerate(lines, 1)
        ]
    elif isinstance(given, Sequence):
        found = [(f"task[{index}]", item) for index, item in enumerate(given)]
        data = "".join(compact(item) + "\n" for _, item in found if isinstance(item, Mapping)).encode()
    else:
        raise SparkablateError(
            "usage",
            f"task: give a .jsonl file, or a list of {{prompt, answer, wrong?}}, not {described(given)}",
        )
    if not found:
        raise SparkablateError("config_invalid", f"{path or 'task'}: is empty")
    items = [_item(where, item) for where, item in found]
    if len({"wrong" in item for item in items}) > 1:
        raise SparkablateError(
            "config_invalid", f"{path or 'task'}: some items have a wrong answer: give one to all, or to none"
        )
    name = "task.jsonl" if path is None else path.name
    return Task(name, items, hashlib.sha256(data).hexdigest(), path and path.resolve(), data)


def _json(where: str, line: str) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError) as error:
        raise SparkablateError("config_invalid", f"{where}: is not JSON: {error}") from error


def _item(where: str, item: Any) -> dict[str, str]:
    if not isinstance(item, Mapping):
        raise SparkablateError(
            "config_invalid", f"{where}: an item is {{prompt, answer, wrong?}}, not {described(item)}"
        )
    for key in item:
        if key not in ("prompt", "answer", "wrong"):
            raise SparkablateError(
                "config_invalid", f"{where}: {key!r}: an item has prompt, answer and wrong"
            )
    for key in ("prompt", "answer", *(("wrong",) if "wrong" in item else ())):
        if not isinstance(item.get(key), str) or not item[key]:
            raise SparkablateError(
                "config_invalid",
                f"{where}: {key} is a text that is not empty, not {described(item.get(key))}",
            )
    return {key: item[key] for key in ("prompt", "answer", "wrong") if key in item}
