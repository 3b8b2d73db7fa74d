"""★ Table: request type → what the engine does for it. No state of its own; runs on the compute thread."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from itertools import chain
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from sparkablate.directions.files import unpickle_direction
from sparkablate.engines.local import Generation, Measurement
from sparkablate.errors import SparkablateError
from sparkablate.server.protocol import Message, Request

if TYPE_CHECKING:
    from sparkablate.engines import Engine

Reply = tuple[Message, bytes]


class Context(Protocol):
    """What a handler may do besides returning: send events, and see whether it was cancelled."""

    def send(self, event: Message, payload: bytes = b"") -> None: ...

    def cancelled(self) -> bool: ...


def _progress(request: Request, context: Context) -> Callable[[str, float, float | None, str], None]:
    def progress(stage: str, done: float, total: float | None, unit: str) -> None:
        context.send(
            {"type": "progress", "id": request.id, "stage": stage, "done": done, "total": total, "unit": unit}
        )

    return progress


def _int32(request: Request, width: int) -> np.ndarray:
    """The payload as token ids, int32 [blocks, width]."""
    if len(request.payload) == 0 or len(request.payload) % (4 * width) != 0:
        raise SparkablateError(
            "invalid_message",
            f"{request.type}: {len(request.payload)} bytes are no blocks of {width} int32 ids",
        )
    return np.frombuffer(request.payload, dtype="<i4").reshape(-1, width)


def load(engine: Engine, request: Request, context: Context) -> Reply:
    fields = request.fields
    progress = _progress(request, context)
    result = engine.load(
        fields["model"], fields["seq_len"], fields["batch_size"], progress, fields["may_offload"]
    )
    return result, b""


def inspect(engine: Engine, request: Request, context: Context) -> Reply:
    fields = request.fields
    return engine.inspect(fields["model"], fields["meta"], _progress(request, context)), b""


def tokenize(engine: Engine, request: Request, context: Context) -> Reply:
    fields = request.fields
    text = None
    if fields["dataset"] is None:
        try:
            text = request.payload.decode("utf-8")
        except UnicodeDecodeError as error:
            raise SparkablateError("invalid_message", f"tokenize: the text is not UTF-8: {error}") from error
    progress = _progress(request, context)
    ids, truncated, notices = engine.tokenize(text, fields["dataset"], fields["max_tokens"], progress)
    shown = [notice[:4096] for notice in notices]
    return {"tokens": len(ids), "truncated": truncated, "notices": shown}, ids.astype("<i4").tobytes()


def tokenize_task(engine: Engine, request: Request, context: Context) -> Reply:
    fields = request.fields
    items = _items(request)
    encoded, notices = engine.tokenize_task(
        items, fields["name"], fields["max_tokens"], _progress(request, context)
    )
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


def calibrate(engine: Engine, request: Request, context: Context) -> Reply:
    fields = request.fields
    lengths = fields["lengths"]
    ids = _int32(request, fields["seq_len"] if lengths is None else 1)
    if lengths is not None and sum(lengths) != len(ids):
        raise SparkablateError(
            "invalid_message", f"calibrate: {len(ids)} ids for rows of {sum(lengths)} in all"
        )
    rows = list(ids) if lengths is None else np.split(ids[:, 0], np.cumsum(lengths[:-1], dtype=np.int64))
    progress = _progress(request, context)
    sites, values = engine.calibrate(rows, fields["batch_size"], fields["sites"], progress)
    payload = values.astype("<f4").tobytes()
    return {"sites": sites, "sha256": _sha256(payload), "tokens": int(ids.size)}, payload


def put(engine: Engine, request: Request, context: Context) -> Reply:
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
        engine.put_means(digest, fields["sites"], values)
    else:
        engine.put_direction(digest, values, fields["norm"])
    return {}, b""


def read_direction(engine: Engine, request: Request, context: Context) -> Reply:
    vector, norm, layer = unpickle_direction(request.payload)
    return {"norm": norm, "layer": layer}, vector.numpy().astype("<f4").tobytes()


def evaluate(engine: Engine, request: Request, context: Context) -> Reply:
    fields = request.fields
    rows = _int32(request, fields["seq_len"])
    blocks, modes = len(fields["blocks"]), fields["sources"]
    if len(rows) != blocks * (1 + len(modes)):
        raise SparkablateError(
            "invalid_message",
            f"evaluate: {blocks} block indices and {len(modes)} sources, but {len(rows)} blocks of ids",
        )
    ids, *given = np.split(rows, 1 + len(modes))

    def on_measurement(measurement: Measurement) -> None:
        error = measurement.error
        context.send(
            {
                "type": "measurement",
                "id": request.id,
                "condition": measurement.condition,
                "columns": [] if error else list(measurement.columns),
                "tokens": measurement.tokens,
                "seconds": measurement.seconds,
                "flags": list(measurement.flags),
                "error": error.to_wire() if error else None,
            },
            b"" if error else _values(measurement),
        )

    summary = engine.evaluate(
        ids,
        fields["conditions"],
        fields["metrics"],
        fields["means_sha256"],
        on_measurement,
        context.cancelled,
        _progress(request, context),
        fields["answers"],
        fields.get("per_token", False),
        dict(zip(modes, given, strict=True)),
    )
    result: dict[str, Any] = {
        "measured": summary.measured,
        "failed": summary.failed,
        "cancelled": summary.cancelled,
        "seconds": summary.seconds,
        "slots": engine.slots,
        "notices": list(summary.notices),
    }
    return result, b""


def _values(measurement: Measurement) -> bytes:
    """The sums as float64, then what was kept a token as float32."""
    sums = np.ascontiguousarray(measurement.sums, dtype="<f8").tobytes()
    if measurement.per_token is None:
        return sums
    return sums + np.ascontiguousarray(measurement.per_token, dtype="<f4").tobytes()


def token_bytes(engine: Engine, request: Request, context: Context) -> Reply:
    found = engine.token_bytes(_int32(request, 1)[:, 0])
    lengths = np.array([len(one) for one in found], dtype="<i4")
    return {"tokens": len(found)}, lengths.tobytes() + b"".join(found)


def generate(engine: Engine, request: Request, context: Context) -> Reply:
    fields = request.fields

    def on_generation(generation: Generation) -> None:
        made, error = generation.made, generation.error
        context.send(
            {
                "type": "generation",
                "id": request.id,
                "condition": generation.condition,
                "prompt": generation.prompt,
                "text": "" if made is None else made.text,
                "stopped": made is not None and made.stopped,
                "seconds": generation.seconds,
                "error": error.to_wire() if error else None,
            },
            b"" if made is None else np.asarray(made.ids, dtype="<i4").tobytes(),
        )

    result = engine.generate(
        _texts(request, fields["prompt_bytes"]),
        fields["conditions"],
        fields["max_new_tokens"],
        fields["template_date"],
        fields["means_sha256"],
        on_generation,
        context.cancelled,
        _progress(request, context),
    )
    return result, b""


def find_direction(engine: Engine, request: Request, context: Context) -> Reply:
    fields = request.fields
    positive, negative = fields["positive_bytes"], fields["negative_bytes"]
    texts = _texts(request, [*positive, *negative])
    result, vectors = engine.find_direction(
        texts[: len(positive)],
        texts[len(positive) :],
        fields,
        context.cancelled,
        _progress(request, context),
    )
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


def check_bake(engine: Engine, request: Request, context: Context) -> Reply:
    fields = request.fields
    engine.check_bake(
        fields["model"],
        fields["condition"],
        fields["out"],
        fields["dtype"],
        fields["prune_layers"],
        fields["force"],
    )
    return {}, b""


def bake(engine: Engine, request: Request, context: Context) -> Reply:
    fields = request.fields

    def stop() -> None:
        if context.cancelled():
            raise SparkablateError("interrupted", f"interrupted; {fields['out']} was not written")

    result = engine.bake(
        fields["condition"],
        fields["out"],
        fields["dtype"],
        fields["prune_layers"],
        fields["force"],
        fields["means_sha256"],
        _progress(request, context),
        stop,
    )
    return result, b""


def _sha256(payload: bytes) -> str:
    return hashlib.sha256(payload).hexdigest()


HANDLERS: dict[str, Callable[[Engine, Request, Context], Reply]] = {
    "load": load,
    "inspect": inspect,
    "tokenize": tokenize,
    "tokenize_task": tokenize_task,
    "token_bytes": token_bytes,
    "calibrate": calibrate,
    "put": put,
    "read_direction": read_direction,
    "evaluate": evaluate,
    "generate": generate,
    "find_direction": find_direction,
    "check_bake": check_bake,
    "bake": bake,
}
