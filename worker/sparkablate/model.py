"""A façade for users: ``from sparkablate.model import load_model``."""

from .loading.open import load_model

__all__ = ["load_model"]
