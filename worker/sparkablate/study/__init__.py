"""Python's own sweep: what the controller does for `sparkablate run`, without it."""
