"""Shared by all tests: where things are, one thread, a seed."""

import logging
import os
import random
from collections import Counter
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.logging import MMLogger
from mmengine.registry import DefaultScope
from mmengine.visualization import Visualizer

# without a GPU, kernels run in the interpreter of Triton, which asks for this when they are defined
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")

# before a test file imports mmdet, which without it lacks mmcv's operators
import hybrid_backbones  # noqa: F401
from hybrid_backbones.mini.shapes import draw_mini

FAILED = pytest.StashKey[bool]()

# maps are small here: a second thread costs more than it gives, and very much on a busy machine
torch.set_num_threads(1)

# on GPUs, float32 is float32 in convolutions, too, which else have the ten bits of TF32
torch.backends.cudnn.allow_tf32 = False


def pytest_itemcollected(item):
    """Leave exhaustive tests out wherever slow ones are, too."""
    if item.get_closest_marker("exhaustive"):
        item.add_marker("slow")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item):
    report = yield
    if report.failed:
        item.stash[FAILED] = True
    return report


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item):
    """Delete the files of a test that has passed: those of all would fill a disk.

    Its folders stay: loggers and visualizers of the hosts may write into them again, and the next
    test would get the name of the first, by which the hosts share what they hold.
    """
    folder = item.funcargs.get("tmp_path")
    result = yield
    if folder and not item.stash.get(FAILED, False):
        for parent, _, names in os.walk(folder):
            for name in names:
                with suppress(OSError):
                    os.unlink(os.path.join(parent, name))
    return result


@pytest.hookimpl(trylast=True)  # after those that are left out
def pytest_collection_modifyitems(items):
    """Begin with the files that have most slow tests, so that all processes end at about once."""
    slow = Counter(item.path for item in items if item.get_closest_marker("slow"))
    items.sort(key=lambda item: -slow[item.path])


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of the checkout, from which the tools run."""
    return Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def mini_root(repository) -> Path:
    """The embedded set, in the folder that `--mini` takes, so that it is drawn once for all."""
    return draw_mini(repository / "data/mini")


@pytest.fixture(autouse=True, scope="module")
def _no_hosts_state():
    """Begin each file without default scope and visualizers, which every run of a config leaves.

    Cleared before and not restored after, since fixtures of a session may run a config first.
    """
    for kind in (DefaultScope, Visualizer):
        kind._instance_dict.clear()


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
