"""★ Table: request type → how the wire's request becomes the engine's, and its answer the reply.

No state of its own; runs on a compute thread.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import time
from collections.abc import Callable
from itertools import chain
from typing import Any, Protocol, TypeVar

import numpy as np

from sparkablate.directions.files import unpickle_direction
from sparkablate.engines import requests
from sparkablate.engines.requests import Caller, Engine
from sparkablate.errors import SparkablateError
from sparkablate.generation.run import Generation
from sparkablate.measure.attribution import SiteSums
from sparkablate.measure.slice import Measurement
from sparkablate.server.protocol import Message, Request

Reply = tuple[Message, bytes]
Handler = Callable[[Engine, Request, Caller], Reply]
Asked = TypeVar("Asked", bound=requests.Request[Any])


class Context(Protocol):
    """What a handler may do besides returning: send events, and see whether it was cancelled."""

    def send(self, event: Message, payload: bytes = b"") -> None: ...

    def cancelled(self) -> bool: ...


def answer(engine: Engine, request: Request, context: Context) -> Reply:
    """Raises what the engine does, ``invalid_message`` for a payload that is not what the request says."""

    def progress(stage: str, done: float, total: float | None, unit: str) -> None:
        context.send(
            {"type": "progress", "id": request.id, "stage": stage, "done": done, "total": total, "unit": unit}
        )

    def report(done: Any) -> None:
        event, payload = EVENTS[type(done)](done)
        context.send({**event, "id": request.id}, payload)

    return HANDLERS[request.type](engine, request, Caller(progress, report, context.cancelled))


def _asked(what: type[Asked], request: Request, **decoded: Any) -> Asked:
    """The engine's request: what was decoded, and the wire's fields of the same names."""
    names = {field.name for field in dataclasses.fields(what)}
    return what(**{**{name: request.fields[name] for name in names & request.fields.keys()}, **decoded})


def _plain(what: type[requests.Request[Any]]) -> Handler:
    return lambda engine, request, caller: (engine.answer(_asked(what, request), caller) or {}, b"")


def _int32(request: Request, width: int) -> np.ndarray:
    """The payload as token ids, int32 [blocks, width]."""
    if len(request.payload) == 0 or len(request.payload) % (4 * width) != 0:
        raise SparkablateError(
            "invalid_message",
            f"{request.type}: {len(request.payload)} bytes are no blocks of {width} int32 ids",
        )
    return np.frombuffer(request.payload, dtype="<i4").reshape(-1, width)


def tokenize(engine: Engine, request: Request, caller: Caller) -> Reply:
    text = None
    if request.fields["dataset"] is None:
        try:
            text = request.payload.decode("utf-8")
        except UnicodeDecodeError as error:
            raise SparkablateError("invalid_message", f"tokenize: the text is not UTF-8: {error}") from error
    ids, truncated, notices = engine.answer(_asked(requests.Tokenize, request, text=text), caller)
    shown = [notice[:4096] for notice in notices]
    return {"tokens": len(ids), "truncated": truncated, "notices": shown}, ids.astype("<i4").tobytes()


def tokenize_task(engine: Engine, request: Request, caller: Caller) -> Reply:
    items = _items(request)
    encoded, notices = engine.answer(_asked(requests.TokenizeTask, request, items=items), caller)
    spans = [(item.begin, len(item.ids), item.at, item.wrong) for item in encoded]
    numbers = [*chain.from_iterable(spans), *chain.from_iterable(item.ids for item in encoded)]
    return {"items": len(items), "notices": notices}, np.asarray(numbers, dtype="<i4").tobytes()


def _items(request: Request) -> list[dict[str, str]]:
    """The payload as a task's items; the controller has read the file and refuses bad lines by number."""
    try:
        items = json.loads(request.payload.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise SparkablateError("invalid_message", f"{request.type}: no JSON: {error}") from error
    for item in items if isinstance(items, list) else [items]:
        keys = item.keys() if isinstance(item, dict) else set()
        if keys - {"wrong"} != {"prompt", "answer"} or not all(
            isinstance(text, str) and text for text in item.values()
        ):
            raise SparkablateError("invalid_message", f"{request.type}: no item: {item!r:.200}")
    if not isinstance(items, list) or not items:
        raise SparkablateError("invalid_message", f"{request.type}: no list of items")
    return items


def calibrate(engine: Engine, request: Request, caller: Caller) -> Reply:
    lengths = request.fields["lengths"]
    ids = _int32(request, request.fields["seq_len"] if lengths is None else 1)
    if lengths is not None and sum(lengths) != len(ids):
        raise SparkablateError(
            "invalid_message", f"calibrate: {len(ids)} ids for rows of {sum(lengths)} in all"
        )
    rows = list(ids) if lengths is None else np.split(ids[:, 0], np.cumsum(lengths[:-1], dtype=np.int64))
    sites, values = engine.answer(_asked(requests.Calibrate, request, rows=rows), caller)
    payload = values.astype("<f4").tobytes()
    return {"sites": sites, "sha256": _sha256(payload), "tokens": int(ids.size)}, payload


def put(engine: Engine, request: Request, caller: Caller) -> Reply:
    fields = request.fields
    digest = _sha256(request.payload)
    if digest != fields["sha256"]:
        raise SparkablateError(
            "invalid_message", f"put: the payload's sha256 is {digest}, not {fields['sha256']}"
        )
    if len(request.payload) % 4 != 0:
        raise SparkablateError("invalid_message", f"put: {len(request.payload)} bytes are no float32 values")
    values = np.frombuffer(request.payload, dtype="<f4")
    if fields["kind"] == "means":
        engine.answer(_asked(requests.PutMeans, request, values=values), caller)
    else:
        engine.answer(_asked(requests.PutDirection, request, vector=values), caller)
    return {}, b""


def read_direction(engine: Engine, request: Request, caller: Caller) -> Reply:
    vector, norm, layer = unpickle_direction(request.payload)
    return {"norm": norm, "layer": layer}, vector.numpy().astype("<f4").tobytes()


def evaluate(engine: Engine, request: Request, caller: Caller) -> Reply:
    ids, donors = _batch(request, len(request.fields["blocks"]))
    summary = engine.answer(_asked(requests.Evaluate, request, ids=ids, donors=donors), caller)
    told = {**dataclasses.asdict(summary), "notices": list(summary.notices)}
    return {**told, "slots": engine.slots}, b""


def _batch(request: Request, blocks: int) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """The payload as the blocks' ids and, by mode, their donors': int32 [blocks, seq_len] each."""
    rows, modes = _int32(request, request.fields["seq_len"]), request.fields["donors"]
    if len(rows) != blocks * (1 + len(modes)):
        raise SparkablateError(
            "invalid_message",
            f"{request.type}: {blocks} blocks and {len(modes)} donors, but {len(rows)} blocks of ids",
        )
    ids, *given = np.split(rows, 1 + len(modes))
    return ids, dict(zip(modes, given, strict=True))


def attribute(engine: Engine, request: Request, caller: Caller) -> Reply:
    began = time.perf_counter()
    ids, donors = _batch(request, request.fields["blocks"])
    found = engine.answer(_asked(requests.Attribute, request, ids=ids, donors=donors), caller)
    result = {"conditions": len(found), "seconds": time.perf_counter() - began}
    return result, found.astype("<f8").tobytes()


def _attribution(sums: SiteSums) -> Reply:
    event = {"type": "attribution", "site": sums.site, "layer": sums.layer, "parts": len(sums.sums)}
    return event, sums.sums.astype("<f8").tobytes()


def _measurement(measurement: Measurement) -> Reply:
    error = measurement.error
    event = {
        "type": "measurement",
        "condition": measurement.condition,
        "columns": [] if error else list(measurement.columns),
        "tokens": measurement.tokens,
        "seconds": measurement.seconds,
        "flags": list(measurement.flags),
        "error": error.to_wire() if error else None,
    }
    return event, b"" if error else _values(measurement)


def _values(measurement: Measurement) -> bytes:
    """The sums as float64, then what was kept a token as float32."""
    sums = np.ascontiguousarray(measurement.sums, dtype="<f8").tobytes()
    if measurement.per_token is None:
        return sums
    return sums + np.ascontiguousarray(measurement.per_token, dtype="<f4").tobytes()


def token_bytes(engine: Engine, request: Request, caller: Caller) -> Reply:
    found = engine.answer(requests.TokenBytes(_int32(request, 1)[:, 0]), caller)
    lengths = np.array([len(one) for one in found], dtype="<i4")
    return {"tokens": len(found)}, lengths.tobytes() + b"".join(found)


def generate(engine: Engine, request: Request, caller: Caller) -> Reply:
    prompts = _texts(request, request.fields["prompt_bytes"])
    return engine.answer(_asked(requests.Generate, request, prompts=prompts), caller), b""


def _generation(generation: Generation) -> Reply:
    made, error = generation.made, generation.error
    event = {
        "type": "generation",
        "condition": generation.condition,
        "prompt": generation.prompt,
        "text": "" if made is None else made.text,
        "stopped": made is not None and made.stopped,
        "seconds": generation.seconds,
        "error": error.to_wire() if error else None,
    }
    return event, b"" if made is None else np.asarray(made.ids, dtype="<i4").tobytes()


def find_direction(engine: Engine, request: Request, caller: Caller) -> Reply:
    positive, negative = request.fields["positive_bytes"], request.fields["negative_bytes"]
    texts, count = _texts(request, [*positive, *negative]), len(positive)
    search = _asked(requests.FindDirection, request, positive=texts[:count], negative=texts[count:])
    result, vectors = engine.answer(search, caller)
    return result, vectors.astype("<f4").tobytes()


def _texts(request: Request, lengths: list[int]) -> list[str]:
    """The payload cut into texts of these lengths in bytes."""
    ends = np.cumsum(lengths, dtype=np.int64).tolist()
    if ends[-1] != len(request.payload):
        raise SparkablateError(
            "invalid_message", f"{request.type}: {len(request.payload)} bytes for texts of {ends[-1]}"
        )
    try:
        return [
            request.payload[end - length : end].decode("utf-8")
            for end, length in zip(ends, lengths, strict=True)
        ]
    except UnicodeDecodeError as error:
        raise SparkablateError("invalid_message", f"{request.type}: a text is not UTF-8: {error}") from error


def _sha256(payload: bytes) -> str:
    return hashlib.sha256(payload).hexdigest()


#: What an engine reports → the event that it becomes.
EVENTS: dict[type[Any], Callable[[Any], Reply]] = {
    Measurement: _measurement,
    SiteSums: _attribution,
    Generation: _generation,
}

HANDLERS: dict[str, Handler] = {
    **{name: _plain(what) for name, what in requests.PLAIN.items()},
    "tokenize": tokenize,
    "tokenize_task": tokenize_task,
    "token_bytes": token_bytes,
    "calibrate": calibrate,
    "put": put,
    "read_direction": read_direction,
    "evaluate": evaluate,
    "attribute": attribute,
    "generate": generate,
    "find_direction": find_direction,
}
