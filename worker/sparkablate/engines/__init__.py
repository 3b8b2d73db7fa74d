"""Engines: what a worker measures with. One interface, chosen by ``--engine``."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sparkablate.engines.local import LocalEngine
    from sparkablate.engines.ray.engine import RayEngine

    # Ray is an extra: only its own engine imports it.
    Engine = LocalEngine | RayEngine
