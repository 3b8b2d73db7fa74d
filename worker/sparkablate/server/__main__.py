"""``python -m sparkablate.server``: one worker in the foreground."""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from sparkablate.errors import SparkablateError
from sparkablate.loading import home
from sparkablate.printable import guard_stderr
from sparkablate.server import origin, place
from sparkablate.wording import speak_to_controller

if TYPE_CHECKING:
    from sparkablate.engines.requests import Engine


def main() -> int:
    # Before the slow imports: a Ctrl-C meant for the controller must not end the worker it still talks to.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    guard_stderr()
    options = _parser().parse_args()
    speak_to_controller()
    started_from = origin.told()
    if options.lifeline is not None:
        place.hold(options.bind)
        threading.Thread(target=_die_with_parent, args=(options.lifeline, options.bind), daemon=True).start()

    try:
        place.check_address(options.bind, options.keys is not None)
    except SparkablateError as error:
        print(f"sparkablate worker: {error}", file=sys.stderr)
        return 2

    # NGC images ask for TF32 under float32's name; torch and cuBLAS read these once, before the first matmul.
    os.environ["TORCH_ALLOW_TF32_CUBLAS_OVERRIDE"] = os.environ["NVIDIA_TF32_OVERRIDE"] = "0"

    # torch makes this directory in any case, otherwise among the temporary files and under the user's name,
    # which not every uid has.
    if os.access(home.home(), os.W_OK):
        os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(home.home() / "torchinductor"))

    from sparkablate.loading import folders, memory, offload
    from sparkablate.server.keys import read_keys
    from sparkablate.server.loop import Mount, Server

    try:
        keys = read_keys(options.keys) if options.keys else None
        mounts = tuple(map(Mount.parse, options.mount))
        server = Server(_engine(options), options.bind, keys, mounts, started_from)
    except (SparkablateError, ValueError) as error:
        print(f"sparkablate worker: {error}", file=sys.stderr)
        return 2
    with contextlib.suppress(OSError):  # a home that others own: what a killed worker left stays
        folders.sweep(offload.root())
    memory.watch(memory.end_process, lambda: server.busy)
    signal.signal(signal.SIGTERM, lambda *_: server.stop())
    print(f"sparkablate worker: listening on {options.bind}", file=sys.stderr, flush=True)
    server.run()
    if options.engine == "ray":
        from sparkablate.engines.ray import cluster

        cluster.disconnect()
    folders.remove_all()  # the process ends without freeing its model
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="sparkablate worker", description=__doc__)
    parser.add_argument("--bind", required=True, help="ipc:///private/dir/socket or tcp://address:port")
    parser.add_argument("--keys", type=Path, help="directory with worker.key and controller.pub, for tcp://")
    parser.add_argument("--lifeline", type=int, help="file descriptor whose end of file ends this process")
    parser.add_argument(
        "--mount",
        action="append",
        default=[],
        metavar="HOST:WORKER[:ro]",
        help="a directory of the host and where this worker sees it (in a container)",
    )
    parser.add_argument("--engine", choices=("local", "ray"), default="local")
    parser.add_argument("--address", help="ray: of a running cluster; default: one of this machine alone")
    parser.add_argument("--num-cpus", type=float, help="ray: CPUs an actor, where the cluster has no GPU")
    parser.add_argument("--actors", type=int, help="ray: at most this many")
    return parser


def _engine(options: argparse.Namespace) -> Engine:
    """Raises what ``cluster.connect`` and ``start`` do."""
    if options.engine == "local":
        from sparkablate.engines.local import LocalEngine

        return LocalEngine()
    from sparkablate.engines.ray import cluster

    cluster.connect(options.address)
    from sparkablate.engines.ray.engine import start

    return start(options.num_cpus, options.actors)


def _die_with_parent(fd: int, bind: str) -> None:
    """Whatever killed the controller closes its end of the pipe, and this thread sees the end of file even
    in mid-forward. The socket goes too, and its directory, if it was made for this worker."""
    while os.read(fd, 4096):
        pass
    place.leave(bind)
    os._exit(0)


if __name__ == "__main__":
    code = main()
    sys.stderr.flush()
    # Not sys.exit: a forward pass in progress on the compute thread would crash a finalising interpreter.
    os._exit(code)
