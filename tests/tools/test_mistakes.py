"""What a user does wrong with the commands ends in one clear line.

`MISTAKES` is a table over all tools: a mistake is covered by adding a row.
"""

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from demo_mistakes import DEMO_MISTAKES, an_image
from export_mistakes import EXPORT_MISTAKES
from tool_runs import CONFIG, REPOSITORY, SHORT, evaluate, run_warm, train
from training_mistakes import TRAINING_MISTAKES, a_file, config, other_checkpoint

# mmengine's log, as a checkpoint has it
HUB = dict(log_scalars={}, runtime_info={}, resumed_keys={})


def cut_checkpoint(tmp):
    path = other_checkpoint(tmp)
    path.write_bytes(path.read_bytes()[:200])
    return path


class Trap:
    """Removes a file where it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.unlink, (self.path, True)


def trap(tmp):
    content = dict(torch.load(other_checkpoint(tmp)), trap=Trap(a_file(tmp)))
    torch.save(content, tmp / "trap.pth")
    return tmp / "trap.pth"


def trap_for_resume(tmp):
    """A checkpoint of plain weights, with a config that mmengine would run as a program."""
    program = f"import os\nos.unlink({str(a_file(tmp))!r})\nmodel = {{}}\n"
    content = dict(meta=dict(epoch=1, iter=1, config=program), message_hub=HUB, state_dict={})
    torch.save(content, tmp / "trap.pth")
    return tmp / "trap.pth"


def trap_for_settings(tmp):
    """A checkpoint of plain weights, with a schedule that is a program in the same folder."""
    (tmp / "hubconf.py").write_text(f"import os\nos.unlink({str(a_file(tmp))!r})\n")
    schedule = dict(type="torch.hub.load", repo_or_dir=str(tmp), model="m", source="local")
    settings = (
        f"optim_wrapper = dict(optimizer=dict(type='AdamW'))\nparam_scheduler = [{schedule}]\n"
    )
    content = dict(meta=dict(epoch=1, iter=1, cfg=settings), message_hub=HUB, state_dict={})
    torch.save(content, tmp / "trap.pth")
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


class Mistake(NamedTuple):
    """A row: the command, made in an empty folder; what its last line says; its exit code."""

    command: Callable[[Path], tuple]
    says: str
    code: int = 1


def demo(checkpoint, tool="image_demo", *sketch, config=CONFIG):
    return lambda tmp: (
        *(f"tools/{tool}.py", an_image(tmp), *sketch, config, checkpoint(tmp), "--mini"),
        *("--out", tmp / "picture.png"),
    )


OTHERS = TRAINING_MISTAKES | DEMO_MISTAKES | EXPORT_MISTAKES
SKETCHES = "configs/locformer_swin_t.py"

MISTAKES = {
    # tools/test.py
    "no checkpoint": Mistake(
        lambda tmp: evaluate(tmp, "none.pth"), r"no checkpoint at 'none\.pth'"
    ),
    "checkpoint without a name": Mistake(
        lambda tmp: evaluate(tmp, ""), r"no checkpoint at '': check the path"
    ),
    "cut checkpoint": Mistake(
        lambda tmp: evaluate(tmp, cut_checkpoint(tmp)), r"cannot read.*other\.pth"
    ),
    "checkpoint of another network": Mistake(
        lambda tmp: evaluate(tmp, other_checkpoint(tmp)),
        r"does not fit.*missing.*layer1.*another shape.*conv1",
    ),
    "out is no pickle": Mistake(
        lambda tmp: evaluate(tmp, "none.pth", "--out", "metrics.json"),
        r"--out must end with \.pkl",
    ),
    # tools/image_demo.py and tools/sketch_demo.py
    "demo of another network": Mistake(demo(other_checkpoint), r"does not fit.*missing"),
    "demo with a misspelt option": Mistake(
        lambda tmp: (
            *demo(other_checkpoint)(tmp),
            *("--cfg-options", "modle.backbone.depth=26"),
        ),
        r"no 'modle'; did you mean model",
    ),
    "sketch demo without a sketch": Mistake(
        demo(other_checkpoint, "sketch_demo", "none.png", config=SKETCHES),
        r"sketch none\.png",
    ),
    # tools/benchmark.py
    "unknown operator": Mistake(
        lambda tmp: ("tools/benchmark.py", "ops", "--only", "none"), r"there is no 'none'", 2
    ),
    "maps without height": Mistake(
        lambda tmp: ("tools/benchmark.py", "ops", "--size", "0", "8"), r"at least 1, got 0, 8"
    ),
    "more threads than cores": Mistake(
        lambda tmp: ("tools/benchmark.py", "ops", "--threads", "99999"),
        r"threads must be at most the \d+ cores, got 99999",
    ),
    "broken config to measure": Mistake(
        lambda tmp: (
            *("tools/benchmark.py", "train", config("model = dict(\n")(tmp)),
            *("--out", tmp / "t.json"),
        ),
        r"cannot read the config .*own\.py.*SyntaxError",
    ),
    "no config to measure": Mistake(
        lambda tmp: ("tools/benchmark.py", "train", tmp / "none.py", "--out", tmp / "t.json"),
        r"no config .*none\.py",
    ),
    "table in a folder that is a file": Mistake(
        lambda tmp: ("tools/benchmark.py", "ops", "--out", a_file(tmp) / "t.json"),
        r"(File exists|Not a directory): .*file",
    ),
    # tools without arguments
    "argument of the zoo": Mistake(
        lambda tmp: ("tools/model_zoo.py", "out.md"), r"unrecognized arguments: out\.md", 2
    ),
    "argument of the doctor": Mistake(
        lambda tmp: ("tools/doctor.py", "me"), r"unrecognized arguments: me", 2
    ),
    # checkpoints with code in them, or of something else
    "code in load_from": Mistake(
        lambda tmp: train(tmp / "new", options=[f"load_from={trap(tmp)}"]),
        r"cannot read.*trap\.pth.*names pathlib.*run code",
    ),
    "code in Pretrained": Mistake(
        lambda tmp: pretrained(tmp, trap(tmp)),
        r"cannot read.*trap\.pth.*names pathlib.*run code",
    ),
    "code in resume": Mistake(
        lambda tmp: train(tmp, "--resume", trap(tmp)),
        r"cannot read.*trap\.pth.*names pathlib.*run code",
    ),
    "code in the config of resume": Mistake(
        lambda tmp: train(tmp, "--resume", trap_for_resume(tmp)),
        r".*a program as meta\.config",
    ),
    "code in the settings of resume": Mistake(
        lambda tmp: train(tmp, "--resume", trap_for_settings(tmp)),
        r".*param_scheduler .*names 'torch\.hub\.load'.*may run code",
    ),
    "code in test": Mistake(
        lambda tmp: evaluate(tmp, trap(tmp)),
        r"cannot read.*trap\.pth.*names pathlib.*run code",
    ),
    "code in demo": Mistake(
        lambda tmp: demonstrate(tmp, trap),
        r"cannot read.*trap\.pth.*names pathlib.*run code",
    ),
    "load_from another network": Mistake(
        lambda tmp: train(tmp / "new", options=[f"load_from={other_checkpoint(tmp)}"]),
        r"load_from=.*other\.pth.*prefix='backbone'.*does not fit.*missing.*another shape.*conv1",
    ),
    "Pretrained of another network": Mistake(
        lambda tmp: pretrained(tmp, other_checkpoint(tmp)),
        r".*Pretrained with .*other\.pth.*no entry of it fits ACmixResNet",
    ),
    "load_from a wrong name": Mistake(
        lambda tmp: train(tmp / "new", options=["load_from=unifomer_small_in1k"]),
        r"no checkpoint at 'unifomer_small_in1k'.*did you mean.*uniformer_small_in1k",
    ),
    "load_from a dead name": Mistake(
        lambda tmp: train(tmp / "new", options=["load_from=biformer_tiny_in1k"]),
        r"all addresses of biformer_tiny_in1k are dead.*give its path",
    ),
    "testing a wrong name": Mistake(
        lambda tmp: evaluate(tmp / "new", "unifomer_small_in1k"),
        r"no checkpoint at 'unifomer_small_in1k'.*did you mean.*uniformer_small_in1k",
    ),
    "load_from the work dir": Mistake(
        lambda tmp: train(tmp, options=[f"load_from={other_checkpoint(tmp)}"]),
        r"load_from=.*other\.pth is in the work dir.*moves.*--work-dir",
    ),
    "empty checkpoint": Mistake(
        lambda tmp: evaluate(tmp, a_file(tmp)), r"cannot read.*file.*is empty"
    ),
    **{name: Mistake(*row) for name, row in OTHERS.items()},
}


# one of each kind: files, options, settings, sets, checkpoints, code in them, other tools
QUICK = {
    *("no coco", "unknown flag", "unknown name in the config", "misspelt section", "no epochs"),
    *("misspelt setting of the backbone", "text as number of epochs", "unknown optimiser"),
    *("batch larger than the set", "diverging", "cut checkpoint", "code in resume"),
    *("checkpoint of another network", "unknown operator", "argument of the doctor"),
    *("load_from another network", "code in demo"),
}
EACH = [
    pytest.param(name, marks=pytest.mark.upstream if name in QUICK else pytest.mark.slow)
    for name in MISTAKES
]


@pytest.mark.parametrize("name", EACH)
def test_a_mistake_ends_in_one_clear_line(name, tmp_path):
    mistake = MISTAKES[name]
    command = mistake.command(tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    roots = dict.fromkeys(("COCO_ROOT", "ADE_ROOT", "IMAGENET_ROOT"), str(tmp_path / "nowhere"))
    code, _, err = run_warm(*command, **roots)
    last = err.strip().splitlines()[-1]
    assert re.match(rf"(\w+\.py( \w+)?: )?error: .*{mistake.says}", last), err
    assert "Traceback" not in err
    assert code == mistake.code
    assert {path: path.read_bytes() for path in before} == before


def test_who_must_can_run_the_code_in_a_checkpoint(tmp_path):
    flag = "--dangerously-run-code-in-checkpoints"
    _, out, err = run_warm(*demonstrate(tmp_path, trap), flag)
    assert "run as a program" in out + err
    assert "does not fit" in err
    assert not (tmp_path / "file").exists()


def test_a_bug_shows_its_traceback_and_where_the_log_is(tmp_path):
    options = [*SHORT, "model.head.loss=None"]
    code, _, err = run_warm(*train(tmp_path, options=options))
    assert code == 1
    last = err.strip().splitlines()[-1]
    log = re.match(r"error: unexpected TypeError; its traceback.* in (.*\.log)$", last)[1]
    for text in (err, Path(log).read_text()):
        assert "Traceback (most recent call last)" in text
        assert "TypeError" in text


@pytest.mark.slow
def test_a_broken_picture_is_named_in_one_line(tmp_path):
    shutil.copytree(REPOSITORY / "data/mini", tmp_path / "mini")
    for path in (tmp_path / "mini/imagenet/train/star").glob("*.png"):
        path.write_bytes(path.read_bytes()[:100])
    options = [f"train_dataloader.dataset.data_root={tmp_path / 'mini/imagenet'}"]
    code, _, err = run_warm(*train(tmp_path, options=[*options, "train_dataloader.num_workers=1"]))
    assert code == 1
    assert re.search(r"error: image .*star.*\.png is truncated", err.strip().splitlines()[-1]), err
