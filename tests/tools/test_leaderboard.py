"""`tools/leaderboard.py`, killed and given again, with real trainings on the mini set."""

import json
import signal
import time
from functools import partial
from pathlib import Path

import pytest
from tool_runs import CONFIG, REPOSITORY, run_warm, start

from hybrid_backbones.benchmark.leaderboard import Plan

pytestmark = pytest.mark.slow
# two steps of each epoch, with a checkpoint after each
SHORT = ["train_cfg.max_epochs=3", "train_cfg.val_interval=3"]
SHORT += ["train_dataloader.dataset.indices=32"]
ONE_RUN = ("-m", "hybrid_backbones.benchmark.one_run")


def command(out, *flags, configs=(CONFIG,), options=SHORT):
    return (
        *("tools/leaderboard.py", *configs, "--mini", "--out", out, *flags),
        *("--cfg-options", *options),
    )


def results(out):
    found = {path.parent.name: json.loads(path.read_text()) for path in out.glob("*/result.json")}
    return dict(sorted(found.items()))


def processes_in(folder):
    """Return the command lines of all processes that have a folder in them."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_bytes().decode(errors="replace")
        except OSError:
            continue
        found += [line] if str(folder) in line else []
    return found


def wait_for(condition, seconds=120):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.1)


def steps(run):
    """Return the logged lines of all parts of a training."""
    paths = run.work_dir.glob("*/vis_data/scalars.json")
    return [line for path in paths for line in path.read_text().splitlines()]


def has_gone_on(process, run, num_steps):
    """Return whether a run has logged more steps; it must not have ended."""
    assert process.poll() is None, process.stderr.read()
    return len(steps(run)) > num_steps


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A leaderboard that was not interrupted, with configs that fail."""
    out = tmp_path_factory.mktemp("whole")
    fails, broken = out / "fails.py", out / "broken.py"
    fails.write_text(
        f"_base_ = {str(REPOSITORY / CONFIG)!r}\nmodel = dict(backbone=dict(depth=7))\n"
    )
    broken.write_text("model = unknown\n")
    return out, run_warm(*command(out, configs=(fails, broken, CONFIG)))


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    """A leaderboard of two seeds that was killed in the middle, and given again."""
    out = tmp_path_factory.mktemp("killed")
    leader = start(*command(out, "--seeds", "2"))
    wait_for(lambda: list(out.glob("*seed0*/train/epoch_1.pth")) or leader.poll() is not None)
    leader.send_signal(signal.SIGKILL)
    leader.communicate()
    # its run ends with it
    wait_for(lambda: not processes_in(out), 30)
    assert results(out) == {}
    return out, run_warm(*command(out, "--seeds", "2"))


def test_a_config_that_fails_has_its_reason_on_the_page_and_stops_no_other(whole):
    out, (code, said, err) = whole
    page = (out / "leaderboard.md").read_text()
    assert code == 1
    assert "Traceback" not in err
    assert len(results(out)) == 1
    assert "failed with seed 0" in said
    assert [line for line in page.splitlines() if "| `fails` | failed with seed 0: depth" in line]
    assert "NameError: name 'unknown' is not defined" in page
    assert "| `imagenet_acmix_r26` | top-1 " in page


def test_a_row_has_all_figures(whole):
    out, _ = whole
    (result,) = results(out).values()
    figures = ("params", "macs", "train_images_per_s", "train_seconds", "train_memory_mib")
    for figure in (*figures, "latency_ms"):
        assert result[figure] > 0, figure
    assert result["notes"] == []
    for name in ("accuracy_params.png", "accuracy_macs.png", "accuracy_latency.png"):
        assert (out / name).read_bytes().startswith(b"\x89PNG")


@pytest.mark.exhaustive
def test_killed_and_given_again_it_finishes_the_same(whole, killed):
    out, (code, said, err) = killed
    assert code == 0, err
    assert "2 runs, 2 of them to do" in said
    first, second = results(out).values()
    (expected,) = results(whole[0]).values()
    # bit for bit, and a part of it before the kill
    assert first["weights"] == expected["weights"]
    assert first["metrics"] == expected["metrics"]
    assert second["weights"] != first["weights"]
    assert len(list(out.glob("*seed0*/train/*/vis_data"))) == 2
    page = (out / "leaderboard.md").read_text()
    assert "2 of 2 runs are finished" in page
    assert " ± " in page
    digest = [
        next(
            line.split(" | ")[-3]
            for line in text.splitlines()
            if "`imagenet_acmix_r26` | top" in line
        )
        for text in (page, (whole[0] / "leaderboard.md").read_text())
    ]
    assert digest[0] == digest[1]


@pytest.mark.exhaustive
def test_what_is_finished_is_not_run_again(killed):
    out, _ = killed
    before = results(out), {p: p.stat().st_mtime for p in out.glob("*/train/*.pth")}
    code, said, err = run_warm(*command(out, "--seeds", "2"))
    assert code == 0, err
    assert "2 runs, 0 of them to do" in said
    assert (results(out), {p: p.stat().st_mtime for p in out.glob("*/train/*.pth")}) == before


@pytest.mark.exhaustive
def test_torchrun_trains_with_two_processes(tmp_path):
    options = ["train_cfg.max_epochs=1", *SHORT[1:]]
    flags = ("--launcher", "torchrun", "--gpus", "2")
    code, said, err = run_warm(*command(tmp_path, *flags, options=options))
    assert code == 0, said + err
    (result,) = results(tmp_path).values()
    assert result["processes"] == 2
    assert "2 training processes" in (tmp_path / "leaderboard.md").read_text()


@pytest.mark.exhaustive
def test_several_processes_of_a_run_save_and_end_with_it(tmp_path, mini_root, monkeypatch):
    monkeypatch.chdir(REPOSITORY)
    options = {"default_hooks.logger.interval": 1, "train_dataloader.batch_size": 4}
    plan = Plan([CONFIG], tmp_path, mini=True, options=options, launcher="torchrun", gpus=2)
    (run,) = plan.runs()
    run.save()
    for number, code in ((signal.SIGUSR1, 138), (signal.SIGKILL, -9)):
        process, begun = start(*ONE_RUN, run.folder), len(steps(run))
        wait_for(partial(has_gone_on, process, run, begun))
        # that from which it goes on
        (run.work_dir / "stopped.pth").unlink(missing_ok=True)
        process.send_signal(number)
        _, err = process.communicate()
        assert process.returncode == code, err
        wait_for(lambda: not processes_in(tmp_path), 30)
        assert (run.work_dir / "stopped.pth").is_file()
        assert run.error is None
