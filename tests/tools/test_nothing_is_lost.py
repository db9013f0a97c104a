"""What a user has is not overwritten, and what a command has found out is kept."""

import json
import subprocess
import sys

import pytest
from tool_runs import CONFIG, ENVIRONMENT, REPOSITORY, evaluate, run_warm, train

from hybrid_backbones.benchmark.settings import Settings, describe
from hybrid_backbones.benchmark.tables import report
from hybrid_backbones.mini.shapes import CLASSES

MINE = f"_base_ = {str(REPOSITORY / CONFIG)!r}\n# mine\n"
# with which a training fails once its work dir is in use
FAILS = ["optim_wrapper.optimizer.lr=-1"]


def last_line(result):
    code, _, err = result
    assert code == 1
    assert "Traceback" not in err
    return err.splitlines()[-1]


@pytest.mark.parametrize("command", ["train", "test"])
def test_a_config_in_the_work_dir_stays_as_it_was_written(tmp_path, command):
    config = tmp_path / "my.py"
    config.write_text(MINE)
    if command == "train":
        last_line(run_warm(*train(tmp_path, config=config, options=FAILS)))
    else:
        last_line(run_warm(*evaluate(tmp_path, tmp_path / "none.pth", config=config)))
    assert config.read_text() == MINE
    (settings,) = tmp_path.glob("*/my.py")
    assert "data_preprocessor" in settings.read_text()


def test_an_evaluation_leaves_the_settings_of_the_training(tmp_path):
    settings = tmp_path / "imagenet_acmix_r26.py"
    settings.write_text("# of the training\n")
    last_line(run_warm(*evaluate(tmp_path, tmp_path / "none.pth", "--out", tmp_path / "p.pkl")))
    assert settings.read_text() == "# of the training\n"


def test_pictures_are_not_drawn_over_the_images_of_the_test_set(mini_root, tmp_path):
    folder = mini_root / "imagenet/val/star"
    options = [f"test_dataloader.dataset.data_root={mini_root / 'imagenet'}"]
    line = last_line(
        run_warm(*evaluate(tmp_path, "none.pth", "--show-dir", folder, "--cfg-options", *options))
    )
    assert line == f"error: --show-dir {folder} has images of the test set: choose another"


def test_no_picture_is_drawn_over_that_of_another_image(mini_root, tmp_path):
    for name in CLASSES:
        (tmp_path / "val" / name).mkdir(parents=True)
        image = min((mini_root / "imagenet/val" / name).iterdir())
        (tmp_path / "val" / name / f"{name}.png").write_bytes(image.read_bytes())
    (tmp_path / f"val/{CLASSES[1]}/same.png").write_bytes(image.read_bytes())
    options = [f"test_dataloader.dataset.data_root={tmp_path}"]
    command = evaluate(
        *(tmp_path / "work", "none.pth", "--show-dir", tmp_path / "shown"),
        *("--cfg-options", *options),
    )
    assert last_line(run_warm(*command)).startswith("error: no checkpoint at 'none.pth'")
    (tmp_path / f"val/{CLASSES[0]}/same.png").write_bytes(image.read_bytes())
    line = last_line(run_warm(*command))
    assert f"{CLASSES[0]}/same.png and " in line
    assert line.endswith("rename one, or draw each folder by `hb demo`")


def test_a_file_for_predictions_is_tried_before_they_are_computed(tmp_path):
    (tmp_path / "a file").touch()
    out = tmp_path / "a file/p.pkl"
    # the checkpoint, which is not there either, is read later
    line = last_line(run_warm(*evaluate(tmp_path / "work", "none.pth", "--out", out)))
    assert line.startswith(f"error: cannot write {out}")


def test_resuming_has_one_way(tmp_path):
    line = last_line(run_warm(*train(tmp_path, options=["resume=True"])))
    assert line.endswith("resume=True: leave it out, and give --resume instead")


def test_processes_need_what_starts_them(tmp_path):
    line = last_line(run_warm(*train(tmp_path, "--launcher", "pytorch")))
    assert "torchrun --nproc-per-node" in line


def test_a_table_is_saved_although_nobody_reads_what_is_printed(tmp_path, monkeypatch):
    class Closed:
        def write(self, text):
            raise BrokenPipeError

        def flush(self):
            raise BrokenPipeError

        def isatty(self):
            return False

    row = dict(operator="a", implementation="b", error="c")
    monkeypatch.setattr(sys, "stdout", Closed())
    with pytest.raises(BrokenPipeError):
        report([row], describe(Settings((8, 8))), tmp_path / "t.json", markdown=True)
    assert json.loads((tmp_path / "t.json").read_text())["rows"] == [row]


def test_a_reader_that_leaves_ends_a_command_quietly():
    command = f"{sys.executable} tools/weights.py list | true; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(
        ["bash", "-c", command], cwd=REPOSITORY, env=ENVIRONMENT, capture_output=True, text=True
    )
    assert done.stdout.split() == ["141"]
    assert "Traceback" not in done.stderr
    assert "BrokenPipe" not in done.stderr
