"""The leaderboard of the mini set in docs/leaderboard: which networks it has; all of them learn."""

import csv
from collections import defaultdict

import pytest
from mmengine.config import Config

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
