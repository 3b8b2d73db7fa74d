"""Where 0.1.0 documented ``MeanKey``; it is at home in edits/means.py."""

from .edits.means import MeanKey

__all__ = ["MeanKey"]
