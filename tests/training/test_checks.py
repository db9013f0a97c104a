"""What is checked before a training begins."""

from argparse import Namespace
from types import SimpleNamespace

import pytest
import torch
from mmengine.config import Config
from mmengine.dataset import DefaultSampler, InfiniteSampler
from mmengine.model import BaseModel
from mmengine.runner import Runner
from torch.utils.data import DataLoader

from hybrid_backbones.training import checks, launch
from hybrid_backbones.training.checks import (
    IterationsHook,
    require_batches,
    require_data,
    require_length,
)
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
