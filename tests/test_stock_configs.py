"""Backbones in pipelines that users already have: configs of the installed OpenMMLab packages."""

from pathlib import Path

import mmdet
import mmpretrain
import mmseg
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope

pytestmark = pytest.mark.upstream

# stock config of a package, and what changes in its model; the rest is as installed
SWAPS = {
    "deformable-detr with UniFormer": (
        *(mmdet, "deformable_detr/deformable-detr-refine-twostage_r50_16xb2-50e_coco.py"),
        dict(
            backbone=dict(
                type="UniFormer", arch="small", attention="hybrid", out_indices=(1, 2, 3)
            ),
            neck=dict(in_channels=[128, 320, 512]),
        ),
    ),
    "detr with SwiftFormer": (
        *(mmdet, "detr/detr_r50_8xb2-150e_coco.py"),
        dict(
            backbone=dict(type="SwiftFormer", arch="xs", out_indices=(3,)),
            neck=dict(in_channels=[220]),
        ),
    ),
    "faster-rcnn with BiFormer": (
        *(mmdet, "faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py"),
        dict(
            backbone=dict(type="BiFormer", arch="tiny", num_windows=16),
            neck=dict(in_channels=[64, 128, 256, 512]),
        ),
    ),
    "segformer with MixFormer": (
        *(mmseg, "segformer/segformer_mit-b0_8xb2-160k_ade20k-512x512.py"),
        dict(
            backbone=dict(type="MixFormer", arch="b0"),
            decode_head=dict(in_channels=[24, 48, 96, 192]),
        ),
    ),
    "resnet with ACmixSwin": (
        *(mmpretrain, "resnet/resnet50_8xb32_in1k.py"),
        dict(
            backbone=dict(type="ACmixSwin", arch="tiny", out_norm="final", out_indices=(3,)),
            head=dict(in_channels=768),
        ),
    ),
}


@pytest.mark.parametrize(("package", "stock", "changes"), SWAPS.values(), ids=SWAPS)
def test_a_backbone_takes_its_place_in_a_stock_config(package, stock, changes, tmp_path):
    scope = package.__name__
    path = tmp_path / "mine.py"
    stock = Path(package.__file__).parent / ".mim" / "configs" / stock
    backbone, others = changes["backbone"], {k: v for k, v in changes.items() if k != "backbone"}
    path.write_text(
        f"_base_ = {str(stock)!r}\n"
        "custom_imports = dict(imports=['hybrid_backbones'])\n"
        f"model = dict(backbone=dict(_delete_=True, **{backbone!r}), **{others!r})\n"
    )
    cfg = Config.fromfile(path)
    with DefaultScope.overwrite_default_scope(scope):
        model = MODELS.build(cfg.model)
        model.init_weights()
        features = model.extract_feat(torch.randn(2, 3, 64, 96))
    maps = [x for x in features if isinstance(x, torch.Tensor)]
    assert maps
    sum(x.square().mean() for x in maps).backward()
    grads = [p.grad for p in model.backbone.parameters()]
    assert all(grad is not None and grad.isfinite().all() for grad in grads)
