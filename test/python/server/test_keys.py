"""The worker's keys: files that are refused, clients that are refused, and a guard that fails shut."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import zmq
from peer import Peer, Worker

from sparkablate.errors import SparkablateError
from sparkablate.server.keys import read_keys
from sparkablate.server.loop import Mount

Keys = tuple[bytes, bytes]


def written(directory: Path, worker: Keys, *controllers: Keys) -> Path:
    (directory / "worker.key").write_bytes(worker[1] + b"\n")
    (directory / "worker.key").chmod(0o600)
    (directory / "controller.pub").write_bytes(b"\n".join(public for public, _ in controllers))
    return directory


@pytest.fixture
def pairs() -> tuple[Keys, Keys, Keys]:
    return zmq.curve_keypair(), zmq.curve_keypair(), zmq.curve_keypair()


def test_several_controllers_may_be_listed(tmp_path: Path, pairs: tuple[Keys, Keys, Keys]) -> None:
    worker, first, second = pairs
    keys = read_keys(written(tmp_path, worker, first, second))
    assert keys.secret == worker[1]
    assert keys.callback("", first[0])
    assert keys.callback("", second[0])
    assert not keys.callback("", worker[0])
    assert worker[1].decode() not in repr(keys)


def test_keys_that_are_missing_open_or_broken_are_refused_and_not_shown(
    tmp_path: Path, pairs: tuple[Keys, Keys, Keys]
) -> None:
    worker, controller, _ = pairs
    with pytest.raises(SparkablateError, match=r"worker\.key cannot be read.*sparkablate keys init"):
        read_keys(tmp_path)
    written(tmp_path, worker, controller)
    secret, listed = tmp_path / "worker.key", tmp_path / "controller.pub"
    secret.chmod(0o644)
    with pytest.raises(SparkablateError, match=r"others may read .*; run 'chmod 600"):
        read_keys(tmp_path)
    secret.chmod(0o600)
    listed.chmod(0o646)
    with pytest.raises(SparkablateError, match=r"others may add to .*; run 'chmod go-w"):
        read_keys(tmp_path)
    listed.chmod(0o644)
    listed.write_text("")
    with pytest.raises(SparkablateError, match="lists no controller"):
        read_keys(tmp_path)
    listed.unlink()
    with pytest.raises(SparkablateError, match=r"controller\.pub cannot be read"):
        read_keys(tmp_path)
    secret.write_bytes(worker[1][:-1])
    with pytest.raises(SparkablateError, match="not a key of 40 characters") as caught:
        read_keys(tmp_path)
    assert worker[1][:10].decode() not in caught.value.message
    assert caught.value.code == "usage"


def curve(peer_keys: Keys, server: bytes) -> dict[str, bytes]:
    public, secret = peer_keys
    return {"CURVE_PUBLICKEY": public, "CURVE_SECRETKEY": secret, "CURVE_SERVERKEY": server}


#: A guard whose thread has died, as after an error in it.
UNGUARDED = """
import sys
from sparkablate.server import loop
class Dead(loop.ThreadAuthenticator):
    def start(self):
        super().start()
        self.stop()
    def configure_curve_callback(self, *_):
        pass
if sys.argv[1] == "dead":
    loop.ThreadAuthenticator = Dead
del sys.argv[1]
from sparkablate.server.__main__ import main
sys.exit(main())
"""


@pytest.mark.parametrize("guard", ["alive", "dead"])
def test_without_a_guard_nobody_is_let_in(
    tmp_path: Path, private: Path, pairs: tuple[Keys, Keys, Keys], guard: str
) -> None:
    """libzmq's own default is to let everybody in where no authenticator answers."""
    worker_keys, listed, unlisted = pairs
    written(tmp_path, worker_keys, listed)
    worker = Worker(f"ipc://{private / 's'}", "-c", UNGUARDED, guard, "--keys", str(tmp_path))
    try:
        worker.wait_until_listening()
        for keys in (listed, unlisted):
            peer = Peer(worker.address, **curve(keys, worker_keys[0]))
            peer.send("ping")
            answered = peer.receive(2.0 if guard == "dead" or keys is unlisted else 30.0) is not None
            assert answered is (guard == "alive" and keys is listed)
            peer.close()
    finally:
        worker.kill()


def test_mounts_are_told_in_hello(start: Callable[..., Worker]) -> None:
    worker = start(
        "-m", "sparkablate.server", "--mount", "/home/a/models:/models:ro", "--mount", "./baked:/baked"
    )
    peer = Peer(worker.wait_until_listening().address)
    assert peer.hello()["mounts"] == [
        {"host": "/home/a/models", "worker": "/models", "writable": False},
        {"host": "./baked", "worker": "/baked", "writable": True},
    ]
    peer.close()


@pytest.mark.parametrize("text", ["/models", "/a:/b:rx", ":/b", "/a:", "/a:/b:ro:z"])
def test_a_mount_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not HOST:WORKER"):
        Mount.parse(text)
