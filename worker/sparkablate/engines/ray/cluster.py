"""A Ray cluster to work on: one that runs elsewhere, or one of this machine that ends with the worker."""

from __future__ import annotations

import os
import secrets
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

from sparkablate.errors import SparkablateError
from sparkablate.loading import folders, memory, numerics

#: Ray's shared memory of a cluster of our own, bytes: slices are small, and weights never go through it.
OBJECT_STORE_BYTES = 128 << 20
CONNECT_LIMIT_S = 10.0
#: What an actor on another machine needs of ours.
PACKAGE = Path(__file__).parents[2]
LOOPBACK = ("127.0.0.1:", "localhost:")
NO_MEMORY_MONITOR = "RAY_memory_monitor_refresh_ms"
#: Of a cluster of our own. Idle processes that are kept ready could not serve, since ours need an environment
#: of their own; nobody reads the metrics.
SETTINGS = {"RAY_prestart_worker_first_driver": "0", "RAY_enable_metrics_collection": "0"}
#: What the actors' processes need before torch is imported, as in server/__main__.py: TF32 is no float32.
ACTOR_ENVIRONMENT = {
    "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE": "0",
    "NVIDIA_TF32_OVERRIDE": "0",
    "TOKENIZERS_PARALLELISM": "false",
}


def connect(address: str | None) -> None:
    """``address``: as in ``ray.init``; None: a cluster of this machine alone, on loopback, which ends with
    this process. Call it in the main thread: the daemons of a cluster of our own end with the thread.

    Raises ``environment_missing`` without Ray, ``device_unavailable`` where the cluster cannot be joined.
    """
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ["RAY_AUTH_MODE"] = "token"
    if address is None or address.startswith(LOOPBACK):
        # Ray reads this as: this machine alone. Else it replaces loopback by the machine's outer address.
        os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
    if address is None:
        # In the environment only, which Ray's own processes inherit; a user's token file stays as it is.
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
        if memory.shares_system_memory(numerics.resolve_device("auto")):
            # Ray counts the page cache and the GPU's share wrongly there, and would end actors at random;
            # theirs is the watch of memory.py.
            os.environ[NO_MEMORY_MONITOR] = "0"
        os.environ.update(SETTINGS)
    try:
        import ray
        from ray.exceptions import AuthenticationError, RayError
    except ImportError as error:
        raise SparkablateError(
            "environment_missing", f"Ray cannot be imported ({error}): run 'sparkablate setup --engine ray'"
        ) from error
    if address is not None:
        _require_answer(address)
    options = {} if address is not None else _own()
    try:
        ray.init(
            address=address or "local",
            runtime_env={
                # The cluster's nodes need the same Python and packages, and get this very code from here.
                "py_modules": [str(PACKAGE)],
                "env_vars": ACTOR_ENVIRONMENT,
            },
            log_to_driver=False,
            configure_logging=False,
            **options,
        )
    except AuthenticationError as error:
        raise SparkablateError(
            "device_unavailable",
            f"the Ray cluster at {address} did not accept this machine's token; docs/scale.md says how its "
            "nodes get one",
            str(error),
        ) from error
    except (ConnectionError, RayError, RuntimeError, ValueError) as error:
        where = "a Ray cluster could not be started" if address is None else f"no Ray cluster at {address}"
        raise SparkablateError("device_unavailable", f"{where}: {error}") from error


def _own() -> dict[str, Any]:
    """Options of `ray.init` for a cluster of this machine alone, which ends with this process."""
    folder = folders.make(_root())
    _end_with_us(folder)
    return {
        "_node_ip_address": "127.0.0.1",
        "_temp_dir": folder,
        "include_dashboard": False,
        "object_store_memory": OBJECT_STORE_BYTES,
    }


def _require_answer(address: str) -> None:
    """Ray tries for minutes; somebody who mistyped should not wait for it."""
    host, _, port = address.rpartition(":")
    if not port.isdigit():
        return
    try:
        socket.create_connection((host, int(port)), timeout=CONNECT_LIMIT_S).close()
    except OSError as error:
        raise SparkablateError("device_unavailable", f"no Ray cluster at {address}: {error}") from error


def disconnect() -> None:
    """Ends the actors, and a cluster of our own."""
    import ray

    ray.shutdown()
    for reaper in _reapers:
        reaper.kill()
        reaper.wait()


#: Waits for the end of our pipe, whatever ends us, and takes Ray's processes and files along: its agents
#: would stay for a minute.
_REAPER = """
import os, shutil, signal, sys
os.read(0, 1)
os.killpg(int(sys.argv[1]), signal.SIGKILL)
shutil.rmtree(sys.argv[2], ignore_errors=True)
"""
_reapers: list[subprocess.Popen[bytes]] = []


def _end_with_us(folder: str) -> None:
    if os.getpgrp() != os.getpid():
        os.setpgrp()
    _reapers.append(
        subprocess.Popen(
            [sys.executable, "-c", _REAPER, str(os.getpgrp()), folder],
            stdin=subprocess.PIPE,
            start_new_session=True,
        )
    )


def _root() -> Path:
    """Short, since sockets lie below it, and private."""
    root = Path("/tmp") / f"sparkablate-ray-{os.getuid()}"
    root.mkdir(mode=0o700, exist_ok=True)
    found = root.stat()
    if found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise SparkablateError("device_unavailable", f"others may write to {root}: remove it")
    return root
