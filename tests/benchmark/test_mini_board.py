"""The leaderboard of the mini set in docs/leaderboard: which networks it has; all of them learn.

It is that of today's configs, mini preset and page.
"""

import csv
import json
import shlex
import shutil
from collections import defaultdict

import pytest
from mmengine.config import Config

from hybrid_backbones.benchmark import board_page
from hybrid_backbones.benchmark.board_page import BOARD, PAGE, TABLE, save_board, write_board
from hybrid_backbones.benchmark.leaderboard import Plan
from hybrid_backbones.config_files import SPEEDS
from hybrid_backbones.create import FAMILIES

# by method: metric, and what a network reaches that has learnt, in the units of the metric
LEARNT = {
    "imagenet": ("accuracy/top1", 90),
    "locformer": ("coco/bbox_mAP_50", 0.5),
    "maskrcnn": ("coco/bbox_mAP_50", 0.5),
    "retinanet": ("coco/bbox_mAP_50", 0.4),
    "upernet": ("mIoU", 50),
}


@pytest.fixture(scope="module")
def rows(repository):
    with (repository / "docs/leaderboard/leaderboard.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def method_of(row):
    return row["config"].partition("_")[0]


def test_it_is_what_its_command_writes_today(rows, repository, mini_root, tmp_path, monkeypatch):
    monkeypatch.chdir(repository)
    # they take long, and their bytes are matplotlib's
    monkeypatch.setattr(board_page, "draw_board", lambda *_: None)
    kept, out = repository / "docs/leaderboard", tmp_path / "board"
    names = [row["config"] for row in rows]
    runs = Plan(names, out, mini=True).runs()
    today = {run.name: run.digest for run in runs}
    changed = [row["config"] for row in rows if row["config_sha256"] != today[row["config"]]]
    assert not changed, "train these again, by the command on the page"
    for run in runs:
        run.save()
        shutil.copy(kept / run.folder.name / "result.json", run.folder)
    command = json.loads((kept / BOARD).read_text())["command"]
    program, arguments = shlex.join(shlex.split(command)[:2]), shlex.join(shlex.split(command)[2:])
    assert shlex.split(arguments)[: len(names)] == names
    save_board(out, runs, program=program, arguments=arguments, speeds=[SPEEDS])
    write_board(out)
    for name in (PAGE, TABLE, BOARD):
        assert (out / name).read_text() == (kept / name).read_text(), f"{name}: give its command"


def test_every_backbone_is_trained_by_every_method(rows, repository):
    networks = defaultdict(list)
    for row in rows:
        cfg = Config.fromfile(repository / f"configs/{row['config']}.py")
        networks[method_of(row)].append(cfg.model.backbone.type)
    assert networks.pop("locformer") == ["SwinRAM"]
    every = sorted({network.__name__ for _, network, *_ in FAMILIES})
    assert networks.keys() == LEARNT.keys() - {"locformer"}
    assert all(sorted(types) == every for types in networks.values())


def test_every_network_learns(rows):
    for row in rows:
        assert row["state"] == "finished", row["config"]
        metric, enough = LEARNT[method_of(row)]
        assert float(row[metric]) >= enough, row["config"]


def test_every_training_took_at_most_ten_minutes(rows):
    # with its validations
    seconds = {row["config"]: int(row["train_seconds"]) for row in rows}
    assert {config: taken for config, taken in seconds.items() if taken > 600} == {}
