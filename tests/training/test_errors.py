"""Which errors become a line for the user, and which stay bugs with their traceback."""

import errno
import logging
import os
import re
import sys
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from urllib.error import HTTPError

import pytest
import torch
from mmengine.hooks import EarlyStoppingHook, Hook
from mmengine.logging import MMLogger
from mmengine.registry import HOOKS, PARAM_SCHEDULERS
from torch.utils.data import DataLoader

from hybrid_backbones.installation import install_command
from hybrid_backbones.training.checks import require_length
from hybrid_backbones.training.errors import explain, one_line_errors


class Broken:
    """A set whose samples cannot be loaded."""

    def __init__(self, load):
        self.load = load

    def __len__(self):
        return 1

    def __getitem__(self, _):
        self.load()


class Asserting(Hook):
    def __init__(self, number=0):
        assert number > 0


class Checking(Hook):
    def __init__(self):
        self.check()

    def check(self):
        raise ValueError("expected a positive number")


class Failing(Hook):
    def __init__(self):
        int("one")


class FailingBelow(Hook):
    def __init__(self):
        raise_in_a_function()


def raise_in_a_function():
    raise ValueError("expected another state")


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


def test_a_metric_that_the_evaluation_does_not_give_is_named_with_those_that_it_gives():
    hook = EarlyStoppingHook(monitor="mIoU", strict=True)
    error = error_of(lambda: hook.after_val_epoch(None, {"accuracy/top1": 12.5}))
    expected = "EarlyStoppingHook.monitor of the config is mIoU, but the evaluation gives "
    assert explain(error) == expected + "'accuracy/top1': 12.5"


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


def test_a_library_that_is_missing_is_explained(monkeypatch):
    monkeypatch.setitem(sys.modules, "mmdet", None)
    error = error_of(lambda: import_module("mmdet.nothing"))
    assert explain(error) == f"mmdet is not installed: {install_command()}"
    assert explain(error_of(lambda: import_module("mmseg.nothing"))) is None


def test_what_a_constructor_of_a_library_refuses_is_explained():
    error = error_of(lambda: HOOKS.build(dict(type="LoggerHook", interval=0)))
    assert explain(error) == "LoggerHook of the config: interval must be greater than 0"
    # an assertion without a message, of which pytest makes one
    error = error_of(lambda: HOOKS.build(dict(type=Asserting)))
    assert explain(error).startswith("Asserting of the config: assert ")
    # in a method that the constructor calls
    error = error_of(lambda: HOOKS.build(dict(type=Checking)))
    assert explain(error) == "Checking of the config: expected a positive number"


def test_what_fails_in_a_constructor_is_a_bug():
    for kind in (Failing, FailingBelow):
        assert explain(error_of(lambda kind=kind: HOOKS.build(dict(type=kind)))) is None


KINDS = "read-only", "long name", "no such address", "invalid", "closed", "process"


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (torch.cuda.OutOfMemoryError("CUDA out of memory."), "memory is full.*--amp.*with_cp"),
        (RuntimeError("CUDA error: out of memory"), "memory is full.*--amp.*with_cp"),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED"), "memory is full.*--amp.*with_cp"),
        (RuntimeError("GET was unable to find an engine to execute this computation"), "dtype"),
        (RuntimeError("CUDA error: invalid device ordinal"), "as many processes as .* GPUs"),
        (
            RuntimeError("The NVIDIA driver on your system is too old (found version 11040)."),
            "driver is too old .*11040.*update it",
        ),
        (
            RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. "),
            "is killed by signal: Killed.*num_workers",
        ),
        (OSError(errno.EACCES, os.strerror(errno.EACCES), "out.png"), "Permission denied.*out.png"),
        (OSError(errno.ENOSPC, "No space left on device"), "No space.*free some space"),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), "Disk quota exceeded: free some space"),
        (ValueError("Expected more than 1 value per channel when training"), "raise .*batch_size"),
        (
            AssertionError(
                "The number of subfolders (0) doesn't match the number of specified classes (9)."
            ),
            "has 0 folders instead of 9: expected one for each class",
        ),
        (ValueError("too many values to unpack (expected 2)"), None),
        (KeyError("loss"), None),
        (OSError("of a library, without a file"), None),
        (OSError(errno.EROFS, "Read-only file system", "out.png"), "Read-only .*out.png"),
        (OSError(errno.ENAMETOOLONG, "File name too long", 256 * "x"), "name too long: 'xxx"),
        (HTTPError("http://host/weights.pth", 404, "Not Found", {}, None), "404: Not Found"),
        (OSError(errno.EINVAL, os.strerror(errno.EINVAL), "handle"), None),
        (OSError(errno.EBADF, os.strerror(errno.EBADF), "handle"), None),
        (ChildProcessError(errno.ECHILD, os.strerror(errno.ECHILD), "worker"), None),
        (TypeError("f() got an unexpected keyword argument 'x'"), None),
        (TypeError("NoneType takes no arguments"), "beside transformers 5: pip install"),
    ],
    ids=[
        "memory",
        "memory of CUDA",
        "memory of cuBLAS",
        "engine",
        "ordinal",
        "driver",
        "worker",
        "file",
        "disk",
        "quota",
        "batch of one",
        "classes",
        "value",
        "key",
        "no file",
        *KINDS,
        "argument",
        "transformers",
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
    handler.stream.write("not written yet")
    yield handler
    logger.removeHandler(handler)
    with pytest.raises(OSError, match="No space left"):
        handler.close()


@pytest.mark.parametrize(
    ("how", "line"),
    [
        (mistake, "error: train_cfg.max_epochs must be"),
        (bug, r"error: unexpected KeyError.*above(?!.*/dev/full)"),
    ],
)
def test_an_error_is_explained_where_the_disk_of_the_log_is_full(full_log, how, line):
    with pytest.raises(SystemExit, match=line), one_line_errors():
        how()
    with ThreadPoolExecutor(1) as other:
        assert other.submit(full_log.lock.acquire, blocking=False).result()
        other.submit(full_log.lock.release).result()


def test_a_bug_is_in_a_log_that_another_library_has_closed(tmp_path):
    handler = logging.FileHandler(tmp_path / "train.log")
    MMLogger.get_current_instance().addHandler(handler)
    handler.close()
    with pytest.raises(SystemExit, match=r"train\.log"), one_line_errors():
        bug()
    MMLogger.get_current_instance().removeHandler(handler)
    assert "KeyError" in (tmp_path / "train.log").read_text()


def test_a_bug_shows_where_it_happened(capsys):
    with pytest.raises(SystemExit) as stop, one_line_errors():
        bug()
    shown = capsys.readouterr().err
    assert "Traceback" in shown
    assert "in bug" in shown
    assert "KeyError" in stop.value.code
