"""The worker's server: one ROUTER socket in front of an engine. Only ``loop.py`` knows ZeroMQ."""
