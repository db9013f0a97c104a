"""Shared by all tests: where things are, one thread, a seed."""

import logging
import os
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.logging import MMLogger
from mmengine.registry import DefaultScope

# without a GPU, kernels run in the interpreter of Triton, which asks for this when they are defined
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")

# before a test file imports mmdet, which without it lacks mmcv's operators
import hybrid_backbones  # noqa: F401
from hybrid_backbones.mini.shapes import draw_mini

# maps are small here: a second thread costs more than it gives, and very much on a busy machine
torch.set_num_threads(1)

# on GPUs, float32 is float32 in convolutions, too, which else have the ten bits of TF32
torch.backends.cudnn.allow_tf32 = False


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of the checkout, from which the tools run."""
    return Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def mini_root(repository) -> Path:
    """The embedded set, in the folder that `--mini` takes, so that it is drawn once for all."""
    return draw_mini(repository / "data/mini")


@pytest.fixture(autouse=True, scope="module")
def _scope_as_found():
    """Restore the default scope, which every run of a config sets, after each file."""
    found = dict(DefaultScope._instance_dict)
    yield
    DefaultScope._instance_dict.clear()
    DefaultScope._instance_dict.update(found)


@pytest.fixture(autouse=True)
def _seeded():
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


@pytest.fixture
def logged():
    """The lines that mmengine's logger gets during a test, from warnings upwards."""
    lines = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: lines.append(record.getMessage())
    logger = MMLogger.get_current_instance()
    logger.addHandler(handler)
    yield lines
    logger.removeHandler(handler)
