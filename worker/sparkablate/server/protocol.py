"""Frames to validated messages and back. The schema is generated from ``src/protocol.ts``."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jsonschema
import msgpack

from sparkablate.errors import SparkablateError

Message = dict[str, Any]

_SCHEMA_BYTES = (Path(__file__).parent / "schema.json").read_bytes()
_SCHEMA = json.loads(_SCHEMA_BYTES)
SCHEMA_SHA256 = hashlib.sha256(_SCHEMA_BYTES).hexdigest()
MAX_ENVELOPE_BYTES: int = _SCHEMA["max_envelope_bytes"]
MAX_PAYLOAD_BYTES: int = _SCHEMA["max_payload_bytes"]
#: Arrays and maps nested deeper than this are refused; the deepest valid message has six levels.
MAX_DEPTH = 16

_REQUESTS = {name: jsonschema.Draft202012Validator(schema) for name, schema in _SCHEMA["requests"].items()}
_RESULTS = {name: jsonschema.Draft202012Validator(schema) for name, schema in _SCHEMA["results"].items()}
_EVENTS = {name: jsonschema.Draft202012Validator(schema) for name, schema in _SCHEMA["events"].items()}


@dataclass(frozen=True)
class Request:
    """One validated request: ``fields`` is the envelope, ``payload`` the raw second frame."""

    type: str
    id: int
    fields: Message
    payload: bytes


class InvalidMessage(SparkablateError):
    """A frame that is no valid request. ``request_id`` is its id where one could be read."""

    def __init__(self, message: str, request_id: int | None = None) -> None:
        super().__init__("invalid_message", message)
        self.request_id = request_id


def decode_request(frames: list[bytes]) -> Request:
    """Raises ``InvalidMessage``: wrong frame count, too long, not msgpack, not in the schema."""
    if len(frames) != 2:
        raise InvalidMessage(f"a message has 2 frames, this one has {len(frames)}")
    envelope, payload = frames
    if len(envelope) > MAX_ENVELOPE_BYTES or len(payload) > MAX_PAYLOAD_BYTES:
        raise InvalidMessage(
            f"frames of {len(envelope)} and {len(payload)} bytes; allowed are {MAX_ENVELOPE_BYTES} and {MAX_PAYLOAD_BYTES}"
        )
    try:
        fields = msgpack.unpackb(
            envelope,
            raw=False,
            strict_map_key=True,
            object_pairs_hook=_unique_keys,
            ext_hook=_refuse_extension,
            max_str_len=MAX_ENVELOPE_BYTES,
            max_bin_len=0,
            max_ext_len=0,
        )
    except InvalidMessage:
        raise
    except (ValueError, TypeError, RecursionError, msgpack.UnpackException) as error:
        raise InvalidMessage(f"the envelope is not valid msgpack: {error}") from error
    if not isinstance(fields, dict):
        raise InvalidMessage("the envelope is not a map")
    request_id = fields.get("id")
    if type(request_id) is not int or not 0 <= request_id <= 2**31:
        request_id = None
    _refuse_non_finite(fields, request_id)
    kind = fields.get("type")
    validator = _REQUESTS.get(kind) if isinstance(kind, str) else None
    if validator is None:
        raise InvalidMessage(f"unknown request type {kind!r:.80}; known: {', '.join(_REQUESTS)}", request_id)
    problem = next(iter(validator.iter_errors(fields)), None)
    if problem is not None:
        where = "/".join(str(part) for part in problem.absolute_path) or "the envelope"
        raise InvalidMessage(f"{kind}: {where}: {problem.message:.500}", request_id)
    assert request_id is not None  # the schema demands it
    return Request(type=str(kind), id=request_id, fields=fields, payload=payload)


def encode_reply(request: Request, result: Message, payload: bytes) -> bytes:
    """The reply's envelope; an engine that returns what the schema or the wire forbids is our bug, said here."""
    if len(payload) > MAX_PAYLOAD_BYTES:
        raise SparkablateError("internal", f"{request.type}: {len(payload)} bytes are over the wire's limit")
    _check(_RESULTS[request.type], result, f"result of {request.type}")
    return _pack({"type": "reply", "id": request.id, "result": result})


def encode_event(event: Message) -> bytes:
    """The envelope of a ``progress``, ``measurement`` or ``log`` event."""
    _check(_EVENTS[event["type"]], event, f"event {event['type']}")
    return _pack(event)


def encode_failure(request_id: int | None, error: SparkablateError) -> bytes:
    return _pack({"type": "failure", "id": request_id, "error": error.to_wire()})


def _pack(message: Message) -> bytes:
    return msgpack.packb(message, use_bin_type=True)


def _check(validator: jsonschema.Draft202012Validator, message: Message, what: str) -> None:
    problem = next(iter(validator.iter_errors(message)), None)
    if problem is not None:
        where = "/".join(str(part) for part in problem.absolute_path)
        raise SparkablateError("internal", f"{what}: {where}: {problem.message:.500}")


def _unique_keys(pairs: list[tuple[Any, Any]]) -> Message:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise InvalidMessage("a map has the same key twice")
    return fields


def _refuse_extension(code: int, data: bytes) -> Any:
    raise InvalidMessage(f"msgpack extension type {code} is not allowed")


def _refuse_non_finite(value: Any, request_id: int | None, depth: int = 0) -> None:
    if depth > MAX_DEPTH:
        raise InvalidMessage(f"nested deeper than {MAX_DEPTH} levels", request_id)
    if isinstance(value, float) and not math.isfinite(value):
        raise InvalidMessage("NaN and infinity are not allowed", request_id)
    children = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    for child in children:
        _refuse_non_finite(child, request_id, depth + 1)
