"""Laws of the leaderboard's plan: which runs there are, and what stops none of them."""

import os
import re
import shutil
import signal
from dataclasses import replace

import pytest
from mmengine.config import Config

from hybrid_backbones.benchmark import leaderboard
from hybrid_backbones.benchmark.board_page import PAGE, save_board, write_board
from hybrid_backbones.benchmark.launchers import LAUNCHERS
from hybrid_backbones.benchmark.leaderboard import Plan
from hybrid_backbones.benchmark.real_runs import ROOTS
from hybrid_backbones.benchmark.runs import Run
from hybrid_backbones.training.errors import Terminated

CONFIG = "imagenet_swiftformer_xs"
# configs that cannot be run, as bytes, and what their rows say
BROKEN = {
    "syntax": (b"model = (", "SyntaxError"),
    "bytes": (b'"""\xff"""', "UnicodeDecodeError"),
    "training": (b"train_dataloader = None", "does not set train_dataloader"),
    "test": (
        b"test_dataloader = test_cfg = test_evaluator = None",
        "does not set test_dataloader, test_cfg, test_evaluator",
    ),
    "scope": (b"default_scope = 'mmyolo'", "mmpretrain', 'mmseg'], got 'mmyolo'"),
}


def write_page(plan, runs):
    for run in runs:
        run.save()
    save_board(plan.out, runs, program="hb leaderboard", arguments="", speeds=[])
    write_board(plan.out)
    return (plan.out / PAGE).read_text()


@pytest.fixture
def _own_signals(monkeypatch):
    """SIGTERM stays the tests' own."""
    monkeypatch.setattr(leaderboard, "stop_on_sigterm", lambda: None)


@pytest.fixture
def derive(tmp_path, repository):
    """A function that writes a config which derives from another one."""

    def write(name, text, docstring=""):
        path = tmp_path / f"{name}.py"
        base = f'"""{docstring}"""\n_base_ = {str(repository / f"configs/{CONFIG}.py")!r}\n'
        path.write_bytes(base.encode() + text)
        return str(path)

    return write


@pytest.mark.parametrize("case", BROKEN)
def test_a_config_that_cannot_be_run_has_a_row_and_stops_no_other(tmp_path, derive, case):
    text, words = BROKEN[case]
    plan = Plan([derive("broken", text), CONFIG], tmp_path / "out")
    broken, good = plan.runs()
    assert words in broken.error
    assert "unexpected" not in broken.error
    assert good.error is None
    page = write_page(plan, [broken, good])
    assert "| `broken` | failed with seed 0: " in page
    assert f"| `{CONFIG}` | 1 of 1 not finished | top-1 75.7 |" in page


def test_a_config_by_name_and_by_path_is_one(tmp_path, repository):
    path = repository / f"configs/{CONFIG}.py"
    plan = Plan([CONFIG, str(path), f"{path.parent}/../configs/{CONFIG}.py"], tmp_path, seeds=2)
    assert [run.seed for run in plan.runs()] == [0, 1]


def test_one_process_is_the_same_by_every_launcher(tmp_path):
    plans = [Plan([CONFIG], tmp_path, launcher=name, gpus=1) for name in LAUNCHERS]
    assert len({plan.runs()[0].folder for plan in plans}) == 1


def test_a_wrong_name_leaves_no_folder(tmp_path):
    with pytest.raises(ValueError, match="no config at swiftfromer"):
        leaderboard.lead(Plan(["swiftfromer"], tmp_path / "out"), "", "", print)
    assert list(tmp_path.iterdir()) == []


def lead(plan):
    """Lead a plan; return how many runs failed, and what was said."""
    said = []
    return leaderboard.lead(plan, "hb leaderboard", "", said.append), said


@pytest.mark.usefixtures("_own_signals")
def test_a_config_that_cannot_be_run_is_named_at_once(tmp_path, derive):
    failed, said = lead(Plan([derive("broken", b"model = (")], tmp_path / "out"))
    assert failed == 1
    assert said[1].startswith("broken, seed 0: failed with seed 0: cannot read the config")


@pytest.mark.usefixtures("_own_signals")
def test_a_run_that_slurm_tries_again_has_not_failed(tmp_path, install, monkeypatch):
    plan = Plan([CONFIG], tmp_path / "out", launcher="slurm")
    for run in plan.runs():
        run.fail("its node was lost")
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    with pytest.raises(ValueError, match="nothing was submitted"):
        lead(plan)
    install(sbatch="echo 42")
    failed, said = lead(plan)
    assert failed == 0
    assert "as job 42;" in said[1]


@pytest.mark.usefixtures("_own_signals")
def test_runs_that_slurm_still_has_stay_on_the_page(tmp_path, install, monkeypatch):
    out = tmp_path / "out"
    install(sbatch="echo 42", squeue="echo waiting")
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setattr(leaderboard, "run_here", lambda *_: (run for run in ()))
    waiting = Plan([CONFIG], out, launcher="slurm")
    other = Plan(["maskrcnn_r50"], out)
    lead(waiting)
    before = {path: path.read_text() for path in out.iterdir() if path.is_file()}
    with pytest.raises(ValueError, match="scancel 42"):
        lead(replace(other, launcher="slurm"))
    assert {path: path.read_text() for path in before} == before
    lead(other)
    (run,) = waiting.runs()
    run.fail("its node was lost")
    # as a task does at its end
    write_board(out)
    page = (out / PAGE).read_text()
    assert f"| `{CONFIG}` | failed with seed 0: its node was lost |" in page
    assert "| `maskrcnn_r50` | 1 of 1 not finished |" in page
    install(squeue="")
    lead(other)
    assert f"| `{CONFIG}` |" not in (out / PAGE).read_text()


def test_a_config_that_a_run_reads_is_not_written(tmp_path):
    plan = Plan([CONFIG], tmp_path)
    (run,) = plan.runs()
    with run.settings.open() as reader:
        plan.runs()
        # another file has its name
        assert os.fstat(reader.fileno()).st_nlink == 0
        assert reader.read() == run.settings.read_text()
    assert Config.fromfile(run.settings).default_scope == "mmpretrain"


@pytest.mark.usefixtures("_own_signals")
@pytest.mark.parametrize("stop", [KeyboardInterrupt(), Terminated(signal.SIGTERM)])
def test_who_stops_it_learns_how_it_goes_on(tmp_path, monkeypatch, stop):
    def run_here(*_):
        raise stop
        yield

    monkeypatch.setattr(leaderboard, "run_here", run_here)
    with pytest.raises(type(stop), match="the same command goes on"):
        lead(Plan([CONFIG], tmp_path))


def test_a_bug_has_its_traceback_beside_the_row(tmp_path, monkeypatch):
    def fail(cfg):
        raise KeyError("ours")

    monkeypatch.setattr(leaderboard, "count_images", fail)
    (run,) = Plan([CONFIG], tmp_path).runs()
    assert "unexpected KeyError: 'ours'; its traceback is in " in run.error
    assert 'raise KeyError("ours")' in run.log.read_text()


def test_a_config_that_is_gone_still_has_its_published_result_on_the_page(tmp_path, derive):
    path = derive("own", b"", docstring="Own.\n\nPublished: top-1 12.3\n")
    plan = Plan([path], tmp_path / "out")
    runs = plan.runs()
    (tmp_path / "own.py").unlink()
    assert "| top-1 12.3 |" in write_page(plan, runs)


def test_a_config_with_other_settings_is_another_run(tmp_path, repository, mini_root, monkeypatch):
    monkeypatch.chdir(repository)
    plan = Plan(["configs/imagenet_swiftformer_xs.py"], tmp_path, mini=True, seeds=2)
    first, second = plan.runs()
    assert first.digest == second.digest
    assert (first.seed, second.seed) == (0, 1)
    assert first.folder != second.folder
    again, *_ = replace(plan, seeds=1, jobs=3).runs()
    assert again.folder == first.folder
    first.save()
    assert Run.load(first.folder) == first
    for changed in (
        dict(options={"train_cfg.max_epochs": 1}),
        dict(flags=dict(amp="bf16")),
        dict(launcher="torchrun", gpus=2),
    ):
        other, *_ = replace(plan, **changed).runs()
        assert other.digest != first.digest
    # the mini set is the same everywhere
    shutil.copytree(mini_root, tmp_path / "elsewhere/data/mini")
    monkeypatch.chdir(tmp_path / "elsewhere")
    moved, *_ = replace(plan, configs=["imagenet_swiftformer_xs"]).runs()
    assert moved.digest == first.digest


@pytest.mark.parametrize(
    ("config", "mini"), [("locformer_swin_t", False), ("upernet_r50", False), (CONFIG, True)]
)
def test_a_config_is_the_same_wherever_its_data_are(tmp_path, mini_root, monkeypatch, config, mini):
    for name in ROOTS:
        monkeypatch.delenv(name, raising=False)
    plan = Plan([config], tmp_path, mini=mini)
    (run,) = plan.runs()
    for folder in ("/disk/a", "/disk/b/"):
        for name in ROOTS:
            monkeypatch.setenv(name, folder + name if name == "SKETCH_ROOT" else folder)
        (moved,) = plan.runs()
        assert moved.digest == run.digest
    settings = Config.fromfile(moved.settings)
    assert mini or settings.train_dataloader.dataset.data_root == folder
    # it may be said in another way, too, and is then another setting
    options = {"train_dataloader.dataset.data_root": "/disk/c"}
    (other,) = replace(plan, options=options).runs()
    assert other.digest != run.digest


def test_the_default_roots_are_those_of_the_configs(repository):
    texts = [path.read_text() for path in (repository / "configs/_base_/datasets").glob("*.py")]
    named = [pair for text in texts for pair in re.findall(r"\{\{\$(\w+_ROOT):(.*?)\}\}", text)]
    assert dict(named) == ROOTS
    assert set(named) == set(ROOTS.items())


def test_mistakes_are_said_before_anything_is_computed(tmp_path, repository):
    with pytest.raises(ValueError, match="no config at"):
        Plan([str(tmp_path / "none.py")], tmp_path).runs()
    broken = tmp_path / "broken.py"
    broken.write_text("model = unknown\n")
    (run,) = Plan([str(broken)], tmp_path / "out").runs()
    assert run.scope is None
    assert "unknown" in run.error
    for wrong, words in (
        (dict(jobs=0), "--jobs must be at least 1"),
        (dict(gpus=2), "--launcher torchrun or slurm"),
        (dict(sbatch=["a=b"]), "--launcher slurm"),
        (dict(mini=True, flags=dict(pretrained=True)), "--mini never does"),
        (dict(options={"randomness.seed": 1}), "how many seeds by --seeds"),
    ):
        with pytest.raises(ValueError, match=words):
            Plan([], tmp_path, **wrong)
