"""What is checked before a training begins; which errors become a line, and which stay bugs."""

import errno
import logging
import os
import re
from argparse import Namespace
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from urllib.error import HTTPError

import pytest
import torch
from mmengine.config import Config
from mmengine.dataset import DefaultSampler, InfiniteSampler
from mmengine.hooks import EarlyStoppingHook
from mmengine.logging import MMLogger
from mmengine.model import BaseModel
from mmengine.registry import PARAM_SCHEDULERS
from mmengine.runner import Runner
from torch.utils.data import DataLoader

from hybrid_backbones.training import checks, launch
from hybrid_backbones.training.checks import (
    IterationsHook,
    require_batches,
    require_data,
    require_length,
)
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


@pytest.mark.parametrize("kind", ["CIFAR10", "VOC", "mmpretrain.Flowers102", None])
def test_a_split_that_is_no_folder_is_not_looked_for(kind, tmp_path):
    require_data(Config(), dict(type=kind, data_root=str(tmp_path), split="trainval"))


@pytest.mark.parametrize("kind", ["ImageNet", "mmpretrain.ImageNet", "ImageNet21k"])
def test_a_split_that_is_a_folder_must_be_there(kind, tmp_path):
    dataset = dict(type=kind, data_root=str(tmp_path), split="train")
    with pytest.raises(ValueError, match=r"train not found"):
        require_data(Config(), dataset)
    (tmp_path / "train").mkdir()
    require_data(Config(), dataset)


class Pictures:
    """A data set of one wide and one tall picture, as mmdet's batch samplers ask for them."""

    def __len__(self):
        return 2

    def __getitem__(self, index):
        return dict(inputs=torch.zeros(1))

    def get_data_info(self, index):
        return dict(width=1 + index, height=2 - index)


class Mean(BaseModel):
    """The smallest model."""

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)

    def forward(self, inputs, mode):
        return dict(loss=self.layer(torch.stack(inputs)).mean())


@pytest.mark.parametrize("drop_last", [True, False])
def test_an_epoch_without_a_batch_stops_the_training(drop_last, tmp_path):
    loader = dict(dataset=Pictures(), sampler=dict(type="DefaultSampler"), batch_size=2)
    batches = dict(type="mmdet.AspectRatioBatchSampler", drop_last=drop_last)
    runner = Runner(
        Mean(),
        str(tmp_path),
        train_dataloader=dict(
            loader, batch_sampler=batches, collate_fn=dict(type="pseudo_collate")
        ),
        train_cfg=dict(by_epoch=True, max_epochs=2),
        optim_wrapper=dict(optimizer=dict(type="SGD", lr=0.1)),
        experiment_name=tmp_path.name,
    )
    require_batches(runner.train_loop.dataloader)
    runner.register_hook(IterationsHook())
    if drop_last:
        with pytest.raises(ValueError, match=r"epoch 1 had no iteration.*lower .*drop_last"):
            runner.train()
    else:
        runner.train()
    assert runner.iter == (0 if drop_last else 2)
    assert bool([*tmp_path.glob("*.pth")]) != drop_last


@pytest.mark.parametrize("value", [0, -1, 2.5, "abc", None])
def test_a_loop_counts_with_positive_integers(value):
    with pytest.raises(ValueError, match=r"max_iters must be a positive integer"):
        require_length(dict(max_iters=value))


@pytest.mark.parametrize("name", ["gpu", "cpu:1", "cuda:99", "meta"])
def test_a_device_that_is_not_there_is_refused(name):
    with pytest.raises(ValueError, match=f"--device.*{name}"):
        require_device(name)


def test_a_gpu_that_cuda_cannot_use_is_not_there(monkeypatch):
    # NVML counts GPUs also where the driver is too old for this PyTorch
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match="PyTorch sees 0 devices of type cuda"):
        require_device("cuda")


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


KINDS = "read-only", "no such address", "invalid", "closed", "process"


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


def test_a_bug_shows_where_it_happened(capsys):
    with pytest.raises(SystemExit) as stop, one_line_errors():
        bug()
    shown = capsys.readouterr().err
    assert "Traceback" in shown
    assert "in bug" in shown
    assert "KeyError" in stop.value.code


@pytest.mark.parametrize("hooks", [None, dict(logger=dict(type="LoggerHook"))])
def test_pictures_need_the_hook_that_draws_them(monkeypatch, hooks):
    cfg = Config(dict(default_scope="mmseg", default_hooks=hooks))
    monkeypatch.setattr(launch, "prepare_run", lambda *_: cfg)
    with pytest.raises(ValueError, match=r"--show-dir needs .*default_hooks\.visualization"):
        launch.test(
            Namespace(compile=False, tta=False, show_dir="pictures", out=None, checkpoint="")
        )


@pytest.mark.parametrize("given", [dict(type="IoUMetric"), [dict(type="IoUMetric")]])
def test_predictions_are_dumped_beside_one_metric_or_a_list(monkeypatch, given):
    cfg = Config(dict(default_scope="mmseg", test_evaluator=given))
    monkeypatch.setattr(launch, "prepare_run", lambda *_: cfg)
    runner = SimpleNamespace(model=None, test=dict)
    monkeypatch.setattr(launch.Runner, "from_cfg", lambda cfg: runner)
    monkeypatch.setattr(launch, "load_trained", lambda *_: None)
    launch.test(Namespace(compile=False, tta=False, show_dir=None, out="out.pkl", checkpoint=""))
    assert [one["type"] for one in cfg.test_evaluator] == ["IoUMetric", "DumpResults"]
