"""What is checked before a training begins; which errors become a line, and which stay bugs."""

import errno
import logging
import os
import re
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from mmengine.dataset import DefaultSampler, InfiniteSampler
from mmengine.logging import MMLogger
from mmengine.registry import PARAM_SCHEDULERS
from torch.utils.data import DataLoader

from hybrid_backbones.training import checks
from hybrid_backbones.training.checks import require_batches, require_length
from hybrid_backbones.training.errors import explain, one_line_errors
from hybrid_backbones.training.requirements import require_device


def loader(num_samples, sampler, **kwargs):
    samples = list(range(num_samples))
    return DataLoader(samples, batch_size=8, sampler=sampler(samples, seed=0), **kwargs)


def test_a_set_smaller_than_a_batch_is_refused_with_both_numbers():
    with pytest.raises(ValueError, match=r"7 samples, less than a batch of 8"):
        require_batches(loader(7, DefaultSampler, drop_last=True))
    require_batches(loader(8, DefaultSampler, drop_last=True))
    require_batches(loader(7, DefaultSampler, drop_last=False))


def test_a_set_shared_by_processes_must_have_a_batch_for_each(monkeypatch):
    monkeypatch.setattr("mmengine.dataset.sampler.get_dist_info", lambda: (0, 4))
    monkeypatch.setattr(checks, "get_world_size", lambda: 4)
    with pytest.raises(ValueError, match=r"28 samples for 4 processes, less than a batch of 8"):
        require_batches(loader(28, DefaultSampler, drop_last=True))
    require_batches(loader(32, DefaultSampler, drop_last=True))


def test_a_sampler_that_never_ends_fills_any_batch_but_from_an_empty_set():
    require_batches(loader(1, InfiniteSampler, drop_last=True))
    with pytest.raises(ValueError, match="training set is empty"):
        require_batches(loader(0, InfiniteSampler, drop_last=True))


@pytest.mark.parametrize("value", [0, -1, 2.5, "abc", None])
def test_a_loop_counts_with_positive_integers(value):
    with pytest.raises(ValueError, match=r"max_iters must be a positive integer"):
        require_length(dict(max_iters=value))


@pytest.mark.parametrize("name", ["gpu", "cpu:1", "cuda:99", "meta"])
def test_a_device_that_is_not_there_is_refused(name):
    with pytest.raises(ValueError, match=f"--device.*{name}"):
        require_device(name)


def test_the_cpu_is_there():
    assert require_device("cpu") == torch.device("cpu")


class Broken:
    """A set whose samples cannot be loaded."""

    def __init__(self, load):
        self.load = load

    def __len__(self):
        return 1

    def __getitem__(self, _):
        self.load()


def mistake():
    require_length(dict(max_epochs=0))


def bug():
    raise KeyError("bug")


def error_of(function):
    with pytest.raises(Exception) as caught:  # noqa: PT011
        function()
    return caught.value


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_mistake_is_explained_wherever_it_was_found_and_a_bug_is_not(num_workers):
    def load(how):
        return lambda: next(iter(DataLoader(Broken(how), num_workers=num_workers)))

    assert explain(error_of(load(mistake))).startswith("train_cfg.max_epochs must be a positive")
    assert explain(error_of(load(bug))) is None


def test_what_python_raises_in_our_code_is_a_bug():
    # asking None for a key, in a line that raises nothing on purpose
    assert explain(error_of(lambda: require_length(None))) is None


@pytest.mark.parametrize("by_iterations", [True, False])
@pytest.mark.parametrize(
    ("settings", "line"),
    [
        (dict(type="CosineAnnealingLR", T_max=5, eta_mni=0), "unknown argument 'eta_mni'.*eta_min"),
        (dict(type="StepLR"), "does not set the required arguments of StepLR: 'step_size'"),
        (dict(type="StpLR", step_size=3), "no parameter scheduler called StpLR; .*StepLR"),
    ],
    ids=["unknown", "missing", "type"],
)
def test_mistakes_in_a_schedule_are_explained(settings, line, by_iterations):
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    settings = dict(settings, by_epoch=True, convert_to_iter_based=by_iterations)
    others = dict(optimizer=optimizer, epoch_length=4)
    error = error_of(lambda: PARAM_SCHEDULERS.build(settings, default_args=others))
    assert re.search(line, explain(error) or "a bug")


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (torch.cuda.OutOfMemoryError("CUDA out of memory."), "memory is full.*--amp.*with_cp"),
        (
            RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. "),
            "is killed by signal: Killed.*num_workers",
        ),
        (OSError(errno.EACCES, os.strerror(errno.EACCES), "out.png"), "Permission denied.*out.png"),
        (OSError(errno.ENOSPC, "No space left on device"), "No space.*free some space"),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), "Disk quota exceeded: free some space"),
        (ValueError("Expected more than 1 value per channel when training"), "raise .*batch_size"),
        (ValueError("too many values to unpack (expected 2)"), None),
        (KeyError("loss"), None),
        (OSError("of a library, without a file"), None),
        (TypeError("f() got an unexpected keyword argument 'x'"), None),
    ],
    ids=[
        "memory",
        "worker",
        "file",
        "disk",
        "quota",
        "batch of one",
        "value",
        "key",
        "no file",
        "argument",
    ],
)
def test_errors_of_the_libraries_are_explained_where_they_are_known(error, line):
    explained = explain(error)
    if line is None:
        assert explained is None
    else:
        assert re.search(line, explained)


@pytest.fixture
def full_log():
    """A log file on a disk without space."""
    handler = logging.FileHandler("/dev/full")
    logger = MMLogger.get_current_instance()
    logger.addHandler(handler)
    yield handler
    logger.removeHandler(handler)
    with pytest.raises(OSError, match="No space left"):
        handler.close()


@pytest.mark.parametrize(
    ("how", "line"),
    [
        (mistake, "error: train_cfg.max_epochs must be"),
        (bug, r"error: unexpected KeyError.*above$"),
    ],
)
def test_an_error_is_explained_where_the_disk_of_the_log_is_full(full_log, how, line):
    with pytest.raises(SystemExit, match=line), one_line_errors():
        how()
    with ThreadPoolExecutor(1) as other:
        assert other.submit(full_log.lock.acquire, blocking=False).result()
        other.submit(full_log.lock.release).result()


def test_a_bug_shows_where_it_happened(capsys):
    with pytest.raises(SystemExit) as stop, one_line_errors():
        bug()
    shown = capsys.readouterr().err
    assert "Traceback" in shown
    assert "in bug" in shown
    assert "KeyError" in stop.value.code
