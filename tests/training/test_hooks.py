"""Laws of the training machinery: seeds, whole checkpoints, checked data, processes."""

import errno
import json
import os
import pickle
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from mmengine.config import Config
from mmengine.dataset import DefaultSampler, InfiniteSampler
from mmengine.registry import DATASETS, OPTIM_WRAPPERS, TRANSFORMS
from PIL import Image
from rich.progress import Progress
from torch import nn

import hybrid_backbones.datasets.coco
import hybrid_backbones.training  # noqa: F401
from hybrid_backbones.mini.preset import apply_mini
from hybrid_backbones.training.curves import CurvesHook
from hybrid_backbones.training.progress import ProgressHook
from hybrid_backbones.training.saving import (
    AtomicLocalBackend,
    FiniteLossHook,
    WholeCheckpointHook,
    advice_for_a_full_disk,
    find_earlier,
    find_last_checkpoint,
    remove_drafts,
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


def test_seeding_wants_a_seeded_sampler():
    with pytest.raises(ValueError, match="SeededSampler"):
        SeedSample().transform(dict(sample_idx=7))


def test_a_file_that_cannot_be_written_leaves_the_old_one(tmp_path, monkeypatch):
    backend, path = AtomicLocalBackend(), tmp_path / "epoch_1.pth"
    backend.put(b"old", path)

    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        backend.put(b"new and longer", path)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_what_a_killed_run_was_writing_is_removed_and_nothing_else(tmp_path, monkeypatch):
    class Killed(BaseException):
        pass

    def kill(*_, **__):
        raise Killed

    # neither the file is put in place nor the draft removed
    monkeypatch.setattr(Path, "replace", kill)
    monkeypatch.setattr(Path, "unlink", kill)
    with pytest.raises(Killed):
        AtomicLocalBackend().put(b"half", tmp_path / "best_accuracy_epoch_1.pth")
    monkeypatch.undo()
    (draft,) = tmp_path.iterdir()
    others = ["epoch_1.pth", "epoch_1.pth.part", ".video.mp4.part", ".part", f"{'a' * 32}.part"]
    for name in others:
        (tmp_path / name).touch()
    inner = tmp_path / "before" / draft.name
    inner.parent.mkdir()
    inner.touch()
    remove_drafts(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {*others, "before"}
    assert inner.is_file()


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT], ids=errno.errorcode.get)
def test_a_full_disk_says_how_to_go_on(number, tmp_path):
    full = OSError(number, os.strerror(number))
    says = rf"{full.strerror}.*no checkpoint in .* yet: free some space and start again"
    with pytest.raises(ValueError, match=says), advice_for_a_full_disk(tmp_path):
        raise full
    (tmp_path / "epoch_2.pth").touch()
    with (
        pytest.raises(
            ValueError, match=rf"{full.strerror}.*epoch_2\.pth is complete.*use --resume"
        ),
        advice_for_a_full_disk(tmp_path),
    ):
        raise full
    with pytest.raises(PermissionError), advice_for_a_full_disk(tmp_path):
        raise PermissionError(errno.EACCES, "denied")


def test_the_last_checkpoint_is_found_without_mmengines_pointer(tmp_path):
    assert find_last_checkpoint(tmp_path) is None
    for name in ("epoch_9.pth", "epoch_10.pth", ".epoch_11.pth.abc.part", "best_epoch_12.pth"):
        (tmp_path / name).touch()
    (tmp_path / "last_checkpoint").write_text("")
    assert find_last_checkpoint(tmp_path).name == "epoch_10.pth"


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


@pytest.mark.parametrize("entry", ["bias", "running_var"])
@pytest.mark.parametrize("save", ["_save_checkpoint", "_save_best_checkpoint"])
def test_broken_weights_are_never_saved(tmp_path, entry, save):
    model = nn.BatchNorm1d(2)
    model.state_dict()[entry][1] = float("inf")
    runner = SimpleNamespace(model=model, iter=6, epoch=0, work_dir=tmp_path)
    hook = WholeCheckpointHook(save_best="mIoU", rule="greater")
    with pytest.raises(ValueError, match=rf"no longer finite after iteration 7.*{entry}"):
        getattr(hook, save)(runner, *([{"mIoU": 1.0}] if "best" in save else []))
    assert list(tmp_path.iterdir()) == []


SAVED = ["best_mIoU_epoch_7.pth", "epoch_6.pth", "epoch_7.pth", "epoch_12.pth", "resnet50.pth"]


@pytest.mark.parametrize(
    ("resumed", "done", "earlier"),
    [
        # a new training
        (None, 0, SAVED[:4]),
        # of another folder
        ("../epoch_6.pth", 6, SAVED[:4]),
        # the last one, and one before it
        ("epoch_12.pth", 12, []),
        ("epoch_6.pth", 6, ["epoch_7.pth", "epoch_12.pth"]),
        ("best_mIoU_epoch_7.pth", 7, ["epoch_12.pth"]),
    ],
)
def test_checkpoints_that_a_training_may_overwrite_are_found(tmp_path, resumed, done, earlier):
    for name in SAVED:
        (tmp_path / name).touch()
    found = find_earlier(tmp_path, resumed and tmp_path / resumed, done)
    assert sorted(path.name for path in found) == sorted(earlier)


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


IMAGE = dict(id=1, file_name="1.png", height=8, width=8)
ANNOTATION = dict(id=1, image_id=1, category_id=1, bbox=[1, 1, 4, 4], area=16, iscrowd=0)
COCO = dict(images=[IMAGE], annotations=[ANNOTATION], categories=[dict(id=1, name="cat")])


def coco_dataset(path, **kwargs):
    settings = dict(type="CheckedCocoDataset", ann_file=str(path), data_prefix=dict(img=""))
    dataset = DATASETS.build(dict(settings, pipeline=[], serialize_data=False, **kwargs))
    dataset.full_init()
    return dataset


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("{", "not JSON"),
        ("[]", "malformed"),
        (json.dumps(dict(COCO, annotations=[dict(ANNOTATION, category_id=7)])), "category_id.*7"),
        (json.dumps(dict(COCO, annotations=[dict(ANNOTATION, image_id=9)])), "image_id.*9"),
        (json.dumps({k: v for k, v in COCO.items() if k != "categories"}), "malformed"),
        (json.dumps(dict(COCO, categories=[dict(id=1, name="unicorn")])), "missing.*cat"),
        (json.dumps(dict(COCO, images=[dict(id=1)])), "malformed"),
    ],
    ids=["cut", "list", "category", "image", "section", "classes", "no size"],
)
def test_a_wrong_annotation_file_is_named(tmp_path, content, says):
    path = tmp_path / "instances.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=f"{path.name}.*{says}"):
        coco_dataset(path, metainfo=dict(classes=("cat",)))


def test_a_missing_annotation_file_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"none.json is missing"):
        coco_dataset(tmp_path / "none.json")


def test_unknown_categories_need_a_choice_of_classes(tmp_path):
    path = tmp_path / "instances.json"
    path.write_text(json.dumps(dict(COCO, categories=[*COCO["categories"], dict(id=2, name="ox")])))
    with pytest.raises(ValueError, match="unknown"):
        coco_dataset(path)
    assert len(coco_dataset(path, metainfo=dict(classes=("cat",)))) == 1


def load_image(path):
    return TRANSFORMS.build(dict(type="LoadImageStrict"))(dict(img_path=str(path)))


def test_a_whole_image_is_loaded_in_the_hosts_channel_order(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (7, 5, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "1.png")
    np.testing.assert_array_equal(load_image(tmp_path / "1.png")["img"], pixels[..., ::-1])


@pytest.mark.parametrize("kind", ["missing", "cut", "text", "empty"])
def test_a_broken_image_is_named(tmp_path, kind):
    path = tmp_path / "1.jpg"
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)
    content = path.read_bytes()
    if kind == "missing":
        path.unlink()
    else:
        path.write_bytes(dict(cut=content[: len(content) // 2], text=b"no image", empty=b"")[kind])
    with pytest.raises(ValueError, match=r"1\.jpg"):
        load_image(path)


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
