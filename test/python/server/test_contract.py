"""The worker's side of the contract: test/contract/README.md."""

from __future__ import annotations

import copy
import json
import time
from pathlib import Path
from typing import Any

import msgpack
import pytest

from sparkablate.errors import SparkablateError
from sparkablate.server import protocol
from sparkablate.server.handlers import HANDLERS
from sparkablate.server.protocol import InvalidMessage, Request

MESSAGES = Path(__file__).parents[2] / "contract" / "messages"
SCHEMA = json.loads((Path(protocol.__file__).parent / "schema.json").read_text())
#: What the server's loop answers itself; the rest needs a handler.
ANSWERED_BY_LOOP = {"hello", "ping", "cancel", "goodbye", "shutdown"}


def names(kind: str) -> list[str]:
    return sorted(path.stem for path in (MESSAGES / kind).glob("*.json"))


def read(name: str) -> dict[str, Any]:
    return json.loads((MESSAGES / f"{name}.json").read_text())


def changed(message: Any, change: dict[str, Any]) -> Any:
    result = copy.deepcopy(message)
    parent = result
    for key in change["at"][:-1]:
        parent = parent[key]
    last = change["at"][-1]
    if "value" in change:
        parent[last] = change["value"]
    elif "repeat" in change:
        item = change["repeat"]
        parent[last] = (item if isinstance(item, str) else [item]) * change["times"]
    else:
        del parent[last]
    return result


def valid(kind: str) -> list[Any]:
    return [
        pytest.param(name, example, id=f"{name}-{index}")
        for name in names(kind)
        for index, example in enumerate(read(f"{kind}/{name}")["valid"])
    ]


def invalid(kind: str) -> list[Any]:
    return [
        pytest.param(
            name,
            changed(examples["valid"][0]["message"], change),
            id=f"{name}: {change['why']}",
        )
        for name in names(kind)
        for examples in [read(f"{kind}/{name}")]
        for change in examples["invalid"]
    ]


@pytest.mark.parametrize("kind", ["requests", "results", "events"])
def test_every_message_type_has_examples(kind: str) -> None:
    assert names(kind) == sorted(SCHEMA[kind])


def test_every_request_is_answered() -> None:
    assert HANDLERS.keys() | ANSWERED_BY_LOOP == SCHEMA["requests"].keys()
    assert not HANDLERS.keys() & ANSWERED_BY_LOOP


@pytest.mark.parametrize(("name", "example"), valid("requests"))
def test_request_is_read_from_the_controllers_bytes(name: str, example: dict[str, Any]) -> None:
    request = protocol.decode_request([bytes.fromhex(example["msgpack"]), b"payload"])
    assert request.fields == example["message"]
    assert (request.type, request.id, request.payload) == (
        name,
        example["message"]["id"],
        b"payload",
    )


@pytest.mark.parametrize(("name", "message"), invalid("requests"))
def test_request_is_refused(name: str, message: Any) -> None:
    with pytest.raises(InvalidMessage):
        protocol.decode_request([msgpack.packb(message), b""])


@pytest.mark.parametrize(("name", "example"), valid("results"))
def test_result_is_sent_as_these_bytes(name: str, example: dict[str, Any]) -> None:
    request = Request(type=name, id=7, fields={}, payload=b"")
    assert protocol.encode_reply(request, example["message"], b"").hex() == example["msgpack"]


@pytest.mark.parametrize(("name", "message"), invalid("results"))
def test_result_is_not_sent(name: str, message: Any) -> None:
    with pytest.raises(SparkablateError, match=f"result of {name}") as caught:
        protocol.encode_reply(Request(type=name, id=7, fields={}, payload=b""), message, b"")
    assert caught.value.code == "internal"


@pytest.mark.parametrize(("name", "example"), valid("events"))
def test_event_is_sent_as_these_bytes(name: str, example: dict[str, Any]) -> None:
    assert protocol.encode_event(example["message"]).hex() == example["msgpack"]


@pytest.mark.parametrize(
    ("name", "message"),
    [case for case in invalid("events") if "discriminator" not in str(case.id)],
)
def test_event_is_not_sent(name: str, message: Any) -> None:
    with pytest.raises(SparkablateError, match=f"event {name}"):
        protocol.encode_event(message)


@pytest.mark.parametrize("index", range(len(read("failure")["valid"])))
def test_failure_is_sent_as_these_bytes(index: int) -> None:
    example = read("failure")["valid"][index]
    error = SparkablateError(**example["message"]["error"])
    assert protocol.encode_failure(example["message"]["id"], error).hex() == example["msgpack"]


def test_failure_always_fits_the_schema() -> None:
    """Whatever an exception says: too long, or with bytes of a file name that are no text."""
    error = SparkablateError("internal", "m" * 100_000, "d" * 1_000_000 + "\udcff\U0001f600")
    encoded = protocol.encode_failure(None, error)
    assert len(encoded) <= protocol.MAX_ENVELOPE_BYTES
    sent = msgpack.unpackb(encoded)
    assert len(sent["error"]["message"]) == 65_536
    assert sent["error"]["detail"].endswith("d?\U0001f600")


def test_failure_always_fits_the_envelope() -> None:
    error = SparkablateError("internal", "\U0001f600" * 100_000, "\U0001f600" * 300_000 + "the end")
    encoded = protocol.encode_failure(7, error)
    assert len(encoded) <= protocol.MAX_ENVELOPE_BYTES
    assert msgpack.unpackb(encoded)["error"]["detail"].endswith("the end")


def test_envelope_over_the_limit_is_not_sent() -> None:
    event = {**read("events/measurement")["valid"][0]["message"], "flags": ["f" * 4096] * 300}
    with pytest.raises(SparkablateError, match=r"measurement: an envelope of .* over the wire's limit"):
        protocol.encode_event(event)


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf")])
def test_nothing_infinite_is_sent(number: float) -> None:
    request = Request(type="evaluate", id=7, fields={}, payload=b"")
    result = {**read("results/evaluate")["valid"][0]["message"], "seconds": number}
    with pytest.raises(SparkablateError, match="NaN and infinity"):
        protocol.encode_reply(request, result, b"")
    event = {**read("events/progress")["valid"][0]["message"], "done": number}
    with pytest.raises(SparkablateError, match="NaN and infinity"):
        protocol.encode_event(event)


def test_payload_over_the_limit_is_not_sent() -> None:
    request = Request(type="tokenize", id=7, fields={}, payload=b"")
    result = read("results/tokenize")["valid"][0]["message"]
    with pytest.raises(SparkablateError, match="over the wire's limit"):
        protocol.encode_reply(request, result, bytes(protocol.MAX_PAYLOAD_BYTES + 1))


ABUSE = [case for case in json.loads((MESSAGES / "abuse.json").read_text()) if case["to"] != "controller"]


def frames(case: dict[str, Any]) -> list[bytes]:
    first, *rest = case["frames"] or [None]
    raw = [] if first is None else [bytes.fromhex(first) * case.get("times", 1), *map(bytes.fromhex, rest)]
    return [
        frame.ljust(width, b"a") for frame, width in zip(raw, case.get("pad", [0] * len(raw)), strict=True)
    ]


@pytest.mark.parametrize("case", ABUSE, ids=[case["why"] for case in ABUSE])
def test_abuse_is_refused(case: dict[str, Any]) -> None:
    with pytest.raises(InvalidMessage) as caught:
        protocol.decode_request(frames(case))
    assert len(protocol.encode_failure(caught.value.request_id, caught.value)) < 2_000


def test_abuse_is_refused_quickly() -> None:
    began = time.perf_counter()
    for case in ABUSE:
        with pytest.raises(InvalidMessage):
            protocol.decode_request(frames(case))
    assert time.perf_counter() - began < 5


def test_request_id_is_told_where_it_can_be_read() -> None:
    with pytest.raises(InvalidMessage) as caught:
        protocol.decode_request([msgpack.packb({"type": "ping", "id": 12}), b""])
    assert caught.value.request_id == 12


def test_largest_slice_is_read_well_within_a_sessions_silence() -> None:
    """256 conditions that fill the envelope with as many interventions as can be."""
    interventions = [{"kind": "layer", "layer": 0, "mode": "skip"}] * 130
    message = {
        **read("requests/evaluate")["valid"][0]["message"],
        "conditions": [{"id": f"c{index}", "interventions": interventions} for index in range(256)],
    }
    envelope = msgpack.packb(message)
    assert protocol.MAX_ENVELOPE_BYTES * 0.8 < len(envelope) <= protocol.MAX_ENVELOPE_BYTES
    began = time.perf_counter()
    protocol.decode_request([envelope, b""])
    seconds = time.perf_counter() - began
    print(f"largest slice: {len(envelope)} bytes read in {seconds:.2f} s")
    assert seconds < 10
