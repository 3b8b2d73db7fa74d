"""Where a worker listens: looked at before anything slow is imported, and cleared of what was left there."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from peer import WORKER

from sparkablate.errors import SparkablateError
from sparkablate.server import place

LONG_AGO = time.time() - 86_400


@pytest.fixture
def root(private: Path) -> Path:
    """Where temporary files go."""
    return private.parent


def left(root: Path, name: str, *, age: float = LONG_AGO, mode: int = 0o700) -> Path:
    directory = root / name
    directory.mkdir(mode=mode)
    directory.chmod(mode)
    os.utime(directory, (age, age))
    return directory


def dead_socket(directory: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(os.fspath(directory / "worker.sock"))
    os.utime(directory, (LONG_AGO, LONG_AGO))


def test_what_killed_workers_left_goes_and_nothing_else(root: Path, private: Path) -> None:
    empty, with_socket = left(root, "sparkablate-aaaaaa"), left(root, "sparkablate-bbbbbb")
    dead_socket(with_socket)
    kept = [
        left(root, "sparkablate-cccccc", age=time.time()),  # its worker has not begun yet
        left(root, "sparkablate-dddddd", mode=0o755),  # mkdtemp makes none like it
        left(root, "sparkablate-test-x"),
        left(root, "other-eeeeee"),
    ]
    precious = left(root, "sparkablate-ffffff")
    (precious / "results.csv").write_text("1")
    os.utime(precious, (LONG_AGO, LONG_AGO))
    (root / "sparkablate-gggggg").symlink_to(kept[-1])
    with socket.socket(socket.AF_UNIX) as alive:  # of a version that holds no lock
        listening = left(root, "sparkablate-hhhhhh")
        alive.bind(os.fspath(listening / "worker.sock"))
        alive.listen()
        os.utime(listening, (LONG_AGO, LONG_AGO))
        holder = left(root, "sparkablate-iiiiii")
        held = subprocess.Popen(
            [
                sys.executable,
                "-c",
                "import sys; from sparkablate.server import place;"
                " place.hold(sys.argv[1]); print('held', flush=True); sys.stdin.read()",
                f"ipc://{holder}/worker.sock",
            ],
            env={**os.environ, "PYTHONPATH": str(WORKER)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert held.stdout is not None
        assert held.stdout.readline() == "held\n"
        place.hold(f"ipc://{private}/worker.sock")
        assert not empty.exists()
        assert not with_socket.exists()
        assert all(path.exists() for path in (*kept, precious, listening, holder, private))
        assert (root / "sparkablate-gggggg").is_symlink()
        held.kill()
        held.communicate()
        # What the kernel let go of with its process is swept by the next worker.
        following = left(root, "sparkablate-jjjjjj", age=time.time())
        place.hold(f"ipc://{following}/worker.sock")
        assert not holder.exists()
        assert private.exists(), "this process lives"


def test_a_directory_that_others_may_enter_is_refused_without_proposing_chmod(tmp_path: Path) -> None:
    for directory in (Path("/"), Path("/tmp"), tmp_path):
        if directory == tmp_path:
            directory.chmod(0o755)
        with pytest.raises(SparkablateError, match=r"others may enter .*mkdir -m 700") as caught:
            place.check_address(f"ipc://{directory}/worker.sock", False)
        assert caught.value.code == "usage"
        assert "chmod" not in caught.value.message


def test_a_path_that_is_long_a_link_or_no_directory_is_refused(private: Path) -> None:
    (private / "link").symlink_to(private / "s")
    (private / "file").write_text("")
    for path, why in (
        (private / ("x" * 100), "is longer than"),
        (private / "link", "is not a socket"),
        (private / "file" / "s", "is not a directory"),
        (private / "none" / "s", "does not exist"),
    ):
        with pytest.raises(SparkablateError, match=why):
            place.check_address(f"ipc://{path}", False)


def test_the_file_of_a_dead_workers_socket_is_no_obstacle(private: Path) -> None:
    dead_socket(private)
    address = f"ipc://{private}/worker.sock"
    assert place.check_address(address, False) == address


def test_a_wrong_address_is_refused_before_anything_slow_is_imported(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    script = (
        "import runpy, sys\n"
        "sys.argv = ['worker', '--bind', sys.argv[1]]\n"
        "from sparkablate.server.__main__ import main\n"
        "code = main()\n"
        "print(code, sorted({'torch', 'zmq', 'numpy', 'transformers'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, f"ipc://{tmp_path}/s"],
        env={**os.environ, "PYTHONPATH": str(WORKER)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "2 []\n"
    assert "others may enter" in done.stderr
