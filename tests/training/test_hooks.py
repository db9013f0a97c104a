"""Laws of the training machinery: seeds, whole checkpoints, checked data, processes."""

import pickle
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from mmengine.config import Config
from mmengine.dataset import (
    BaseDataset,
    ClassBalancedDataset,
    ConcatDataset,
    DefaultSampler,
    InfiniteSampler,
    RepeatDataset,
)
from mmengine.registry import OPTIM_WRAPPERS
from rich.progress import Progress
from torch import nn

import hybrid_backbones.datasets.coco
import hybrid_backbones.training  # noqa: F401
from hybrid_backbones.mini.preset import apply_mini
from hybrid_backbones.training.curves import CurvesHook
from hybrid_backbones.training.progress import ProgressHook
from hybrid_backbones.training.saving import (
    FiniteLossHook,
)
from hybrid_backbones.training.seeding import (
    SeededIndex,
    SeededInfiniteSampler,
    SeededSampler,
    SeedSample,
)

pytestmark = pytest.mark.upstream


def numbers():
    return np.random.rand(), torch.rand(1).item()


@pytest.mark.parametrize(
    ("seeded", "plain"),
    [(SeededSampler, DefaultSampler), (SeededInfiniteSampler, InfiniteSampler)],
    ids=["finite", "infinite"],
)
def test_a_seeded_sampler_draws_in_the_hosts_order(seeded, plain):
    ours, theirs = (iter(kind(range(10), seed=3)) for kind in (seeded, plain))
    drawn = [(next(ours), next(theirs)) for _ in range(10)]
    assert [int(a) for a, _ in drawn] == [b for _, b in drawn]
    assert len({a.seed for a, _ in drawn}) == 10


def test_each_epoch_seeds_samples_anew():
    sampler = SeededSampler(range(10), seed=3)
    first = {draw.seed for draw in sampler}
    sampler.set_epoch(1)
    assert first.isdisjoint(draw.seed for draw in sampler)


def test_processes_share_the_seeds_of_one(monkeypatch):
    def draws(rank, world_size):
        sampler = SeededSampler(range(8), seed=3)
        sampler.rank, sampler.world_size = rank, world_size
        sampler.num_samples = 8 // world_size
        return {int(draw): draw.seed for draw in sampler}

    assert draws(0, 2) | draws(1, 2) == draws(0, 1)


def test_a_draw_survives_the_way_to_a_worker():
    draw = pickle.loads(pickle.dumps(SeededIndex(7, (1, 2, 3))))
    assert draw == 7
    assert draw.seed == (1, 2, 3)


def test_what_happens_to_a_sample_depends_on_its_draw_alone():
    seed_sample = SeedSample()
    outcomes = []
    for before in (0, 5):
        np.random.rand(before)
        torch.rand(before)
        seed_sample.transform(dict(sample_idx=SeededIndex(7, (1, 2, 3))))
        outcomes.append(numbers())
    assert outcomes[0] == outcomes[1]
    seed_sample.transform(dict(sample_idx=SeededIndex(7, (1, 2, 4))))
    assert numbers() != outcomes[0]


class Numbers(BaseDataset):
    """Samples that are random numbers, of which a pipeline drops half."""

    def __init__(self):
        super().__init__(pipeline=[SeedSample(), self.draw])

    def load_data_list(self):
        return [{} for _ in range(10)]

    def get_cat_ids(self, idx):
        return [0]

    def draw(self, results):
        number = np.random.rand()
        return (int(results["sample_idx"]), number) if number < 0.5 else None


class Mixed:
    """Mixing of another sample of the data set, as mmdet's MultiImageMixDataset does."""

    def __init__(self, dataset):
        self.dataset = dataset

    def __len__(self):
        return len(self.dataset)

    def __getitem__(self, index):
        return self.dataset[index], self.dataset[np.random.randint(len(self))]


WRAPPERS = {
    "none": Numbers,
    "repeat": lambda: RepeatDataset(Numbers(), 3),
    "concat": lambda: ConcatDataset([Numbers(), Numbers()]),
    "mixed": lambda: Mixed(RepeatDataset(Numbers(), 2)),
}


@pytest.mark.parametrize("name", WRAPPERS)
def test_a_sample_depends_on_its_draw_alone_also_where_another_takes_its_place(name):
    draws = list(SeededSampler(WRAPPERS[name](), seed=3))
    one, other = WRAPPERS[name](), WRAPPERS[name]()
    samples = [one[draw] for draw in draws]
    assert [*reversed([other[draw] for draw in reversed(draws)])] == samples
    # no draw has the numbers of another
    assert len(set(samples)) == len(samples)


class Folds(Numbers):
    """A data set that computes another index, as mmpretrain's KFoldDataset does."""

    def __getitem__(self, index):
        return super().__getitem__(9 - index)


@pytest.mark.parametrize(
    "dataset",
    [ClassBalancedDataset(Numbers(), 1e-3), ConcatDataset([Numbers(), Folds()])],
    ids=["alone", "beside_another"],
)
def test_a_data_set_that_loses_the_seed_is_refused(dataset):
    draws = SeededSampler(dataset, seed=3)
    with pytest.raises(ValueError, match=r"SeedSample needs .* RepeatDataset, .* type int"):
        [dataset[draw] for draw in draws]


def test_seeding_wants_a_seeded_sampler():
    with pytest.raises(ValueError, match="SeededSampler"):
        SeedSample().transform(dict(sample_idx=7))


def test_training_stops_after_a_few_broken_losses_in_a_row(tmp_path):
    hook, runner = FiniteLossHook(patience=3), SimpleNamespace(iter=41, work_dir=tmp_path)
    (tmp_path / "epoch_2.pth").touch()
    good, bad = dict(loss=torch.tensor(1.0)), dict(loss=torch.tensor(float("nan")))
    for outputs in (bad, bad, good, bad, bad):
        hook.after_train_iter(runner, 0, outputs=outputs)
    with pytest.raises(ValueError, match=r"nan at iteration 42.*epoch_2\.pth"):
        hook.after_train_iter(runner, 0, outputs=bad)


def test_hooks_let_tools_train_without_outputs():
    runner = SimpleNamespace(iter=0)
    FiniteLossHook(patience=1).after_train_iter(runner, 0, outputs=None)
    bar = ProgressHook()
    bar.progress = Progress(disable=True)
    bar.task = bar.progress.add_task("", status="")
    bar.after_train_iter(runner, 0, outputs=None)


@pytest.mark.parametrize("kind", [int, float, np.float32, np.float64, np.int64])
def test_curves_have_the_metrics_of_every_kind_of_number(tmp_path, monkeypatch, kind):
    drawn, savefig = [], Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda *a, **kw: drawn.append(a[0]) or savefig(*a, **kw))
    message_hub = SimpleNamespace(runtime_info={}, log_scalars={})
    runner = SimpleNamespace(message_hub=message_hub, iter=3, work_dir=tmp_path)
    CurvesHook().after_val_epoch(runner, dict(mIoU=kind(2), bbox_mAP_l=kind(-1), classwise="table"))
    assert message_hub.runtime_info["curves"] == {"mIoU": [(3, 2.0)]}
    (figure,) = drawn
    (curve,) = figure.axes[1].lines
    assert (curve.get_label(), curve.get_xydata().tolist()) == ("mIoU", [[3, 2.0]])
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_bfloat16_wrapper_computes_in_bfloat16_and_keeps_float32_weights():
    model = nn.Linear(4, 4)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    wrapper = OPTIM_WRAPPERS.build(dict(type="BFloat16OptimWrapper", optimizer=optimizer))
    before = model.weight.clone()
    with wrapper.optim_context(model):
        out = model(torch.ones(1, 4))
    assert out.dtype == torch.bfloat16
    wrapper.update_params(out.float().sum())
    torch.testing.assert_close(model.weight, before - 0.1)


def test_the_mini_preset_names_the_scopes_that_it_knows(tmp_path):
    with pytest.raises(ValueError, match=r"mmdet.*mmocr"):
        apply_mini(Config(dict(default_scope="mmocr", model=dict())), tmp_path)


def gradients_of_process(rank, world_size, store, results):
    """Compute the gradients of one process's share of eight samples, averaged by DDP."""
    torch.set_num_threads(1)
    if world_size > 1:
        torch.distributed.init_process_group(
            "gloo", init_method=f"file://{store}", rank=rank, world_size=world_size
        )
    from mmengine.model import MMDistributedDataParallel

    from hybrid_backbones.backbones import ACmixResNet

    torch.manual_seed(0)
    # frozen statistics: batches of half the size have others
    backbone = ACmixResNet(26, norm_eval=True, frozen_stages=1)
    images = torch.randn(8, 3, 32, 32).chunk(world_size)[rank]
    model = backbone.train()
    if world_size > 1:
        model = MMDistributedDataParallel(model, device_ids=None, broadcast_buffers=False)
    model(images)[-1].square().mean().backward()
    if rank == 0:
        grads = {n: p.grad for n, p in backbone.named_parameters() if p.grad is not None}
        torch.save(grads, results)


@pytest.mark.slow
def test_two_processes_with_half_the_batch_give_the_gradients_of_one(tmp_path):
    gradients_of_process(0, 1, None, tmp_path / "one.pth")
    torch.multiprocessing.spawn(
        gradients_of_process, (2, tmp_path / "store", tmp_path / "two.pth"), nprocs=2
    )
    one, two = (torch.load(tmp_path / f"{name}.pth") for name in ("one", "two"))
    assert one.keys() == two.keys()
    for name, gradient in one.items():
        # the bias of the position map has gradient zero but for rounding
        if not name.endswith("conv_p.bias"):
            torch.testing.assert_close(two[name], gradient, rtol=1e-3, atol=1e-6)
