"""A name becomes a model, its files known by content, on a device that was proved to work."""
