"""Engines: what a worker measures with. One interface, chosen by ``--engine``."""
