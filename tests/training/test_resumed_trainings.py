"""What `--resume` does in trainings, as a user would run them."""

import re
import shutil

import pytest
import torch
from tool_runs import run_warm, train

from hybrid_backbones.checkpoints import read_checkpoint
from hybrid_backbones.training.restarts import BEGUN, RESTART_COUNTS
from hybrid_backbones.training.work_dir import LOCK

OPTIONS = ["train_dataloader.dataset.indices=32", "train_dataloader.batch_size=4"]
OPTIONS += ["default_hooks.visualization.enable=False", "val_dataloader.dataset.indices=4"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A work dir of a training over one epoch, without a validation."""
    work_dir = tmp_path_factory.mktemp("trained")
    none = [f"{key}=None" for key in ("val_dataloader", "val_cfg", "val_evaluator")]
    code, _, err = run_warm(
        *train(work_dir, options=["train_cfg.max_epochs=1", *OPTIONS[:3], *none])
    )
    assert code == 0, err
    return work_dir


def test_a_training_without_validation_trains(trained):
    assert (trained / "epoch_1.pth").is_file()
    assert not list(trained.glob("*/vis_data/vis_image"))


@pytest.mark.parametrize(
    ("flags", "environment"),
    [(["--resume"], {}), ([], dict.fromkeys(RESTART_COUNTS, "1"))],
    ids=["resumed", "started_again"],
)
def test_a_finished_training_says_so_and_changes_nothing(trained, tmp_path, flags, environment):
    work_dir = shutil.copytree(trained, tmp_path / "trained")

    def contents():
        files = {p: p.stat().st_mtime_ns for p in work_dir.rglob("*") if p.is_file()}
        return {p: time for p, time in files.items() if p.name not in (LOCK, BEGUN)}

    before = contents()
    command = train(work_dir, *flags, options=["train_cfg.max_epochs=1"])
    code, out, _ = run_warm(*command, **environment)
    assert code == 0
    assert re.search(r"already finished: .*epoch_1\.pth was saved at epoch 1 of 1.*max_epochs", out)
    assert contents() == before


def test_a_resumed_training_uses_what_it_says(trained, tmp_path):
    options = ["train_cfg.max_epochs=2", "train_cfg.val_interval=2", *OPTIONS]
    changes = ["optim_wrapper.optimizer.lr=0.5", "train_dataloader.batch_size=8"]
    code, out, err = run_warm(
        *train(tmp_path, "--resume", trained / "epoch_1.pth", options=[*options, *changes])
    )
    assert code == 0, err
    assert re.search(r"optimizer\.lr is 0\.001 in .*0\.5 in .*the checkpoint's is used", out)
    assert re.search(r"batch_size is 4 in .*8 in .*the config's is used", out)
    one, two = (read_checkpoint(p) for p in (trained / "epoch_1.pth", tmp_path / "epoch_2.pth"))
    rates = [c["optimizer"]["param_groups"][0]["initial_lr"] for c in (one, two)]
    assert rates == [1e-3, 1e-3]
    assert two["meta"]["iter"] - one["meta"]["iter"] == 32 // 8
    assert "lr=0.001" in two["meta"]["cfg"]


@pytest.mark.parametrize(
    ("option", "line"),
    [
        ("optim_wrapper.optimizer.type=Adam", r"state of AdamW, .*Adam cannot continue"),
        ("model.backbone.depth=38", r"does not fit.*missing"),
    ],
    ids=["optimiser", "network"],
)
def test_what_cannot_go_on_is_refused_in_one_line(trained, tmp_path, option, line):
    options = ["train_cfg.max_epochs=2", *OPTIONS, option]
    code, _, err = run_warm(*train(tmp_path, "--resume", trained / "epoch_1.pth", options=options))
    assert code == 1
    assert re.search(f"error: .*{line}", err.strip().splitlines()[-1])
    assert "Traceback" not in err


def test_a_training_without_averages_does_not_go_on_from_some(trained, tmp_path):
    averaged = dict(read_checkpoint(trained / "epoch_1.pth"), ema_state_dict={})
    torch.save(averaged, tmp_path / "averaged.pth")
    options = ["train_cfg.max_epochs=2", *OPTIONS]
    code, _, err = run_warm(
        *train(tmp_path / "new", "--resume", tmp_path / "averaged.pth", options=options)
    )
    assert code == 1
    assert re.match("error: --resume: .*averages.*no EMAHook", err.strip().splitlines()[-1]), err
