"""The engine whose slices are measured by many actors."""
