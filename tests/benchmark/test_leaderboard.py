"""Laws of the leaderboard: launchers, pictures and costs, without any training."""

import json
import os
import random
import subprocess
import sys
import time
from dataclasses import replace
from datetime import datetime
from itertools import combinations

import pytest
from mmengine.config import Config

from hybrid_backbones.benchmark import launchers
from hybrid_backbones.benchmark.board_plots import Point, draw_board, pareto_front
from hybrid_backbones.benchmark.launchers import run_here, submit, write_script
from hybrid_backbones.benchmark.one_run import (
    _training_memory,
    training_seconds,
    training_speed,
)
from hybrid_backbones.benchmark.real_runs import Speed, count_images, expected_cost, read_speeds
from hybrid_backbones.benchmark.zoo_table import read_zoo
from hybrid_backbones.config_files import SPEEDS
from hybrid_backbones.training.stop import GRACE

# a run that says when it began and ended, and then does as its config is called
FAKE = """
import json, pathlib, sys, threading, time, os, signal
folder = pathlib.Path(sys.argv[1])
name = json.loads((folder / "run.json").read_text())["config"]
note = lambda what: (folder / what).write_text(str(time.time()))
note("began")
(folder / "pid").write_text(str(os.getpid()))
for variable in ("OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES"):
    (folder / variable).write_text(os.environ.get(variable, ""))
if "endless" in name:
    sys.stdin.read()
    sys.exit(143)
if "fails" in name:
    sys.exit(3)
time.sleep(0.3)
note("ended")
(folder / "result.json").write_text("{}")
"""
# a run that does not stop
DEAF = """
import pathlib, signal, sys, time
folder = pathlib.Path(sys.argv[1])
signal.signal(signal.SIGTERM, signal.SIG_IGN)
(folder / "deaf").touch()
if folder.name.startswith("b"):
    while not (folder.parent / "a_0/deaf").exists():
        time.sleep(0.05)
    (folder / "result.json").write_text("{}")
else:
    time.sleep(60)
"""


@pytest.fixture
def fake(monkeypatch):
    """Runs are fakes."""
    monkeypatch.setattr(launchers, "COMMAND", (sys.executable, "-S", "-c", FAKE))


def test_the_front_has_all_points_that_no_other_dominates_and_no_more():
    draw = random.Random(0)
    for _ in range(200):
        # few values, so that there are ties
        pairs = [(draw.randint(1, 6), draw.randint(1, 6)) for _ in range(draw.randint(1, 12))]
        points = [Point(str(i), *pair, 0.0, "AP") for i, pair in enumerate(pairs)]
        dominated = {
            p.name
            for p in points
            for q in points
            if q.cost <= p.cost and q.score >= p.score and (q.cost, q.score) != (p.cost, p.score)
        }
        front = pareto_front(points)
        assert {p.name for p in front} == {p.name for p in points} - dominated
        assert [p.cost for p in front] == sorted(p.cost for p in front)


def test_names_in_a_picture_overlap_neither_each_other_nor_the_edge(tmp_path):
    draw = random.Random(0)
    # a crowd, and two far from it
    far = [Point(f"far_{i}", 20.0 + i, 40.0 + i, 0.1, "box AP") for i in (0, 1)]
    panels = {
        title: far
        + [
            Point(f"backbone_{i}", draw.uniform(20.4, 20.6), draw.uniform(40.4, 40.6), 0.0, "AP")
            for i in range(8)
        ]
        for title in ("Mask R-CNN", "RetinaNet")
    }
    figure = draw_board(panels, "parameters (M)", tmp_path / "picture.png")
    assert (tmp_path / "picture.png").read_bytes().startswith(b"\x89PNG")
    assert [path.name for path in tmp_path.iterdir()] == ["picture.png"]
    assert [axes.get_title() for axes in figure.axes] == [*panels]
    for axes in figure.axes:
        boxes = {t.get_text(): t.get_window_extent() for t in axes.texts if t.get_text()}
        assert len(boxes) == 10
        assert [p for p in combinations(boxes, 2) if boxes[p[0]].overlaps(boxes[p[1]])] == []
        frame = axes.get_window_extent()
        assert all(frame.x0 <= b.x0 and b.x1 <= frame.x1 for b in boxes.values())


def test_no_accuracy_above_all_is_on_an_axis(tmp_path):
    points = [Point(f"backbone_{i}", 20.0 + i, 100.0, 0.0, "top-1") for i in range(3)]
    (axes,) = draw_board({"Classification": points}, "FLOPs (G)", tmp_path / "a.png").axes
    ticks = list(axes.get_yticks())
    assert max(ticks) == 100
    assert len(ticks) > 1


def test_a_damaged_result_is_named(make):
    run = make("maskrcnn_r50", 0, {})
    path = run.folder / "result.json"
    path.write_text(path.read_text()[:20])
    with pytest.raises(ValueError, match=rf"{path} is damaged .* remove it"):
        _ = run.result


def test_stopped_runs_have_the_time_that_the_page_on_clusters_names(repository):
    assert f"below the {GRACE} seconds" in (repository / "docs/clusters.md").read_text()


def test_a_stopped_run_has_its_time_before_it_is_killed(make, monkeypatch):
    monkeypatch.setattr(launchers, "COMMAND", (sys.executable, "-S", "-c", DEAF))
    monkeypatch.setattr(launchers, "GRACE", 1.5)
    ended = run_here([make("a"), make("b")], 2)
    assert next(ended).name == "b"
    begin = time.monotonic()
    ended.close()
    assert 1.5 <= time.monotonic() - begin < 20


def test_of_several_reasons_of_a_failure_the_first_counts(make):
    run = make("maskrcnn_r50")
    run.fail("first")
    run.fail("second")
    assert run.error == "first"
    run.finish({})
    assert run.error is None


def test_a_training_took_as_long_as_all_its_parts(make):
    run = make("maskrcnn_r50")
    assert training_seconds(run) is None
    for begin, seconds in (("20261126_100000", 60), ("20261126_120000", 30.2)):
        log = run.work_dir / begin / f"{begin}.log"
        log.parent.mkdir(parents=True)
        log.touch()
        end = datetime.strptime(begin, "%Y%m%d_%H%M%S").timestamp() + seconds
        os.utime(log, (end, end))
    assert training_seconds(run) == 90


def test_speed_and_memory_are_those_of_all_logged_steps_that_are_whole(make):
    run = make("maskrcnn_r50")
    first = (9.0, 9000), (0.5, 5000), (0.7, 5100)
    for begin, steps, rest in (("a", first, '{"loss": 1.0, "ti'), ("b", [(8.0, 700)], "")):
        lines = [json.dumps(dict(loss=1.0, time=time, memory=peak)) for time, peak in steps]
        path = run.work_dir / begin / "vis_data" / "scalars.json"
        path.parent.mkdir(parents=True)
        # a full disk cut off the last line
        path.write_text("\n".join(['{"coco/bbox_mAP": 0.5, "step": 1}', *lines, rest]))
    # each line has the peak of its own steps; the first step of a part, if it has others, warms up
    assert _training_memory(run) == 9000
    cfg = Config(dict(train_dataloader=dict(batch_size=4)))
    assert training_speed(run, cfg) == pytest.approx(4 / 0.7)


@pytest.mark.usefixtures("fake")
def test_runs_are_computed_some_at_a_time_and_one_that_fails_stops_no_other(make):
    runs = [make(name) for name in ("a", "b", "c", "fails", "d")]
    assert {run.name for run in run_here(runs, 2)} == {"a", "b", "c", "d", "fails"}
    assert [run.name for run in runs if run.result is None] == ["fails"]
    assert "exit code 3" in runs[3].error
    times = [
        tuple(float((run.folder / what).read_text()) for what in ("began", "ended"))
        for run in runs
        if run.result is not None
    ]
    at_once = [sum(a <= start < b for a, b in times) for start, _ in times]
    assert max(at_once) == 2


@pytest.mark.usefixtures("fake")
def test_each_run_has_a_share_of_the_cores(make, monkeypatch):
    runs = [make(name) for name in ("a", "b")]
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)))
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    list(run_here(runs, 2))
    assert [(run.folder / "OMP_NUM_THREADS").read_text() for run in runs] == ["4", "4"]


@pytest.mark.usefixtures("fake")
def test_who_stops_early_stops_the_runs(make):
    runs = [make("endless"), make("a")]
    ended = run_here(runs, 2)
    assert next(ended).name == "a"
    pid = int((runs[0].folder / "pid").read_text())
    ended.close()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    # it goes on another time
    assert runs[0].error is None


@pytest.mark.usefixtures("fake")
def test_each_run_has_gpus_of_its_own_and_too_few_are_refused(make, monkeypatch):
    monkeypatch.setattr(launchers.torch.cuda, "is_available", lambda: True)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2,5")
    runs = [replace(make(name), processes=2) for name in ("a", "b")]
    list(run_here(runs, 2))
    assert [(run.folder / "CUDA_VISIBLE_DEVICES").read_text() for run in runs] == ["0,1", "2,5"]
    with pytest.raises(ValueError, match="needs 6 GPUs, but there are 4"):
        next(run_here(runs, 3))


SBATCH = """#!/bin/bash
# all tasks of the array, one after the other
last=$(sed -n 's/^#SBATCH --array=0-\\([0-9]*\\)%.*/\\1/p' "${@: -1}")
for i in $(seq 0 "$last"); do SLURM_ARRAY_TASK_ID=$i bash "${@: -1}" < /dev/null || exit 1; done
echo "42;cluster"
"""


def install(folder, **programs):
    folder.mkdir()
    for name, text in programs.items():
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)


@pytest.mark.usefixtures("fake")
def test_the_array_of_slurm_has_a_task_for_each_run(make, tmp_path, monkeypatch):
    runs = [replace(make(name), processes=4) for name in ("a", "b c")]
    options = ["partition=gpu", "exclusive", "gres=gpu:h100:4", "comment=two words"]
    script = write_script(runs, tmp_path, 3, options)
    text = script.read_text()
    assert subprocess.run(["bash", "-n", script]).returncode == 0
    for option in (
        "array=0-1%3",
        "partition=gpu",
        "exclusive",
        "gres=gpu:h100:4",
        "requeue",
        'comment="two words"',
    ):
        assert f"#SBATCH --{option}\n" in text
    assert text.count("--gres") == 1
    path = os.environ["PATH"]
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ValueError, match=rf"nothing was submitted: .* run sbatch {script}"):
        submit(script)
    install(tmp_path / "bin", sbatch=SBATCH, squeue="#!/bin/bash\necho waiting\n")
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{path}")
    assert "as job 42;" in submit(script)
    assert all(run.result is not None for run in runs)
    with pytest.raises(ValueError, match="scancel 42"):
        submit(script)
    (tmp_path / "bin/squeue").write_text("#!/bin/bash\n")
    (tmp_path / "bin/sbatch").write_text("#!/bin/bash\necho no such partition >&2; exit 1\n")
    with pytest.raises(ValueError, match=r"refused .*no such partition"):
        submit(script)


def test_costs_are_measured_or_between_the_fastest_and_the_slowest_measured(make):
    macs = {row.config: row.macs for row in read_zoo().rows}
    speeds = [Speed("maskrcnn_r50", 10.0, "GPU"), Speed("maskrcnn_acmix_r50", 5.0, "GPU")]
    own = expected_cost(make("maskrcnn_r50", images=72_000), speeds)
    assert own == (2.0, 2.0, "GPU")
    low, high, _ = expected_cost(make("retinanet_r50", images=72_000), speeds)
    rates = [s.images_per_s * macs[s.config] / macs["retinanet_r50"] for s in speeds]
    assert (low, high) == pytest.approx((20 / max(rates), 20 / min(rates)))
    # segmentors are measured at other sizes
    assert expected_cost(make("upernet_r50", images=72_000), speeds) is None
    assert expected_cost(make("maskrcnn_r50", images=None), speeds) is None
    real = make("maskrcnn_r50", 1, dict(train_images_per_s=40.0, processes=8), mini=False)
    assert expected_cost(replace(real, images=72_000), speeds) == (4.0, 4.0, "a machine")


def test_images_of_schedules_are_those_of_the_publications(repository):
    images = {
        name: count_images(Config.fromfile(repository / f"configs/{name}.py"))
        for name in ("maskrcnn_r50", "upernet_r50", "imagenet_swiftformer_xs", "locformer_swin_t")
    }
    assert images == {
        "maskrcnn_r50": 12 * 117_266,
        "upernet_r50": 160_000 * 16,
        "imagenet_swiftformer_xs": 300 * 1_281_167,
        "locformer_swin_t": None,
    }
    # the mini preset brings the training data of a config without
    assert count_images(Config(dict(default_scope="mmdet"))) is None


def test_the_table_measured_on_a_gpu_is_read(tmp_path):
    speeds = read_speeds([SPEEDS])
    assert len({speed.config for speed in speeds}) == len(speeds) >= 3
    assert all("H100" in speed.device for speed in speeds)
    (tmp_path / "x.json").write_text("[]")
    with pytest.raises(ValueError, match=r"no table of hb benchmark"):
        read_speeds([tmp_path / "x.json"])
