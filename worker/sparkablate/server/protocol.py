"""Frames to validated messages and back. The schema is generated from ``src/protocol/messages.ts``."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jsonschema
import msgpack

from sparkablate.catalog import LIMITS, is_own
from sparkablate.errors import SparkablateError

Message = dict[str, Any]

_SCHEMA_BYTES = (Path(__file__).parent / "schema.json").read_bytes()
_SCHEMA = json.loads(_SCHEMA_BYTES)
SCHEMA_SHA256 = hashlib.sha256(_SCHEMA_BYTES).hexdigest()
MAX_ENVELOPE_BYTES = LIMITS["envelope_bytes"]
MAX_PAYLOAD_BYTES = LIMITS["payload_bytes"]
#: No hello is as long as this; who has not said hello is read no further.
MAX_HELLO_BYTES = 16_384
#: Longer than any request's type, key or session id.
_MAX_HEAD_TEXT = 64
#: Arrays and maps nested deeper than this are refused; the deepest valid message has six levels.
MAX_DEPTH = 16


def _one_of(validator: Any, branches: list[Message], instance: Any, _: Message) -> Iterator[Any]:
    """Every ``oneOf`` of ours is a union on ``kind``: the branch of that kind alone is looked at, which names
    the key that is wrong, and reads a slice of thousands of interventions in seconds."""
    kind = instance.get("kind") if isinstance(instance, dict) else None
    for branch in branches:
        if branch["properties"]["kind"]["const"] == kind:
            yield from validator.descend(instance, branch)
            return
    own = ": only the Python process that registered it knows it" if is_own(str(kind)) else ""
    yield jsonschema.ValidationError(f"{kind!r:.80} is no known kind{own}")


_Validator = jsonschema.validators.extend(
    jsonschema.Draft202012Validator,
    {"oneOf": _one_of},
    # JSON Schema calls 2.0 an integer; an engine that is given a float for a count does not.
    type_checker=jsonschema.Draft202012Validator.TYPE_CHECKER.redefine(
        "integer", lambda _, value: type(value) is int
    ),
)
_REQUESTS = {name: _Validator(schema) for name, schema in _SCHEMA["requests"].items()}
_RESULTS = {name: _Validator(schema) for name, schema in _SCHEMA["results"].items()}
_EVENTS = {name: _Validator(schema) for name, schema in _SCHEMA["events"].items()}


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


@dataclass(frozen=True)
class Head:
    """Who asks for what: read without looking at the rest, since not everybody may have it looked at."""

    type: str
    id: int | None
    session: str


def check_frames(sizes: list[int]) -> None:
    """Raises ``InvalidMessage`` for a wrong number of frames, and for any that is too long."""
    if len(sizes) != 2:
        raise InvalidMessage(f"a message has 2 frames, this one has {len(sizes)}")
    envelope, payload = sizes
    if envelope > MAX_ENVELOPE_BYTES or payload > MAX_PAYLOAD_BYTES:
        raise InvalidMessage(
            f"frames of {envelope} and {payload} bytes; allowed: {MAX_ENVELOPE_BYTES} and {MAX_PAYLOAD_BYTES}"
        )


def read_head(envelope: bytes | memoryview) -> Head:
    """Raises ``InvalidMessage`` where there is none; what else is wrong with it is not looked at."""
    unpacker = msgpack.Unpacker(
        raw=False,
        max_buffer_size=MAX_ENVELOPE_BYTES,
        max_str_len=_MAX_HEAD_TEXT,
        max_bin_len=0,
        max_array_len=0,
        max_map_len=0,
        max_ext_len=0,
    )
    unpacker.feed(envelope)
    found: Message = {}
    try:
        for _ in range(unpacker.read_map_header()):
            key = unpacker.unpack()
            if key in ("type", "id", "session"):
                found[key] = unpacker.unpack()
            else:
                unpacker.skip()
            if len(found) == 3:
                break
    except (ValueError, TypeError, msgpack.UnpackException) as error:
        raise InvalidMessage(f"the envelope is not valid msgpack: {error}", _id_of(found)) from error
    kind, session, request_id = found.get("type"), found.get("session"), _id_of(found)
    if not isinstance(kind, str) or kind not in _REQUESTS:
        raise InvalidMessage(f"unknown request type {kind!r:.80}; known: {', '.join(_REQUESTS)}", request_id)
    if kind != "hello" and not isinstance(session, str):
        raise InvalidMessage(f"{kind}: session: {session!r:.80} is no session's id", request_id)
    return Head(kind, request_id, session or "")


def _id_of(fields: Message) -> int | None:
    request_id = fields.get("id")
    return request_id if type(request_id) is int and 0 <= request_id <= 2**31 else None


def decode_request(frames: list[bytes]) -> Request:
    """Raises ``InvalidMessage``: wrong frame count, too long, not msgpack, not in the schema."""
    check_frames([len(frame) for frame in frames])
    envelope, payload = frames
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
    request_id = _id_of(fields)
    if wrong := _not_plain(fields):
        raise InvalidMessage(wrong, request_id)
    kind = fields.get("type")
    validator = _REQUESTS.get(kind) if isinstance(kind, str) else None
    if validator is None:
        raise InvalidMessage(f"unknown request type {kind!r:.80}; known: {', '.join(_REQUESTS)}", request_id)
    if wrong := _not_valid(validator, fields):
        raise InvalidMessage(f"{kind}: {wrong}", request_id)
    assert request_id is not None  # the schema demands it
    return Request(type=str(kind), id=request_id, fields=fields, payload=payload)


def encode_reply(request: Request, result: Message, payload: bytes) -> bytes:
    """The reply's envelope. Raises ``internal`` where an engine gives what schema or wire forbid."""
    if len(payload) > MAX_PAYLOAD_BYTES:
        raise SparkablateError("internal", f"{request.type}: {len(payload)} bytes are over the wire's limit")
    _check(_RESULTS[request.type], result, f"result of {request.type}")
    return _pack({"type": "reply", "id": request.id, "result": result})


def encode_event(event: Message) -> bytes:
    """The envelope of a ``progress``, ``measurement`` or ``log`` event."""
    _check(_EVENTS[event["type"]], event, f"event {event['type']}")
    return _pack(event)


def encode_failure(request_id: int | None, error: SparkablateError) -> bytes:
    wired: Message = {**error.to_wire()}
    failure = {"type": "failure", "id": request_id, "error": wired}
    try:
        return _pack(failure)
    except SparkablateError:
        # Within the schema's characters, but not within the envelope's bytes: the end says what happened.
        wired["detail"] = wired["detail"][-(MAX_ENVELOPE_BYTES // 16) :]
        return _pack(failure)


def _pack(message: Message) -> bytes:
    # A file name in an error's text may hold bytes that are no text.
    envelope: bytes = msgpack.packb(message, use_bin_type=True, unicode_errors="replace")
    if len(envelope) > MAX_ENVELOPE_BYTES:
        raise SparkablateError(
            "internal", f"{message['type']}: an envelope of {len(envelope)} bytes is over the wire's limit"
        )
    return envelope


def _check(validator: Any, message: Message, what: str) -> None:
    if wrong := _not_plain(message) or _not_valid(validator, message):
        raise SparkablateError("internal", f"{what}: {wrong}")


def _not_valid(validator: Any, message: Message) -> str | None:
    """Where the message breaks the schema, and how."""
    problem = next(iter(validator.iter_errors(message)), None)
    if problem is None:
        return None
    where = "/".join(str(part) for part in problem.absolute_path) or "the envelope"
    return f"{where}: {problem.message:.500}"


def _unique_keys(pairs: list[tuple[Any, Any]]) -> Message:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise InvalidMessage("a map has the same key twice")
    return fields


def _refuse_extension(code: int, data: bytes) -> Any:
    raise InvalidMessage(f"msgpack extension type {code} is not allowed")


def _not_plain(value: Any, depth: int = 0) -> str | None:
    """What keeps a message off the wire whatever its schema: non-finite numbers and deep nesting."""
    if depth > MAX_DEPTH:
        return f"nested deeper than {MAX_DEPTH} levels"
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN and infinity are not allowed"
    children = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return next((wrong for child in children if (wrong := _not_plain(child, depth + 1))), None)
