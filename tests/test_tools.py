"""The commands that a user types, run as processes."""

import json
import os
import pty
import re
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
import torch

from hybrid_backbones.checkpoints import read_checkpoint

# the smallest network and a schedule of seconds; everything else is the user's path
CONFIG = "configs/imagenet_acmix_r26.py"
SHORT = ["train_cfg.max_epochs=3", "train_cfg.val_interval=1"]
SHORT += ["train_dataloader.dataset.indices=96"]
ENVIRONMENT = dict(os.environ, OMP_NUM_THREADS="1")


def start(*arguments, **environment):
    return subprocess.Popen(
        [sys.executable, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=ENVIRONMENT | environment,
    )


def run(*arguments, **environment):
    process = start(*arguments, **environment)
    out, err = process.communicate(timeout=600)
    return process.returncode, out, err


def train(work_dir, *flags, config=CONFIG, options=SHORT):
    return (
        *("tools/train.py", config, "--mini", "--work-dir", work_dir, *flags),
        *(("--cfg-options", *options) if options else ()),
    )


def metrics(work_dir):
    """Read the validation metrics that were logged, in order."""
    lines = []
    for path in sorted(Path(work_dir).glob("*/vis_data/scalars.json")):
        lines += [json.loads(line) for line in path.read_text().splitlines()]
    return [line["accuracy/top1"] for line in lines if "accuracy/top1" in line]


def metric_on_file(work_dir):
    """Read the metric that a test left."""
    (path,) = Path(work_dir).glob("*/*_*.json")
    return json.loads(path.read_text())["accuracy/top1"]


@pytest.fixture(scope="module", autouse=True)
def _in_repository(repository):
    before = Path.cwd()
    os.chdir(repository)
    yield
    os.chdir(before)


@pytest.fixture(scope="module")
def trained(tmp_path_factory, repository):
    """A work dir of an uninterrupted training."""
    work_dir = tmp_path_factory.mktemp("trained")
    os.chdir(repository)
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
    code, _out, err = run(
        *("tools/test.py", CONFIG, trained / "epoch_3.pth", "--mini", "--work-dir", tmp_path),
        *("--out", out_file, "--show-dir", show_dir),
    )
    assert code == 0, err
    assert metric_on_file(tmp_path) == metrics(trained)[-1]
    assert out_file.stat().st_size > 0
    assert len(list(show_dir.glob("**/*.png"))) == 60


@pytest.mark.upstream
def test_a_killed_training_resumes_to_the_same_weights_bit_for_bit(trained, tmp_path):
    process = start(*train(tmp_path))
    while not (tmp_path / "epoch_1.pth").is_file():
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.1)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not (tmp_path / "epoch_3.pth").exists()
    code, _, err = run(*train(tmp_path, "--resume"))
    assert code == 0, err
    one, other = (read_checkpoint(path / "epoch_3.pth") for path in (trained, tmp_path))
    for name, value in one["state_dict"].items():
        assert torch.equal(value, other["state_dict"][name]), name
    states = [c["optimizer"]["state"] for c in (one, other)]
    assert all(torch.equal(states[0][i]["exp_avg"], states[1][i]["exp_avg"]) for i in states[0])
    assert metrics(tmp_path)[-1] == metrics(trained)[-1]


def test_a_killed_segmentation_resumes_to_the_same_weights_bit_for_bit(tmp_path):
    options = ["train_cfg.max_iters=6", "train_cfg.val_interval=6", "train_dataloader.batch_size=2"]
    options += ["default_hooks.checkpoint.interval=2", "train_dataloader.num_workers=1"]
    config = "configs/upernet_acmix_r26.py"
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    code, _, err = run(*train(whole, config=config, options=options))
    assert code == 0, err
    process = start(*train(killed, config=config, options=options))
    while not (killed / "iter_2.pth").is_file():
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not (killed / "iter_6.pth").exists()
    code, _, err = run(*train(killed, "--resume", config=config, options=options))
    assert code == 0, err
    one, other = (read_checkpoint(path / "iter_6.pth")["state_dict"] for path in (whole, killed))
    for name, value in one.items():
        assert torch.equal(value, other[name]), name


def test_a_terminal_shows_a_live_progress_bar(tmp_path):
    terminal, its_end = pty.openpty()
    command = train(tmp_path, options=["train_cfg.max_epochs=1", *SHORT[2:]])
    environment = ENVIRONMENT | dict(TERM="xterm", COLUMNS="160")
    process = subprocess.Popen(
        [sys.executable, *map(str, command)], stdout=its_end, stderr=its_end, env=environment
    )
    os.close(its_end)
    shown = b""
    # reading a terminal whose other end is closed is an error on Linux
    with suppress(OSError):
        while chunk := os.read(terminal, 65536):
            shown += chunk
    assert process.wait() == 0, shown.decode()[-2000:]
    assert re.search(rb"training.*100%.*0:00:00.*loss \d.*img/s.*GiB", shown)
    # the log file has plain lines instead
    (log,) = tmp_path.glob("*/*.log")
    assert "img/s" not in log.read_text()
    assert "\x1b[" not in log.read_text()


def test_a_new_training_puts_the_checkpoints_of_an_earlier_one_aside(tmp_path):
    (tmp_path / "epoch_9.pth").write_bytes(b"precious")
    options = ["train_cfg.max_epochs=0"]
    run(*train(tmp_path, options=options))
    (kept,) = tmp_path.glob("before_*/epoch_9.pth")
    assert kept.read_bytes() == b"precious"


def test_mixed_precision_and_a_scaled_learning_rate_train(tmp_path):
    options = ["train_cfg.max_epochs=1", *SHORT[2:]]
    code, out, err = run(*train(tmp_path, "--amp", "--auto-scale-lr", options=options))
    assert code == 0, err
    assert "BFloat16OptimWrapper" in out or torch.cuda.is_available()
    # a batch of 16 is an eighth of the 128 that the config's rate is for
    assert "Scaling the original LR by 0.125" in out
    checkpoint = read_checkpoint(tmp_path / "epoch_1.pth")
    assert all(torch.isfinite(x).all() for x in checkpoint["state_dict"].values())


def test_the_demo_draws_a_class(trained, tmp_path):
    image = next(Path("data/mini/imagenet/val/star").glob("*.png"))
    out = tmp_path / "new" / "prediction.png"
    code, _, err = run(
        "tools/image_demo.py", image, CONFIG, trained / "epoch_3.pth", "--mini", "--out", out
    )
    assert code == 0, err
    assert out.read_bytes().startswith(b"\x89PNG")


def test_two_processes_train_on_the_cpu(tmp_path):
    process = subprocess.run(
        [
            "bash",
            "tools/dist_train.sh",
            CONFIG,
            "2",
            "--mini",
            "--work-dir",
            tmp_path,
            "--cfg-options",
            "train_cfg.max_epochs=1",
            *SHORT[2:],
        ],
        capture_output=True,
        text=True,
        env=ENVIRONMENT
        | dict(PATH=f"{Path(sys.executable).parent}:{os.environ['PATH']}", PORT="29611"),
        timeout=600,
    )
    assert process.returncode == 0, process.stderr
    assert (tmp_path / "epoch_1.pth").is_file()


def evaluate(work_dir, checkpoint):
    return ("tools/test.py", CONFIG, checkpoint, "--mini", "--work-dir", work_dir)


def other_checkpoint(tmp):
    torch.save(dict(state_dict={"backbone.conv1.weight": torch.zeros(1)}), tmp / "other.pth")
    return tmp / "other.pth"


def cut_checkpoint(tmp):
    path = other_checkpoint(tmp)
    path.write_bytes(path.read_bytes()[:200])
    return path


def a_file(tmp):
    (tmp / "file").touch()
    return tmp / "file"


def with_option(option):
    return lambda tmp: train(tmp, options=[option])


# what the user did wrong: the command line in an empty folder, and what the one line must say
MISTAKES = {
    "no imagenet": (
        lambda tmp: ("tools/train.py", CONFIG, "--work-dir", tmp),
        r"nowhere.*Set IMAGENET_ROOT.*train.*--mini",
    ),
    "no coco": (
        lambda tmp: ("tools/train.py", "configs/maskrcnn_r50.py", "--work-dir", tmp),
        r"nowhere.*Set COCO_ROOT.*instances_train2017\.json.*--mini",
    ),
    "no ade": (
        lambda tmp: ("tools/train.py", "configs/upernet_r50.py", "--work-dir", tmp),
        r"nowhere.*Set ADE_ROOT.*images/training.*--mini",
    ),
    "no config": (
        lambda tmp: ("tools/train.py", "configs/none.py"),
        r"no config at configs/none\.py",
    ),
    "no checkpoint": (lambda tmp: evaluate(tmp, "none.pth"), r"no checkpoint at 'none\.pth'"),
    "cut checkpoint": (lambda tmp: evaluate(tmp, cut_checkpoint(tmp)), r"cannot read.*other\.pth"),
    "checkpoint of another network": (
        lambda tmp: evaluate(tmp, other_checkpoint(tmp)),
        r"does not fit.*missing.*layer1.*another shape.*conv1",
    ),
    "resume from another network": (
        lambda tmp: train(tmp, "--resume", other_checkpoint(tmp)),
        r"does not fit.*missing",
    ),
    "nothing to resume": (lambda tmp: train(tmp, "--resume"), r"no checkpoint in .*leave --resume"),
    "unknown depth": (with_option("model.backbone.depth=51"), r"depth must be one of.*51"),
    "unknown network": (with_option("model.backbone.type=ACmixNet"), r"ACmixNet"),
    "work dir is a file": (lambda tmp: train(a_file(tmp)), r"cannot write to the work dir"),
    "out is no pickle": (
        lambda tmp: (*evaluate(tmp, "none.pth"), "--out", "metrics.json"),
        r"--out must end with \.pkl",
    ),
    "diverging": (
        with_option("optim_wrapper.optimizer.lr=1e20"),
        r"(loss|weights).*iteration \d+.*Lower the learning rate",
    ),
}


@pytest.mark.upstream
@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_ends_in_one_clear_line(mistake, tmp_path):
    make_command, says = MISTAKES[mistake]
    command = make_command(tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    roots = dict.fromkeys(("COCO_ROOT", "ADE_ROOT", "IMAGENET_ROOT"), str(tmp_path / "nowhere"))
    code, _, err = run(*command, **roots)
    assert code not in (0, None)
    last = err.strip().splitlines()[-1]
    assert re.match(f"error: .*{says}", last), err
    assert "Traceback" not in err
    assert {path: path.read_bytes() for path in before} == before


def test_a_broken_picture_is_named_in_one_line(tmp_path):
    shutil.copytree("data/mini", tmp_path / "mini")
    for path in (tmp_path / "mini/imagenet/train/star").glob("*.png"):
        path.write_bytes(path.read_bytes()[:100])
    options = [f"train_dataloader.dataset.data_root={tmp_path / 'mini/imagenet'}"]
    code, _, err = run(*train(tmp_path, options=[*options, "train_dataloader.num_workers=1"]))
    assert code == 1
    assert re.search(r"error: image .*star.*\.png is truncated", err.strip().splitlines()[-1]), err
