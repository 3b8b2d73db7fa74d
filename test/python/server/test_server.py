"""A real worker process over real sockets, with a tiny model."""

from __future__ import annotations

import os
import select
import signal
import socket
import stat
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import pytest
import torch
from model_directory import model_config
from peer import PATIENCE_S, Failed, Peer, Worker

from sparkablate.engines.local import LocalEngine
from sparkablate.errors import SparkablateError
from sparkablate.server import protocol
from sparkablate.server.loop import Server
from sparkablate.server.protocol import SCHEMA_SHA256

SEQ_LEN, BLOCKS = 64, 4
Connect = Callable[..., Peer]
Start = Callable[..., Worker]
ANSWER = {"begin": 1, "end": 2, "wrong": None}
ATTRIBUTED = {
    "seq_len": SEQ_LEN,
    "blocks": BLOCKS,
    "answers": None,
    "donors": [],
    "conditions": [],
    "sites": [],
    "metric": "nll",
    "means_sha256": None,
}
BASELINE = {"id": "baseline", "interventions": []}


def head(layer: int, index: int) -> dict[str, Any]:
    return {"kind": "head", "layer": layer, "heads": [index], "mode": "zero", "positions": "all"}


HEADS = [
    {"id": f"L{layer}.head.{index}", "interventions": [head(layer, index)]}
    for layer in range(8)
    for index in range(4)
]
MORE_HEADS = [{**condition, "id": f"{condition['id']} again"} for condition in HEADS]


def load(peer: Peer, model: Path, seq_len: int = SEQ_LEN, may_offload: bool = False) -> int:
    return peer.send(
        "load", model=model_config(model), seq_len=seq_len, batch_size=BLOCKS, may_offload=may_offload
    )


def ids(seed: int = 0, blocks: int = BLOCKS, seq_len: int = SEQ_LEN) -> bytes:
    return np.random.default_rng(seed).integers(2, 258, (blocks, seq_len)).astype("<i4").tobytes()


def evaluate(
    peer: Peer, conditions: list[dict[str, Any]], payload: bytes | None = None, **changes: Any
) -> int:
    fields = {
        "seq_len": SEQ_LEN,
        "blocks": list(range(BLOCKS)),
        "answers": None,
        "donors": [],
        "metrics": ["nll"],
        "means_sha256": None,
    }
    fields.update(changes)
    return peer.send("evaluate", ids() if payload is None else payload, conditions=conditions, **fields)


def ready(peer: Peer, model: Path, run_id: str = "run a") -> Peer:
    peer.hello(run_id)
    message, _ = peer.outcome(load(peer, model))[-1]
    assert message["type"] == "reply", message
    return peer


def is_measurement(message: dict[str, Any]) -> bool:
    return message["type"] == "measurement"


def test_hello_load_tokenize_evaluate_goodbye(connect: Connect, model: Path) -> None:
    peer = connect()
    greeting = peer.hello()
    assert greeting["slots"] == 1
    assert greeting["mounts"] == []
    assert {"torch", "transformers", "pyzmq", "msgpack"} <= greeting["versions"].keys()
    come = peer.outcome(load(peer, model))
    stages = {message["stage"] for message, _ in come if message["type"] == "progress"}
    assert {"load", "self-test", "check"} <= stages
    loaded = come[-1][0]["result"]
    assert (loaded["model_map"]["n_layers"], loaded["numerics"]["threads"], loaded["reused"]) == (8, 1, False)

    tokenized, payload = peer.call("tokenize", b"hello", dataset=None, max_tokens=3)
    assert tokenized == {"tokens": 3, "truncated": True, "notices": []}
    assert len(np.frombuffer(payload, "<i4")) == 3

    come = peer.outcome(evaluate(peer, [BASELINE, *HEADS[:3]]))
    measured = [(message, payload) for message, payload in come if is_measurement(message)]
    assert {message["condition"] for message, _ in measured} == {"baseline", *(c["id"] for c in HEADS[:3])}
    for message, payload in measured:
        assert (message["columns"], message["tokens"], message["error"]) == (["nll"], SEQ_LEN - 1, None)
        sums = np.frombuffer(payload, "<f8")
        assert sums.shape == (BLOCKS,)
        assert np.isfinite(sums).all()
    assert len({payload for _, payload in measured}) == 4
    reply, payload = come[-1]
    assert payload == b""
    assert reply["result"].items() >= {"measured": 4, "failed": 0, "cancelled": False}.items()

    assert peer.call("goodbye") == ({}, b"")
    with pytest.raises(Failed) as caught:
        peer.call("ping")
    assert caught.value.code == "session_lost"
    other = connect()
    assert other.hello("run b")["model"] == str(model)
    come = other.outcome(load(other, model))
    assert come[-1][0]["result"]["reused"] is True
    other.call("goodbye")


def test_values_a_token_are_what_the_sums_are_made_of(connect: Connect, model: Path) -> None:
    peer = ready(connect(), model)

    def measured(conditions: list[dict[str, Any]], **changes: Any) -> dict[str, bytes]:
        come = peer.outcome(evaluate(peer, conditions, **changes))
        return {message["condition"]: payload for message, payload in come if is_measurement(message)}

    everything = [BASELINE, *HEADS]
    plain = measured(everything)
    # Another selection of conditions leaves the walk at other places.
    for conditions in (everything, [BASELINE, HEADS[-1]]):
        detailed = measured(conditions, per_token=True)
        for condition in conditions:
            payload = detailed[condition["id"]]
            sums = np.frombuffer(payload, "<f8", BLOCKS)
            values = np.frombuffer(payload, "<f4", offset=8 * BLOCKS).reshape(BLOCKS, SEQ_LEN - 1)
            assert sums.tobytes() == plain[condition["id"]]
            assert torch.equal(
                torch.from_numpy(values.copy()).double().sum(dim=1),
                torch.from_numpy(sums.copy()),
            )
    answers = [{"begin": 5 + row, "end": 8 + 2 * row, "wrong": None} for row in range(BLOCKS)]
    of_items = measured([BASELINE], answers=answers, per_token=True, metrics=["accuracy", "nll"])["baseline"]
    _, means = np.frombuffer(of_items, "<f8", 2 * BLOCKS).reshape(2, BLOCKS)
    values = np.frombuffer(of_items, "<f4", offset=16 * BLOCKS).reshape(BLOCKS, SEQ_LEN - 1)
    whole = np.frombuffer(detailed["baseline"], "<f4", offset=8 * BLOCKS).reshape(BLOCKS, SEQ_LEN - 1)
    for row, answer in enumerate(answers):
        scored = slice(answer["begin"] - 1, answer["end"] - 1)
        assert values[row, scored].tobytes() == whole[row, scored].tobytes()
        assert np.delete(values[row], np.r_[scored]).max() == 0
        assert means[row] == pytest.approx(whole[row, scored].astype("f8").mean(), rel=1e-15)
    peer.call("goodbye")


def test_attributions_come_a_layer_at_a_time_and_a_row_a_condition(connect: Connect, model: Path) -> None:
    peer = ready(connect(), model)
    neurons = {"kind": "neuron", "mode": "zero", "positions": "all"}
    fields = {**ATTRIBUTED, "conditions": HEADS[:3], "sites": [neurons]}
    *events, (reply, payload) = peer.outcome(peer.send("attribute", ids(), **fields))
    sums = {
        message["layer"]: np.frombuffer(part, "<f8")
        for message, part in events
        if message["type"] == "attribution"
    }
    assert sums.keys() == set(range(8))
    assert all(np.isfinite(values).all() and values.any() for values in sums.values())
    assert reply["result"]["conditions"] == 3
    values = np.frombuffer(payload, "<f8").reshape(3, BLOCKS)
    assert np.isfinite(values).all()
    assert values.all()
    peer.call("goodbye")


def test_tokens_come_as_the_bytes_of_the_text(connect: Connect, model: Path) -> None:
    peer = ready(connect(), model)
    text = "naïve “quotes”\n".encode()
    _, tokens = peer.call("tokenize", text, dataset=None, max_tokens=100)
    result, payload = peer.call("token_bytes", tokens)
    lengths = np.frombuffer(payload, "<i4", result["tokens"])
    assert payload[lengths.nbytes :] == text
    assert lengths.tolist() == [1] * len(text)
    peer.call("goodbye")


def test_requests_without_a_session_or_of_another_schema_are_refused(connect: Connect) -> None:
    peer = connect()
    peer.session = "0" * 32
    with pytest.raises(Failed) as caught:
        peer.call("ping")
    assert caught.value.code == "session_lost"
    with pytest.raises(Failed) as caught:
        peer.hello(schema_sha256="0" * 64)
    assert caught.value.code == "protocol_mismatch"
    assert "0" * 12 in caught.value.message


def test_who_has_no_session_gets_no_more_than_that_read(connect: Connect) -> None:
    """A body that breaks the schema is found only in a session: strangers' megabytes are not looked at."""
    holder, stranger = connect(), connect()
    holder.hello()
    for session in ("0" * 32, holder.session):
        stranger.session = session
        with pytest.raises(Failed) as caught:
            stranger.call("evaluate", b"x" * (1 << 20), nonsense=["y" * 1000] * 500)
        assert caught.value.code == "session_lost"
    with pytest.raises(Failed) as caught:
        holder.call("evaluate", nonsense=1)
    assert caught.value.code == "session_lost", "its session came over another connection, and ended"
    holder.hello()
    with pytest.raises(Failed) as caught:
        holder.call("evaluate", nonsense=1)
    assert caught.value.code == "invalid_message"
    owner = {"run_id": "x", "pid": 1, "host": "h"}
    for payload, more in ((b"x", {}), (b"", {"more": "y" * protocol.MAX_HELLO_BYTES})):
        with pytest.raises(Failed, match="hello: more than") as caught:
            stranger.call("hello", payload, schema_sha256="0" * 64, owner=owner, **more)
    holder.call("goodbye")


def test_a_message_of_thousands_of_frames_is_refused_and_the_session_works_on(connect: Connect) -> None:
    holder, stranger = connect(), connect()
    holder.hello()
    stranger.socket.send_multipart([b"x" * 10_000] * 3_000)
    refused, _ = stranger.until(lambda message: True)[-1]
    assert refused["error"]["message"] == "a message has 2 frames, this one has 3000"
    assert holder.call("ping") == ({}, b"")
    holder.call("goodbye")


def test_cancel_is_seen_between_conditions(connect: Connect, model: Path) -> None:
    peer = ready(connect(), model)
    request = evaluate(peer, [BASELINE, *HEADS])
    peer.until(is_measurement)
    cancel = peer.send("cancel", target=request)
    come = peer.outcome(request)
    assert cancel in [message["id"] for message, _ in come if message["type"] == "reply"]
    result = come[-1][0]["result"]
    assert result["cancelled"] is True
    assert 1 <= result["measured"] < len(HEADS)
    # A cancel of what is not there is answered too, and the next slice is not cancelled by the old one.
    assert peer.call("cancel", target=request) == ({}, b"")
    result = peer.outcome(evaluate(peer, HEADS[:2]))[-1][0]["result"]
    assert (result["measured"], result["cancelled"]) == (2, False)
    peer.call("goodbye")


def test_one_request_more_than_the_slots_may_wait_and_no_more(connect: Connect, model: Path) -> None:
    peer = ready(connect(), model)
    first, second, third = (evaluate(peer, [BASELINE, *HEADS]) for _ in range(3))
    refused = peer.outcome(third)[-1][0]
    assert refused["type"] == "failure"
    assert refused["error"]["code"] == "invalid_message"
    assert "more than 2 requests in flight" in refused["error"]["message"]
    peer.send("cancel", target=first)
    come = peer.outcome(second)
    order = [message["id"] for message, _ in come if is_measurement(message)]
    assert order == sorted(order), "a slice's measurements come before the next one's"
    assert come[-1][0]["result"]["measured"] == 1 + len(HEADS)
    peer.call("goodbye")


def test_a_request_id_that_is_in_use_is_refused(connect: Connect, model: Path) -> None:
    peer = ready(connect(), model)
    request = evaluate(peer, [BASELINE, *HEADS])
    again = {"type": "tokenize", "id": request, "session": peer.session, "dataset": None, "max_tokens": 1}
    peer.socket.send_multipart([msgpack.packb(again), b"x"])
    come = peer.until(lambda message: message["type"] == "failure")
    assert come[-1][0]["error"]["message"] == f"request id {request} is in use"
    assert peer.outcome(request)[-1][0]["result"]["measured"] == 1 + len(HEADS)
    peer.call("goodbye")


def test_ping_is_answered_during_a_long_load(connect: Connect, model: Path) -> None:
    peer = connect()
    peer.hello()
    # Another shape than before, so that the load has work to do.
    request = load(peer, model, seq_len=SEQ_LEN + 1)
    pings = [peer.send("ping") for _ in range(3)]
    come = [message for message, _ in peer.outcome(request)]
    answered = [message["id"] for message in come if message["type"] == "reply"]
    assert answered == [*pings, request]
    peer.call("goodbye")


def test_take_over_and_busy(connect: Connect, model: Path) -> None:
    old = ready(connect(), model, "run a")
    evaluate(old, [BASELINE, *HEADS, *MORE_HEADS])
    old.until(is_measurement)
    stranger = connect()
    with pytest.raises(Failed) as caught:
        stranger.hello("run b")
    assert caught.value.code == "worker_busy"
    assert f"run a (pid {os.getpid()} on here)" in caught.value.message
    new = connect()
    new.hello("run a")
    # The abandoned slice ends between conditions; then the new session's work begins.
    result = new.outcome(evaluate(new, [BASELINE]))[-1][0]["result"]
    assert result["measured"] == 1
    with pytest.raises(Failed) as caught:
        old.call("ping")
    assert caught.value.code == "session_lost"
    # Whatever had been sent before the take-over has come by now; nothing of the old slice comes after it.
    assert old.receive(0.5) is None
    new.call("goodbye")


def test_nothing_of_an_abandoned_session_is_sent(connect: Connect, model: Path) -> None:
    """Also over the same connection, where an old request's id could be taken for a new one's."""
    peer = ready(connect(), model)
    evaluate(peer, [BASELINE, *HEADS, *MORE_HEADS])
    peer.until(is_measurement)
    hello = peer.send("hello", **hello_fields())
    greeting = peer.outcome(hello)[-1][0]["result"]
    peer.session = greeting["session"]
    result = peer.outcome(evaluate(peer, [BASELINE]))
    assert [message["condition"] for message, _ in result if is_measurement(message)] == ["baseline"]
    peer.call("goodbye")
    assert peer.receive(0.5) is None


def hello_fields() -> dict[str, Any]:
    return {"schema_sha256": SCHEMA_SHA256, "owner": {"run_id": "run a", "pid": os.getpid(), "host": "here"}}


def test_a_controller_that_vanished_leaves_the_worker_to_the_next_one(connect: Connect, model: Path) -> None:
    """Its session ends when a measurement cannot be delivered, long before the silence of 30 s."""
    gone = ready(connect(), model, "run a")
    evaluate(gone, [BASELINE, *HEADS, *MORE_HEADS])
    gone.until(is_measurement)
    gone.close()
    other = connect()
    refusals = 0
    while True:
        try:
            other.hello("run b")
            break
        except Failed as failed:
            refusals += 1
            if failed.code != "worker_busy" or refusals > 200:
                raise
            time.sleep(0.05)
    other.call("goodbye")


@pytest.mark.parametrize(
    ("kind", "payload", "fields", "code", "words"),
    [
        ("evaluate", b"\0" * 6, {}, "invalid_message", "6 bytes are no blocks of 64 int32 ids"),
        ("evaluate", ids(blocks=3), {}, "invalid_message", "4 blocks and 0 donors, but 3 blocks"),
        ("evaluate", b"\xff" * len(ids()), {}, "invalid_message", "outside the vocabulary of 258"),
        ("evaluate", ids(), {"means_sha256": "a" * 64}, "means_missing", "the means a"),
        ("evaluate", ids(), {"metrics": ["nll", "bleu"]}, None, "bleu"),
        ("attribute", ids(blocks=3), {}, "invalid_message", "4 blocks and 0 donors, but 3 blocks"),
        ("attribute", ids(), {"metric": "logit_diff"}, "config_invalid", "a task with wrong answers"),
        ("tokenize", b"\xff\xfe", {}, "invalid_message", "not UTF-8"),
        ("evaluate", ids(), {"answers": [ANSWER]}, "invalid_message", "1 answers, 0 with a wrong one, for 4"),
        ("evaluate", ids(), {"answers": [{**ANSWER, "end": 65}] * 4}, "invalid_message", "to 65 of 64"),
        ("evaluate", ids(), {"metrics": ["logit_diff"]}, "config_invalid", "a task with wrong answers"),
        ("tokenize_task", b"[{]", {}, "invalid_message", "no JSON"),
        ("tokenize_task", b"[]", {}, "invalid_message", "no list of items"),
        ("tokenize_task", b"{}", {}, "invalid_message", "no item"),
        ("tokenize_task", b'[{"prompt": "a", "answer": 3}]', {}, "invalid_message", "no item"),
        ("tokenize_task", b'[{"prompt": "a", "answer": "b", "c": "d"}]', {}, "invalid_message", "no item"),
        ("tokenize_task", b"[" * 100_000, {}, "invalid_message", "no JSON"),
        ("token_bytes", b"", {}, "invalid_message", "0 bytes are no blocks of 1 int32 ids"),
        ("token_bytes", b"\xff" * 4, {}, "invalid_message", "outside the vocabulary of 258"),
        ("evaluate", ids(), {"metrics": ["kl"], "per_token": True}, "invalid_message", "the metric nll's"),
        ("calibrate", ids(), {"lengths": [3, 4]}, "invalid_message", "256 ids for rows of 7 in all"),
        ("put", b"\0" * 4, {"kind": "means", "sites": []}, "invalid_message", "the payload's sha256 is"),
    ],
)
def test_requests_that_fit_the_schema_but_not_the_model(
    connect: Connect, model: Path, kind: str, payload: bytes, fields: dict[str, Any], code: str, words: str
) -> None:
    peer = ready(connect(), model)
    defaults: dict[str, dict[str, Any]] = {
        "evaluate": {
            "seq_len": SEQ_LEN,
            "blocks": list(range(BLOCKS)),
            "answers": None,
            "donors": [],
            "conditions": [BASELINE],
            "metrics": ["nll"],
            "means_sha256": None,
        },
        "attribute": ATTRIBUTED,
        "tokenize": {"dataset": None, "max_tokens": 10},
        "token_bytes": {},
        "tokenize_task": {"name": "t.jsonl", "max_tokens": 10},
        "calibrate": {
            "seq_len": SEQ_LEN,
            "batch_size": 1,
            "sites": [{"kind": "mlp", "layer": 0, "positions": "all"}],
        },
        "put": {"sha256": "a" * 64},
    }
    with pytest.raises(Failed) as caught:
        peer.call(kind, payload, **{**defaults[kind], **fields})
    assert words in caught.value.message
    assert code is None or caught.value.code == code
    assert peer.outcome(evaluate(peer, [BASELINE]))[-1][0]["result"]["measured"] == 1
    peer.call("goodbye")


def test_a_put_that_is_no_float32_is_refused(connect: Connect, model: Path) -> None:
    peer = ready(connect(), model)
    digest = "2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae"  # of b"foo"
    with pytest.raises(Failed, match="3 bytes are no float32") as caught:
        peer.call("put", b"foo", kind="direction", sha256=digest, norm=1.5)
    assert caught.value.code == "invalid_message"
    peer.call("goodbye")


def test_a_peer_that_does_not_read_does_not_hold_up_the_others(connect: Connect, model: Path) -> None:
    honest = ready(connect(), model)
    hostile = connect(RCVHWM=1, SNDHWM=0, RCVBUF=1024)
    for _ in range(60_000):
        hostile.socket.send_multipart([b"\xc1", b""])
    began = time.monotonic()
    assert honest.call("ping") == ({}, b"")
    print(f"ping behind 60,000 malformed frames: {time.monotonic() - began:.2f} s")
    assert honest.outcome(evaluate(honest, [BASELINE]))[-1][0]["result"]["measured"] == 1
    honest.call("goodbye")


def test_shutdown_is_answered_and_the_process_ends(start: Start, private: Path) -> None:
    """Begun on a socket that a killed worker left behind."""
    path = private / "s"
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(path))
    worker = start().wait_until_listening()
    assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0
    peer = Peer(worker.address)
    assert peer.hello()["model"] is None
    assert peer.call("shutdown") == ({}, b"")
    assert worker.ended() == (0, "")
    assert not path.exists()
    peer.close()


def test_sigterm_ends_it_and_sigint_does_not(start: Start, private: Path) -> None:
    worker = start().wait_until_listening()
    worker.process.send_signal(signal.SIGINT)
    peer = Peer(worker.address)
    peer.hello()
    worker.process.send_signal(signal.SIGTERM)
    assert worker.ended() == (0, "")
    assert not (private / "s").exists()
    peer.close()


def test_the_end_of_the_lifeline_ends_it_and_removes_nothing_but_the_socket(
    start: Start, private: Path
) -> None:
    (private / "precious").write_text("kept")
    worker = start(lifeline=True).wait_until_listening()
    worker.close_lifeline()
    assert worker.ended()[0] == 0
    assert (private / "precious").read_text() == "kept"
    assert not (private / "s").exists()


def test_the_end_of_the_lifeline_ends_it_in_the_middle_of_a_forward_pass(
    start: Start, private: Path, model: Path
) -> None:
    worker = start(lifeline=True).wait_until_listening()
    peer = ready(Peer(worker.address), model)
    blocks, seq_len = 64, 512  # one condition takes many seconds
    payload = ids(blocks=blocks, seq_len=seq_len)
    evaluate(peer, [BASELINE], payload, seq_len=seq_len, blocks=list(range(blocks)))
    time.sleep(0.5)
    assert peer.receive(0) is None, "it is still at work"
    began = time.monotonic()
    worker.close_lifeline()
    code, _ = worker.ended()
    # By hand a few milliseconds.
    assert time.monotonic() - began < 5
    assert code == 0
    assert not private.exists()
    peer.close()


def test_a_live_socket_and_a_file_in_its_place_are_left_alone(shared: Worker, private: Path) -> None:
    with pytest.raises(SparkablateError, match="another worker listens on"):
        Server(LocalEngine(), shared.address)
    peer = Peer(shared.address)
    peer.hello()
    peer.call("goodbye")
    peer.close()
    (private / "s").write_text("a diary")
    with pytest.raises(SparkablateError, match="is not a socket"):
        Server(LocalEngine(), f"ipc://{private / 's'}")
    assert (private / "s").read_text() == "a diary"


@pytest.mark.parametrize(
    "bind",
    [
        "tcp://0.0.0.0:5555",
        "tcp://*:5555",
        "tcp://example.org:5555",
        "tcp://127.0.0.1.example.org:5555",
        "tcp://127.0.0.1:no-port",
        "udp://127.0.0.1:5555",
        "127.0.0.1:5555",
        "ipc://@abstract",
        "",
    ],
)
def test_other_addresses_are_refused(bind: str) -> None:
    with pytest.raises(SparkablateError, match="--bind") as caught:
        Server(LocalEngine(), bind)
    assert caught.value.code == "usage"


def test_a_port_that_is_taken_is_named() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as taken,
        pytest.raises(SparkablateError, match="Address already in use"),
    ):
        Server(LocalEngine(), f"tcp://127.0.0.1:{taken.getsockname()[1]}")


#: An engine that fails in ways no coded error foresees.
BROKEN = r"""
import sys
import threading
import weakref
from sparkablate.engines import local
from sparkablate.errors import SparkablateError
class Broken(local.LocalEngine):
    def answer(self, request, caller):
        text = request.text
        if text == "exit":
            sys.exit(3)
        if text == "hold":
            held = threading.local()  # any object that can be watched
            weakref.finalize(held, print, "freed", file=sys.stderr, flush=True)
            raise SparkablateError("load_failed", text)
        if text == "nothing sensible":
            import numpy
            return numpy.zeros(3), "not a truth value", []
        if text == "nan":
            caller.progress("tokenize", float("nan"), None, "tokens")
        if text == "too much":
            import numpy
            return numpy.zeros(5_000_000), False, []
        raise RuntimeError(f"a file named {text}\udcff")
local.LocalEngine = Broken
from sparkablate.server.__main__ import main
sys.exit(main())
"""


def test_whatever_an_engine_raises_is_a_failure_with_its_traceback(start: Start) -> None:
    worker = start("-c", BROKEN).wait_until_listening()
    peer = Peer(worker.address)
    peer.hello()
    for text, words, detail in [
        ("boom", "RuntimeError: a file named boom?", "in answer"),
        ("exit", "SystemExit: 3", "in answer"),
        ("nothing sensible", "result of tokenize: truncated", ""),
        ("nan", "event progress: NaN and infinity", ""),
        ("too much", "20000000 bytes are over the wire's limit", ""),
    ]:
        with pytest.raises(Failed) as caught:
            peer.call("tokenize", text.encode(), dataset=None, max_tokens=10)
        assert caught.value.code == "internal"
        assert words in caught.value.message
        assert detail in caught.value.detail
    assert peer.call("ping") == ({}, b"")
    peer.close()


def test_what_a_failed_request_held_is_freed_before_the_next_one(start: Start) -> None:
    """A model whose load failed half-way must not take the memory that the next load needs."""
    worker = start("-c", BROKEN).wait_until_listening()
    peer = Peer(worker.address)
    peer.hello()
    with pytest.raises(Failed):
        peer.call("tokenize", b"hold", dataset=None, max_tokens=10)
    peer.close()
    # Said by the process while it waits for a request, or never.
    assert worker.process.stderr is not None
    ready, _, _ = select.select([worker.process.stderr], [], [], PATIENCE_S)
    assert ready
    assert worker.process.stderr.readline() == "freed\n"


#: A worker for which all of the memory is reserved for others.
NO_ROOM = """
import os, sys
from sparkablate.loading import memory
memory.RESERVE = (1.0, 1 << 60)
from sparkablate.server.__main__ import main
code = main()
os._exit(code)
"""


def test_layers_on_disk_go_with_the_worker_and_those_of_a_killed_one_with_the_next(
    start: Start, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SPARKABLATE_HOME", str(tmp_path))

    def folders() -> int:
        return sum(path.is_dir() for path in (tmp_path / "offload").iterdir())

    killed = start("-c", NO_ROOM).wait_until_listening()
    peer = Peer(killed.address)
    peer.hello()
    assert "result" in peer.outcome(load(peer, model, may_offload=True))[-1][0]
    assert folders() == 1
    killed.kill()
    peer.close()
    assert folders() == 1
    next_one = start("-c", NO_ROOM, name="t").wait_until_listening()
    assert folders() == 0
    peer = Peer(next_one.address)
    peer.hello()
    peer.outcome(load(peer, model, may_offload=True))
    assert folders() == 1
    peer.call("shutdown")
    assert next_one.ended()[0] == 0
    assert folders() == 0
    peer.close()


def test_a_lost_connection_is_a_lost_session(connect: Connect) -> None:
    """The same session over a new connection: what was sent meanwhile is gone, so it must be asked again."""
    first, second = connect(), connect()
    first.hello()
    second.session = first.session
    with pytest.raises(Failed) as caught:
        second.call("ping")
    assert caught.value.code == "session_lost"
    assert second.hello()["session"] != first.session
    second.call("goodbye")
