"""The life of a training: `tools/train.py`, killed and resumed, then test and demo of it."""

import signal
import time

import pytest
import torch
from tool_runs import (
    CONFIG,
    ONE_EPOCH,
    REPOSITORY,
    evaluate,
    metric_on_file,
    metrics,
    run,
    run_warm,
    start,
    train,
)

from hybrid_backbones.checkpoints import read_checkpoint


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A work dir of an uninterrupted training."""
    work_dir = tmp_path_factory.mktemp("trained")
    code, out, err = run(*train(work_dir))
    assert code == 0, err
    assert "Epoch(train)   [1]" in out or "Epoch(train) [1]" in out
    return work_dir


@pytest.mark.upstream
def test_training_leaves_checkpoints_curves_and_scalars(trained):
    assert [(trained / f"epoch_{n}.pth").is_file() for n in (1, 2, 3)] == [True] * 3
    assert (trained / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert list(trained.glob("*/vis_data/events.out.tfevents*"))
    assert list(trained.glob("*/vis_data/vis_image/*.png"))
    assert len(metrics(trained)) == 3


@pytest.mark.upstream
def test_testing_a_checkpoint_gives_the_metric_of_its_training(trained, tmp_path):
    out_file, show_dir = tmp_path / "predictions.pkl", tmp_path / "pictures"
    flags = ("--out", out_file, "--show-dir", show_dir)
    code, _, err = run_warm(*evaluate(tmp_path, trained / "epoch_3.pth", *flags))
    assert code == 0, err
    assert metric_on_file(tmp_path) == metrics(trained)[-1]
    assert out_file.stat().st_size > 0
    assert len(list(show_dir.glob("**/*.png"))) == 60


@pytest.mark.slow
def test_load_from_starts_a_training_with_the_weights_of_another(trained, tmp_path):
    options = [f"load_from={trained / 'epoch_3.pth'}", "optim_wrapper.optimizer.lr=0"]
    code, _, err = run_warm(*train(tmp_path, options=[*ONE_EPOCH, *options]))
    assert code == 0, err
    one, other = (
        read_checkpoint(path)["state_dict"]
        for path in (trained / "epoch_3.pth", tmp_path / "epoch_1.pth")
    )
    # statistics of batch normalisation go on, weights stay
    changed = {name.rpartition(".")[2] for name in one if not torch.equal(one[name], other[name])}
    assert changed == {"running_mean", "running_var", "num_batches_tracked"}


@pytest.mark.slow
@pytest.mark.upstream
def test_a_killed_training_resumes_to_the_same_weights_bit_for_bit(trained, tmp_path):
    process = start(*train(tmp_path))
    while not (tmp_path / "epoch_1.pth").is_file():
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.1)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not (tmp_path / "epoch_3.pth").exists()
    code, out, err = run_warm(*train(tmp_path, "--resume"))
    assert code == 0, err
    assert "was in use by" in out
    # no setting differs
    assert "--resume:" not in out
    one, other = (read_checkpoint(path / "epoch_3.pth") for path in (trained, tmp_path))
    for name, value in one["state_dict"].items():
        assert torch.equal(value, other["state_dict"][name]), name
    states = [c["optimizer"]["state"] for c in (one, other)]
    assert all(torch.equal(states[0][i]["exp_avg"], states[1][i]["exp_avg"]) for i in states[0])
    assert metrics(tmp_path)[-1] == metrics(trained)[-1]


@pytest.mark.exhaustive
def test_a_killed_segmentation_resumes_to_the_same_weights_bit_for_bit(tmp_path):
    options = ["train_cfg.max_iters=6", "train_cfg.val_interval=6", "train_dataloader.batch_size=2"]
    options += ["default_hooks.checkpoint.interval=2", "train_dataloader.num_workers=1"]
    options += ["val_dataloader.dataset.indices=1"]
    config = "configs/fpn_uniformer_xxs.py"
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    code, _, err = run_warm(*train(whole, config=config, options=options))
    assert code == 0, err
    process = start(*train(killed, config=config, options=options))
    while not (killed / "iter_2.pth").is_file():
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not (killed / "iter_6.pth").exists()
    code, out, err = run_warm(*train(killed, "--resume", config=config, options=options))
    assert code == 0, err
    assert "--resume:" not in out
    one, other = (read_checkpoint(path / "iter_6.pth")["state_dict"] for path in (whole, killed))
    for name, value in one.items():
        assert torch.equal(value, other[name]), name


def test_the_demo_draws_a_class(trained, tmp_path):
    image = next(REPOSITORY.glob("data/mini/imagenet/val/star/*.png"))
    out = tmp_path / "new" / "prediction.png"
    code, _, err = run_warm(
        "tools/image_demo.py", image, CONFIG, trained / "epoch_3.pth", "--mini", "--out", out
    )
    assert code == 0, err
    assert out.read_bytes().startswith(b"\x89PNG")
