from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
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
def private() -> Iterator[Path]:
    """A directory such as a controller makes for its own worker: of mode 700, with a path short enough for a
    socket."""
    directory = Path(tempfile.mkdtemp(prefix="x-"))
    named = directory / f"sparkablate-{directory.name[2:8].replace('_', 'x').ljust(6, 'x')}"
    named.mkdir(mode=0o700)
    yield named
    shutil.rmtree(directory)


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
