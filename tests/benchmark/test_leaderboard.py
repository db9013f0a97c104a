"""Laws of the leaderboard: measured figures, pictures and costs, without any training."""

import json
import os
import random
import re
import signal
import time
from dataclasses import replace
from datetime import datetime
from itertools import combinations

import pytest
from mmengine.config import Config

from hybrid_backbones.benchmark import training_figures
from hybrid_backbones.benchmark.board_plots import Point, draw_board, pareto_front
from hybrid_backbones.benchmark.one_run import _train, complete
from hybrid_backbones.benchmark.real_runs import (
    Speed,
    count_gpus,
    count_images,
    expected_cost,
    read_speeds,
)
from hybrid_backbones.benchmark.training_figures import (
    training_memory,
    training_seconds,
    training_speed,
)
from hybrid_backbones.benchmark.zoo_table import read_zoo
from hybrid_backbones.config_files import SPEEDS
from hybrid_backbones.training import launch
from hybrid_backbones.training.errors import Terminated


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


def test_times_of_different_machines_have_fronts_of_their_own(tmp_path):
    fast = [Point("a", 10.0, 40.0, 0.0, "AP", "fast"), Point("b", 12.0, 45.0, 0.0, "AP", "fast")]
    # on the other machine, both would be worse than the two above
    slow = [Point("c", 30.0, 30.0, 0.0, "AP", "slow"), Point("d", 40.0, 35.0, 0.0, "AP", "slow")]
    figure = draw_board({"RetinaNet": fast + slow}, "inference (ms)", tmp_path / "a.png")
    (axes,), (legend,) = figure.axes, figure.legends
    fronts = {line.get_label(): line for line in axes.lines if line.get_linestyle() == "--"}
    assert {label: list(line.get_xdata()) for label, line in fronts.items()} == {
        "Pareto front, fast": [10.0, 12.0],
        "Pareto front, slow": [30.0, 40.0],
    }
    assert len({line.get_color() for line in fronts.values()}) == 2
    assert [text.get_text() for text in legend.get_texts()] == list(fronts)


def test_a_damaged_result_is_named(make):
    run = make("maskrcnn_r50", 0, {})
    path = run.folder / "result.json"
    path.write_text(path.read_text()[:20])
    assert run.result is None
    assert re.match(rf"{path} is damaged .*: remove it", run.error)
    # nobody overwrites it
    with pytest.raises(ValueError, match=rf"{path} is damaged .*: remove it"):
        complete(run)


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


def test_the_memory_of_a_training_is_the_highest_of_all_parts_that_trained(make, monkeypatch):
    run = make("maskrcnn_r50")
    run.settings.write_text("train_cfg = dict(max_epochs=1)\n")
    note = run.folder / "memory.json"
    monkeypatch.setattr(launch, "train", lambda _: None)
    _train(run)
    assert not note.exists()

    def train(_):
        part = run.work_dir / str(len(list(run.work_dir.glob("*")))) / "vis_data"
        part.mkdir(parents=True)
        (part / "scalars.json").write_text('{"loss": 1.0}')
        raise Terminated(signal.SIGTERM)

    monkeypatch.setattr(launch, "train", train)
    with pytest.raises(Terminated):
        _train(run)
    assert training_memory(run) > 1
    for earlier in (1.0, 1e9):
        note.write_text(json.dumps(earlier))
        with pytest.raises(Terminated):
            _train(run)
        assert (training_memory(run) == earlier) == (earlier == 1e9)


def test_the_memory_is_noted_before_a_training_is_killed(make, monkeypatch):
    run = make("maskrcnn_r50")
    run.settings.write_text("train_cfg = dict(max_epochs=1)\n")
    monkeypatch.setattr(training_figures, "INTERVAL", 0.01)

    def train(_):
        part = run.work_dir / "part" / "vis_data"
        part.mkdir(parents=True)
        (part / "scalars.json").write_text('{"loss": 1.0}')
        end = time.monotonic() + 10
        while training_memory(run) is None:
            assert time.monotonic() < end
            time.sleep(0.01)

    monkeypatch.setattr(launch, "train", train)
    _train(run)


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
    assert training_memory(run) == 9000
    cfg = Config(dict(train_dataloader=dict(batch_size=4)))
    assert training_speed(run, cfg) == pytest.approx(4 / 0.7)


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


@pytest.mark.parametrize(
    "name", ["upernet_r50", "fpn_swiftformer_l1", "mask2former_ade_mixformer_b1"]
)
def test_the_gpus_of_a_schedule_of_iterations_see_the_images_of_the_publication(repository, name):
    cfg = Config.fromfile(repository / f"configs/{name}.py")
    step = count_gpus(cfg) * cfg.train_dataloader.batch_size
    assert step * cfg.train_cfg.max_iters == count_images(cfg)
    assert count_gpus(Config(dict(train_cfg=dict(max_epochs=12)))) is None


def test_the_table_measured_on_a_gpu_is_read(tmp_path):
    speeds = read_speeds([SPEEDS])
    assert len({speed.config for speed in speeds}) == len(speeds) >= 3
    assert all("H100" in speed.device for speed in speeds)
    (tmp_path / "x.json").write_text("[]")
    with pytest.raises(ValueError, match=r"no table of hb benchmark"):
        read_speeds([tmp_path / "x.json"])
