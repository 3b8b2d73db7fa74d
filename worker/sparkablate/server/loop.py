"""The ROUTER socket and its two threads: I/O answers at once, compute takes its time.

Nothing else in the package imports zmq. Frames on the wire: [envelope, payload]; ROUTER adds the peer's id.
Between the threads: [session id, envelope, payload]; only I/O knows whether that session still stands.
"""

from __future__ import annotations

import os
import queue
import threading
import traceback
from dataclasses import asdict, dataclass, field
from importlib import metadata

import zmq
from zmq.auth.thread import ThreadAuthenticator

from sparkablate.engines.requests import Engine
from sparkablate.errors import SparkablateError
from sparkablate.loading.memory import NoRoom
from sparkablate.server import handlers, protocol
from sparkablate.server.handlers import Reply
from sparkablate.server.keys import WorkerKeys
from sparkablate.server.place import check_address, remove_socket
from sparkablate.server.protocol import InvalidMessage, Message, Request
from sparkablate.server.session import Session, Sessions

POLL_MS = 500
#: ZMTP heartbeats prove the link, not progress: libzmq's own thread answers them.
HEARTBEAT_MS = 5_000
HEARTBEAT_TIMEOUT_MS = 30_000
#: Messages waiting for a peer that stopped reading; more are dropped, and its session then times out.
SEND_LIMIT = 10_000
#: Messages of one peer that wait to be read; libzmq then reads no further from it. A controller has a request
#: a slot under way, and few more.
RECEIVE_LIMIT = 64
#: A connection that has not proved itself by then is closed.
HANDSHAKE_LIMIT_MS = 10_000
#: Name of our rules at the authenticator. That it is enforced makes libzmq refuse everybody, not nobody,
#: where no authenticator answers.
ZAP_DOMAIN = "sparkablate"
#: Requests that an engine with several slots answers beside each other.
BESIDE = ("evaluate", "attribute")
#: Session id and request id: ids start anew in every session.
JobKey = tuple[str, int]


@dataclass(frozen=True)
class Mount:
    """One directory of the host and its path here: the wire's ``mount``."""

    host: str
    worker: str
    writable: bool

    @staticmethod
    def parse(text: str) -> Mount:
        """``HOST:WORKER[:ro]``, as container engines write it. Raises ``ValueError`` for another text."""
        parts = text.split(":")
        if len(parts) not in (2, 3) or not all(parts) or parts[2:] not in ([], ["ro"], ["rw"]):
            raise ValueError(f"{text!r} is not HOST:WORKER or HOST:WORKER:ro")
        return Mount(parts[0], parts[1], parts[2:] != ["ro"])


class Outbox:
    """The compute threads' end of the way to the I/O thread."""

    def __init__(self, socket: zmq.Socket[bytes]) -> None:
        self._socket = socket
        # A socket may move between threads, but not be used by two at once.
        self._lock = threading.Lock()

    def post(self, *frames: bytes) -> None:
        with self._lock:
            self._socket.send_multipart(frames)


@dataclass
class Job:
    """One request on its way through a compute thread; the ``Context`` of its handler."""

    session: Session
    request: Request
    outbox: Outbox
    cancel: threading.Event = field(default_factory=threading.Event)
    #: Set when the session ended: nobody waits for events or the reply any more.
    abandoned: threading.Event = field(default_factory=threading.Event)

    @property
    def key(self) -> JobKey:
        return self.session.id, self.request.id

    def send(self, event: Message, payload: bytes = b"") -> None:
        self._post(protocol.encode_event(event), payload)

    def finish(self, outcome: Reply | SparkablateError) -> None:
        """Sends the one reply; a result that breaks the schema or the size limit goes out as our failure."""
        if isinstance(outcome, SparkablateError):
            self._post(protocol.encode_failure(self.request.id, outcome), b"")
            return
        result, payload = outcome
        try:
            envelope = protocol.encode_reply(self.request, result, payload)
        except SparkablateError as error:
            envelope, payload = protocol.encode_failure(self.request.id, error), b""
        self._post(envelope, payload)

    def cancelled(self) -> bool:
        return self.cancel.is_set() or self.abandoned.is_set()

    def _post(self, envelope: bytes, payload: bytes) -> None:
        self.outbox.post(self.session.id.encode(), envelope, payload)


class Server:
    """Serves one engine at one address until ``shutdown`` or ``stop()``."""

    def __init__(
        self,
        engine: Engine,
        bind: str,
        keys: WorkerKeys | None = None,
        mounts: tuple[Mount, ...] = (),
        started_from: Message | None = None,
    ) -> None:
        """With ``keys``, only the controllers they list get through. ``mounts``: where this worker sees which
        of the host's directories; ``started_from``: what ``origin.told`` gave when the process began. Raises
        ``usage`` for an address that is open to others without keys."""
        self._engine = engine
        self._slots = engine.slots
        self._mounts = [asdict(mount) for mount in mounts]
        self._started_from = started_from
        self._sessions = Sessions(self._abandon)
        self._jobs: dict[JobKey, Job] = {}
        #: Threads that work on a request.
        self._working: set[int] = set()
        self._queue: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._stopping = threading.Event()
        self._context = zmq.Context()
        self._link = zmq.Context()
        self._bind = check_address(bind, keys is not None)
        self._guard: ThreadAuthenticator | None = None
        self._router = self._listen(self._bind, keys)
        self._versions = {
            name: metadata.version(name) for name in ("torch", "transformers", "pyzmq", "msgpack")
        }

    def stop(self) -> None:
        """Ends ``run`` after its current poll; safe in a signal handler."""
        self._stopping.set()

    @property
    def busy(self) -> bool:
        """Whether it computes, for somebody or for nobody any more."""
        return bool(self._working)

    def run(self) -> None:
        inbox = self._context.socket(zmq.PULL)
        inbox.bind("inproc://compute")
        outbox = self._context.socket(zmq.PUSH)
        outbox.connect("inproc://compute")
        self._outbox = Outbox(outbox)
        # A daemon: a forward pass in progress must not hold up the end of the process.
        threading.Thread(target=self._compute, name="compute", daemon=True).start()
        poller = zmq.Poller()
        poller.register(self._router, zmq.POLLIN)
        poller.register(inbox, zmq.POLLIN)
        while not self._stopping.is_set():
            ready = dict(poller.poll(POLL_MS))
            if inbox in ready:
                self._forward(*inbox.recv_multipart())
            if self._router in ready:
                self._answer(*self._receive())
            else:
                # Not while frames wait: one that was long to read must not make the next one late.
                self._sessions.expire()
        self._queue.put(None)
        self._router.close()
        if self._guard is not None:
            self._guard.stop()
        self._link.term()  # sends what waits, as long as LINGER allows
        remove_socket(self._bind)

    def _listen(self, bind: str, keys: WorkerKeys | None) -> zmq.Socket[bytes]:
        router = self._link.socket(zmq.ROUTER)
        router.set(zmq.ROUTER_MANDATORY, 1)
        router.set(zmq.LINGER, 1_000)
        router.set(zmq.MAXMSGSIZE, protocol.MAX_PAYLOAD_BYTES)
        router.set(zmq.SNDHWM, SEND_LIMIT)
        router.set(zmq.RCVHWM, RECEIVE_LIMIT)
        router.set(zmq.HEARTBEAT_IVL, HEARTBEAT_MS)
        router.set(zmq.HEARTBEAT_TIMEOUT, HEARTBEAT_TIMEOUT_MS)
        router.set(zmq.HANDSHAKE_IVL, HANDSHAKE_LIMIT_MS)
        # Not for names: localhost would be ::1 alone, where nobody looks for it.
        router.set(zmq.IPV6, int(bind.startswith("tcp://[")))
        if keys is not None:
            self._guard = ThreadAuthenticator(self._link)
            self._guard.start()
            self._guard.configure_curve_callback(ZAP_DOMAIN, keys)
            router.set(zmq.ZAP_DOMAIN, ZAP_DOMAIN.encode())
            router.set(zmq.ZAP_ENFORCE_DOMAIN, 1)
            router.set(zmq.CURVE_SERVER, 1)
            router.set(zmq.CURVE_SECRETKEY, keys.secret)
        old_umask = os.umask(0o077)
        try:
            router.bind(bind)
        except zmq.ZMQError as error:
            router.close(linger=0)
            if self._guard is not None:
                self._guard.stop()
            raise SparkablateError("usage", f"--bind {bind}: {error}") from error
        finally:
            os.umask(old_umask)
        return router

    # ── I/O thread ───────────────────────────────────────────────────────────────────────────
    def _forward(self, session_id: bytes, envelope: bytes, payload: bytes) -> None:
        """Passes on what the compute thread sent, to a session that still stands."""
        held = self._sessions.current
        if held is None or held.id.encode() != session_id:
            return
        if not self._send(held.peer, envelope, payload):
            # Its controller would wait for this frame for ever: session_lost makes it ask again.
            self._sessions.end()

    def _send(self, peer: bytes, envelope: bytes, payload: bytes = b"") -> bool:
        """False where the peer is gone, or has stopped reading: one peer must not hold up the others."""
        try:
            self._router.send_multipart([peer, envelope, payload], flags=zmq.NOBLOCK)
        except zmq.ZMQError as error:
            if error.errno not in (zmq.EHOSTUNREACH, zmq.EAGAIN):
                raise
            return False
        return True

    def _receive(self) -> tuple[bytes, list[zmq.Frame], int]:
        """One message: its peer, at most two frames, and how many it had; those beyond two are let go of."""
        peer = frame = self._router.recv(copy=False)
        frames: list[zmq.Frame] = []
        count = 0
        while frame.more:
            frame = self._router.recv(copy=False)
            count += 1
            if count <= 2:
                frames.append(frame)
        return peer.bytes, frames, count

    def _answer(self, peer: bytes, frames: list[zmq.Frame], count: int) -> None:
        request_id: int | None = None
        try:
            if count != len(frames):
                raise InvalidMessage(f"a message has 2 frames, this one has {count}")
            protocol.check_frames([len(frame) for frame in frames])
            head = protocol.read_head(frames[0].buffer)
            request_id = head.id
            session = self._admit(peer, head, frames)
            request = protocol.decode_request([frame.bytes for frame in frames])
            result = self._serve(peer, request, session)
            envelope = None if result is None else protocol.encode_reply(request, result, b"")
        except InvalidMessage as error:
            envelope = protocol.encode_failure(error.request_id, error)
        except SparkablateError as error:
            envelope = protocol.encode_failure(request_id, error)
        if envelope is not None:
            self._send(peer, envelope)

    def _admit(self, peer: bytes, head: protocol.Head, frames: list[zmq.Frame]) -> Session | None:
        """The session of a request; None: a hello, which needs none. Whoever has no session has no more than
        that read: a stranger's megabytes must not keep the one who holds the worker waiting."""
        if head.type != "hello":
            return self._sessions.check(head.session, peer)
        if len(frames[0]) > protocol.MAX_HELLO_BYTES or len(frames[1]) > 0:
            raise InvalidMessage(f"hello: more than {protocol.MAX_HELLO_BYTES} bytes, or a payload", head.id)
        return None

    def _serve(self, peer: bytes, request: Request, session: Session | None) -> Message | None:
        """The result of what I/O answers itself; None where the compute thread will reply."""
        if session is None:
            return self._hello(peer, request)
        if request.type == "ping":
            return {}
        if request.type == "cancel":
            job = self._jobs.get((session.id, request.fields["target"]))
            if job is not None:
                job.cancel.set()
            return {}
        if request.type == "goodbye":
            self._sessions.end()
            return {}
        if request.type == "shutdown":
            self._sessions.end()
            self.stop()
            return {}
        # A controller may still go by the most slots that it was told of.
        self._slots = max(self._slots, self._engine.slots)
        if len(self._jobs) > self._slots:
            raise SparkablateError("invalid_message", f"more than {self._slots + 1} requests in flight")
        job = Job(session=session, request=request, outbox=self._outbox)
        if job.key in self._jobs:
            raise SparkablateError("invalid_message", f"request id {request.id} is in use")
        self._jobs[job.key] = job
        self._queue.put(job)
        return None

    def _hello(self, peer: bytes, request: Request) -> Message:
        theirs = request.fields["schema_sha256"]
        if theirs != protocol.SCHEMA_SHA256:
            raise SparkablateError(
                "protocol_mismatch",
                f"the controller speaks schema {theirs[:12]}, this worker {protocol.SCHEMA_SHA256[:12]}",
            )
        session = self._sessions.hello(peer, request.fields["owner"])
        return {
            "session": session.id,
            "model": self._engine.loaded,
            "slots": self._engine.slots,
            "mounts": self._mounts,
            "versions": self._versions,
            "origin": self._origin(),
        }

    def _origin(self) -> Message | None:
        state = self._engine.state()
        return None if self._started_from is None or state is None else {**self._started_from, **state}

    def _abandon(self, session: Session) -> None:
        for job in list(self._jobs.values()):
            if job.session is session:
                job.abandoned.set()
        self._jobs.clear()

    # ── compute threads ──────────────────────────────────────────────────────────────────────
    def _compute(self) -> None:
        """One request after the other; where the engine has several slots, slices run beside each other."""
        slices: list[threading.Thread] = []
        while (job := self._queue.get()) is not None:
            slices = [thread for thread in slices if thread.is_alive()]
            if job.request.type in BESIDE and self._slots > 1:
                slices.append(threading.Thread(target=self._work, args=(job,), name="slice", daemon=True))
                slices[-1].start()
                continue
            for thread in slices:
                thread.join()
            self._work(job)

    def _work(self, job: Job) -> None:
        if job.abandoned.is_set():
            return
        outcome: Reply | SparkablateError
        self._working.add(threading.get_ident())
        try:
            outcome = handlers.answer(self._engine, job.request, job)
        except NoRoom as error:
            outcome = _beside(job.session.owner.get("besides"), error)
        except SparkablateError as error:
            outcome = error
        except BaseException as error:  # also the sys.exit() of a model's own code
            outcome = SparkablateError("internal", f"{type(error).__name__}: {error}", traceback.format_exc())
        finally:
            self._working.discard(threading.get_ident())
        # Freed before the reply, so that the controller's next request finds the slot free.
        self._jobs.pop(job.key, None)
        job.finish(outcome)
        # A failure's traceback holds its frames, this one among them: a model that was refused after loading.
        del outcome


def _beside(other: str | None, error: NoRoom) -> SparkablateError:
    """What stands in the way of a second model is the first one, where there is one."""
    if other is None:
        return error
    return SparkablateError(
        "worker_busy", f"{other}, and there is no room for a second model: {error.message}", error.detail
    )
