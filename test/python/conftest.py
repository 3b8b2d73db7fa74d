"""Shared by all Python tests: one thread (tiny tensors only wait for a second one), and each tiny model is
built once."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import pytest
import torch

import tiny_models
from sparkablate.manager import AblationManager


@pytest.fixture(scope="session", autouse=True)
def _threads() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tiny() -> Callable[..., Any]:
    """`tiny(name, dtype=torch.float32)`: a model that tests share, so leave it as it was."""
    return lru_cache(maxsize=None)(tiny_models.build)


@pytest.fixture
def manager(tiny: Callable[..., Any]) -> Callable[[str], AblationManager]:
    return lambda name: AblationManager(tiny(name))
