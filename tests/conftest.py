"""Shared by all tests: where things are, and a seed."""

from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def repository() -> Path:
    """The root of the checkout, from which the tools run."""
    return ROOT


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)
