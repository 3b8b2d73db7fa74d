"""Engines: what a worker measures with. One interface (``requests.Engine``), chosen by ``--engine``."""
