"""What a user does wrong with the commands ends in one clear line."""

import re
import shutil
from pathlib import Path

import pytest
import torch
from tool_runs import CONFIG, REPOSITORY, evaluate, run, train


def other_checkpoint(tmp):
    torch.save(dict(state_dict={"backbone.conv1.weight": torch.zeros(1)}), tmp / "other.pth")
    return tmp / "other.pth"


def cut_checkpoint(tmp):
    path = other_checkpoint(tmp)
    path.write_bytes(path.read_bytes()[:200])
    return path


class Trap:
    """Removes a file where it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.unlink, (self.path,)


def trap(tmp):
    content = dict(torch.load(other_checkpoint(tmp)), trap=Trap(a_file(tmp)))
    torch.save(content, tmp / "trap.pth")
    return tmp / "trap.pth"


def trap_for_resume(tmp):
    """A checkpoint of plain weights, with a config that mmengine would run as a program."""
    program = f"import os\nos.unlink({str(a_file(tmp))!r})\nmodel = {{}}\n"
    torch.save(dict(meta=dict(epoch=1, iter=1, config=program), state_dict={}), tmp / "trap.pth")
    return tmp / "trap.pth"


def demonstrate(tmp, make_checkpoint):
    image = next((REPOSITORY / "data/mini/imagenet/val").glob("*/*.png"))
    out = ("--out", tmp / "drawn.png")
    return ("tools/image_demo.py", image, CONFIG, make_checkpoint(tmp), "--mini", *out)


def pretrained(tmp, path):
    init_cfg = "model.backbone.init_cfg"
    return train(
        tmp / "new", options=[f"{init_cfg}.type=Pretrained", f"{init_cfg}.checkpoint={path}"]
    )


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
        lambda tmp: evaluate(tmp, "none.pth", "--out", "metrics.json"),
        r"--out must end with \.pkl",
    ),
    "diverging": (
        with_option("optim_wrapper.optimizer.lr=1e20"),
        r"(loss|weights).*iteration \d+.*Lower the learning rate",
    ),
    "code in load_from": (
        lambda tmp: train(tmp / "new", options=[f"load_from={trap(tmp)}"]),
        r"cannot read.*trap\.pth.*names pathlib.*run code",
    ),
    "code in Pretrained": (
        lambda tmp: pretrained(tmp, trap(tmp)),
        r"cannot read.*trap\.pth.*names pathlib.*run code",
    ),
    "code in resume": (
        lambda tmp: train(tmp, "--resume", trap(tmp)),
        r"cannot read.*trap\.pth.*names pathlib.*run code",
    ),
    "code in the config of resume": (
        lambda tmp: train(tmp, "--resume", trap_for_resume(tmp)),
        r".*a program as meta\.config",
    ),
    "code in test": (
        lambda tmp: evaluate(tmp, trap(tmp)),
        r"cannot read.*trap\.pth.*names pathlib.*run code",
    ),
    "code in demo": (
        lambda tmp: demonstrate(tmp, trap),
        r"cannot read.*trap\.pth.*names pathlib.*run code",
    ),
    "load_from another network": (
        lambda tmp: train(tmp / "new", options=[f"load_from={other_checkpoint(tmp)}"]),
        r"load_from=.*other\.pth.*prefix='backbone'.*does not fit.*missing.*another shape.*conv1",
    ),
    "Pretrained of another network": (
        lambda tmp: pretrained(tmp, other_checkpoint(tmp)),
        r".*Pretrained with .*other\.pth.*nothing in it fits ACmixResNet",
    ),
    "load_from the work dir": (
        lambda tmp: train(tmp, options=[f"load_from={other_checkpoint(tmp)}"]),
        r"load_from=.*other\.pth is in the work dir.*moves.*--work-dir",
    ),
    "empty checkpoint": (lambda tmp: evaluate(tmp, a_file(tmp)), r"cannot read.*file.*is empty"),
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


def test_who_must_can_run_the_code_in_a_checkpoint(tmp_path):
    flag = "--dangerously-run-code-in-checkpoints"
    _, out, err = run(*demonstrate(tmp_path, trap), flag)
    assert "run as a program" in out + err
    assert "does not fit" in err
    assert not (tmp_path / "file").exists()


def test_a_broken_picture_is_named_in_one_line(tmp_path):
    shutil.copytree(REPOSITORY / "data/mini", tmp_path / "mini")
    for path in (tmp_path / "mini/imagenet/train/star").glob("*.png"):
        path.write_bytes(path.read_bytes()[:100])
    options = [f"train_dataloader.dataset.data_root={tmp_path / 'mini/imagenet'}"]
    code, _, err = run(*train(tmp_path, options=[*options, "train_dataloader.num_workers=1"]))
    assert code == 1
    assert re.search(r"error: image .*star.*\.png is truncated", err.strip().splitlines()[-1]), err
