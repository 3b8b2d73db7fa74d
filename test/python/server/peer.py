"""A worker in a process of its own, and a controller's end of the wire."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgpack
import zmq

from sparkablate.server.protocol import SCHEMA_SHA256

WORKER = Path(__file__).parents[3] / "worker"
#: Far beyond what any answer takes, on a machine with other work.
PATIENCE_S = 60.0


class Failed(Exception):
    """The worker answered with a failure."""

    def __init__(self, error: dict[str, str]) -> None:
        super().__init__(f"{error['code']}: {error['message']}")
        self.code, self.message, self.detail = error["code"], error["message"], error["detail"]


class Peer:
    """One connection to a worker; ``call`` sends and waits, ``send`` and ``receive`` do either."""

    def __init__(self, address: str, **options: int | bytes) -> None:
        self.socket = zmq.Context.instance().socket(zmq.DEALER)
        self.socket.set(zmq.LINGER, 0)
        for name, value in options.items():
            self.socket.set(getattr(zmq, name), value)
        self.socket.connect(address)
        self.session: str | None = None
        self._ids = itertools.count()

    def send(self, request_type: str, payload: bytes = b"", /, **fields: Any) -> int:
        request_id = next(self._ids)
        if request_type != "hello":
            fields = {"session": self.session, **fields}
        message = {"type": request_type, "id": request_id, **fields}
        self.socket.send_multipart([msgpack.packb(message), payload])
        return request_id

    def receive(self, patience_s: float = PATIENCE_S) -> tuple[dict[str, Any], bytes] | None:
        if not self.socket.poll(patience_s * 1000):
            return None
        envelope, payload = self.socket.recv_multipart()
        return msgpack.unpackb(envelope), payload

    def until(self, wanted: Callable[[dict[str, Any]], bool]) -> list[tuple[dict[str, Any], bytes]]:
        """What comes, up to and with the first message that is wanted."""
        come = []
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            received = self.receive(1)
            if received is not None:
                come.append(received)
                if wanted(received[0]):
                    return come
        raise TimeoutError(f"only these came: {[message for message, _ in come]}")

    def outcome(self, request_id: int) -> list[tuple[dict[str, Any], bytes]]:
        """Every message up to this request's reply or failure."""
        return self.until(
            lambda message: message["type"] in ("reply", "failure") and message["id"] == request_id
        )

    def call(self, request_type: str, payload: bytes = b"", /, **fields: Any) -> tuple[dict[str, Any], bytes]:
        message, reply = self.outcome(self.send(request_type, payload, **fields))[-1]
        if message["type"] == "failure":
            raise Failed(message["error"])
        return message["result"], reply

    def hello(self, run_id: str = "run a", schema_sha256: str = SCHEMA_SHA256) -> dict[str, Any]:
        owner = {"run_id": run_id, "pid": os.getpid(), "host": "here"}
        result, _ = self.call("hello", schema_sha256=schema_sha256, owner=owner)
        self.session = result["session"]
        return result

    def close(self) -> None:
        self.socket.close()


class Worker:
    """`python -m sparkablate.server`, or another script with its arguments, in the foreground of a child."""

    def __init__(self, address: str, *script: str, lifeline: bool = False) -> None:
        self.address = address
        read, write = os.pipe()
        self._write: int | None = write
        arguments = [*(script or ("-m", "sparkablate.server")), "--bind", address]
        if lifeline:
            arguments += ["--lifeline", str(read)]
        self.process = subprocess.Popen(
            [sys.executable, *arguments],
            env={**os.environ, "PYTHONPATH": str(WORKER), "OMP_NUM_THREADS": "1"},
            stderr=subprocess.PIPE,
            text=True,
            pass_fds=(read,),
        )
        os.close(read)

    def wait_until_listening(self) -> Worker:
        assert self.process.stderr is not None
        lines = []
        for line in self.process.stderr:
            lines.append(line)
            if "listening on" in line:
                return self
        raise AssertionError("".join(lines))

    def close_lifeline(self) -> None:
        if self._write is not None:
            os.close(self._write)
            self._write = None

    def ended(self) -> tuple[int, str]:
        """Exit code and the rest of stderr."""
        _, said = self.process.communicate(timeout=PATIENCE_S)
        return self.process.returncode, said

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        self.close_lifeline()
