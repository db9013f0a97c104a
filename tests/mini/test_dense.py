"""Laws of the mini preset of heads without RoIs, of which RetinaNet's sees the image at once."""

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope

from hybrid_backbones.mini import preset
from hybrid_backbones.mini.preset import apply_mini
from hybrid_backbones.mini.settings import dicts


@pytest.fixture
def read(repository, monkeypatch):
    monkeypatch.setattr(preset, "draw_mini", lambda root: root)

    def read(name):
        cfg = Config.fromfile(repository / "configs" / f"{name}.py")
        apply_mini(cfg, repository)
        return cfg

    return read


@pytest.mark.parametrize("name", ["retinanet_swiftformer_l1", "retinanet_mixformer_b1"])
def test_predictions_depend_on_the_image_from_the_start(read, name):
    cfg = read(name)
    with DefaultScope.overwrite_default_scope("mmdet"):
        model = MODELS.build(cfg.model)
    model.init_weights()
    with torch.no_grad():
        levels = model.bbox_head(model.extract_feat(torch.randn(2, 3, 64, 64)))
    # a step of Adam moves a bias, which is of all images, by the learning rate
    step = cfg.optim_wrapper.optimizer.lr
    for maps in levels:
        # the last two levels are those of shapes larger than the set has
        for first, second in maps[:3]:
            assert (first - second).square().mean().sqrt() > 200 * step
    for scores in levels[0]:
        # the prior of the focal loss
        assert scores.sigmoid().mean() == pytest.approx(0.01, rel=0.2)


def test_every_retinanet_has_norms_in_its_head_and_no_other_detector_is_changed(read, repository):
    names = [path.stem for path in sorted((repository / "configs").glob("retinanet_*.py"))]
    for model in (read(name).model for name in names):
        assert model.bbox_head.norm_cfg.type == "GN"
        assert model.neck.out_channels == model.bbox_head.in_channels
    for name in ("fasterrcnn_r50", "rtmdet_swiftformer_xs"):
        given = Config.fromfile(repository / "configs" / f"{name}.py").model
        widths, mini_widths = (
            [part.get("out_channels") for part in dicts(model)]
            for model in (given.neck, read(name).model.neck)
        )
        assert mini_widths == widths


def test_heads_without_rois_have_half_of_their_depth(read, repository):
    depths = {}
    for name in ("retinanet_r50", "rtmdet_mixformer_b1", "rtmdetins_uniformer_xxs"):
        given = Config.fromfile(repository / "configs" / f"{name}.py").model
        depths[name] = given.bbox_head.stacked_convs, read(name).model.bbox_head.stacked_convs
    assert depths["retinanet_r50"] == (4, 2)
    assert depths["rtmdet_mixformer_b1"] == depths["rtmdetins_uniformer_xxs"] == (2, 1)
