"""Who may use the worker: at most one session, with an owner and an end. Knows no sockets."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any

from sparkablate.errors import SparkablateError

#: A session without any frame for this long is over (the controller pings every 5 s).
IDLE_LIMIT_S = 30.0


@dataclass
class Session:
    """One controller's hold on the worker; ``peer`` is the routing id its frames come from."""

    peer: bytes
    owner: dict[str, Any]
    last_frame: float
    id: str = field(default_factory=lambda: secrets.token_hex(16))
    since: str = field(default_factory=lambda: datetime.now(timezone.utc).isoformat(timespec="seconds"))


class Sessions:
    """The rules of `hello`, idleness and take-over (``architecture.md`` 3).

    ``on_end`` is called with the session that just ended, so that its running work can be cancelled.
    """

    def __init__(
        self, on_end: Callable[[Session], None], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._on_end = on_end
        self._clock = clock
        self.current: Session | None = None

    def hello(self, peer: bytes, owner: dict[str, Any]) -> Session:
        """Opens a session. A hello of the same run takes over at once: its directory lock proves that the
        old controller is gone. Raises ``worker_busy`` for any other owner while one holds the worker."""
        held = self.current
        if held is not None and held.owner["run_id"] != owner["run_id"]:
            raise SparkablateError(
                "worker_busy",
                f"this worker is held by run {held.owner['run_id']} (pid {held.owner['pid']} on"
                f" {held.owner['host']}) since {held.since}",
            )
        self.end()
        self.current = Session(peer=peer, owner=owner, last_frame=self._clock())
        return self.current

    def check(self, session_id: str, peer: bytes) -> Session:
        """Notes a frame of the session. Raises ``session_lost`` where it is not the current one.

        A session whose frames come over another connection than its hello ends here: what was sent to it in
        between is lost, and only ``session_lost`` makes its controller ask again.
        """
        held = self.current
        if held is None or held.id != session_id:
            raise SparkablateError("session_lost", "this session has ended; say hello again")
        if held.peer != peer:
            self.end()
            raise SparkablateError("session_lost", "the connection was lost in between; say hello again")
        held.last_frame = self._clock()
        return held

    def expire(self) -> None:
        """Ends the session if it has been silent for too long."""
        if self.current is not None and self._clock() - self.current.last_frame > IDLE_LIMIT_S:
            self.end()

    def end(self) -> None:
        held, self.current = self.current, None
        if held is not None:
            self._on_end(held)
