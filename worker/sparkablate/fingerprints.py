"""Where 0.1.0 had ``digest_files``; it is at home in loading/fingerprints.py."""

from .loading.fingerprints import digest_files

__all__ = ["digest_files"]
