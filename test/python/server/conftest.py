from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from peer import Peer, Worker

FIXTURES = Path(__file__).parents[2] / "fixtures"


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Large enough that a slice of it takes a while."""
    directory = tmp_path_factory.mktemp("model")
    arguments = [str(directory), "--layers", "8", "--width", "256"]
    subprocess.run([sys.executable, str(FIXTURES / "tiny_model.py"), *arguments], check=True)
    return directory


@pytest.fixture
def private(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory of mode 700 whose path is short enough for a socket."""
    return tmp_path_factory.mktemp("w")


@pytest.fixture
def start(private: Path) -> Iterator[Callable[..., Worker]]:
    """Starts workers, and ends them after the test."""
    workers: list[Worker] = []

    def start(*script: str, name: str = "s", lifeline: bool = False) -> Worker:
        workers.append(Worker(f"ipc://{private / name}", *script, lifeline=lifeline))
        return workers[-1]

    yield start
    for worker in workers:
        worker.kill()


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    """One worker for the tests of a file; each test holds it and lets go."""
    worker = Worker(f"ipc://{tmp_path_factory.mktemp('w') / 's'}").wait_until_listening()
    yield worker
    worker.kill()


@pytest.fixture
def connect(shared: Worker) -> Iterator[Callable[..., Peer]]:
    peers: list[Peer] = []

    def connect(**options: int | bytes) -> Peer:
        peers.append(Peer(shared.address, **options))
        return peers[-1]

    yield connect
    for peer in peers:
        peer.close()
