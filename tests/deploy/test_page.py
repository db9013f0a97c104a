"""The page of exports: it shows what was measured, of every backbone and head."""

import json

import pytest
from mmengine.config import Config

from hybrid_backbones import backbones
from hybrid_backbones.deploy.page import CASES, page_of, write_page
from hybrid_backbones.mini.preset import dicts


@pytest.fixture(scope="module")
def reports(repository):
    return json.loads((repository / "docs/deploy.json").read_text())


def test_the_page_is_that_of_the_saved_reports(repository, reports):
    assert {case.config for case in CASES} >= reports.keys()
    assert (repository / "docs/deploy.md").read_text() == page_of(reports)


def test_every_backbone_and_head_is_on_the_page(repository):
    types = set()
    for case in CASES:
        cfg = Config.fromfile(repository / f"configs/{case.config}.py")
        types |= {settings.get("type") for settings in dicts(cfg.model)}
    heads = {"RetinaNet", "MaskRCNN", "CascadeRCNN", "UPerHead", "FPNHead", "ImageClassifier"}
    kinds = {*backbones.__all__} - {"HierarchicalBackbone"}
    assert kinds | heads <= types


def test_what_is_on_the_page_keeps_its_bounds(reports):
    for report in reports.values():
        assert report["dynamic"]
        assert report["errors"].keys() == report["bounds"].keys()
        assert all(error <= report["bounds"][name] for name, error in report["errors"].items())


def test_a_name_that_is_not_on_the_page_is_one_line(repository, tmp_path):
    with pytest.raises(ValueError, match="not on the page: imagenet_r50; there are"):
        write_page(repository / "configs", tmp_path, ["imagenet_r50"])
    assert not list(tmp_path.iterdir())
