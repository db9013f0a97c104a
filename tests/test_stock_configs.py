"""Backbones in pipelines that users already have: configs of the installed OpenMMLab packages."""

import os
import subprocess
import sys

import mmengine.hub
import pytest
import torch
from mmdet.testing import demo_mm_inputs
from mmengine.config import Config
from mmengine.logging import MessageHub
from mmengine.model import revert_sync_batchnorm
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, DefaultScope
from mmengine.structures import PixelData
from mmpretrain.structures import DataSample
from mmseg.structures import SegDataSample

from hybrid_backbones.mini.preset import dicts

UNIFORMER = dict(type="UniFormer", arch="small", attention="hybrid")
SWIFTFORMER = dict(type="SwiftFormer", arch="xs")
MIXFORMER = dict(type="MixFormer", arch="b0")
ACMIX = dict(type="ACmixResNet", depth=26)
BIFORMER = dict(type="BiFormer", arch="tiny", num_windows=16)
XVOLUTION = dict(type="XVolutionResNet", depth=18)
# number of channels of each stage
CHANNELS = dict(
    UniFormer=[64, 128, 320, 512],
    SwiftFormer=[48, 56, 112, 220],
    MixFormer=[24, 48, 96, 192],
    ACmixResNet=[256, 512, 1024, 2048],
    BiFormer=[64, 128, 256, 512],
    XVolutionResNet=[64, 128, 256, 512],
)


def after(backbone, first=0):
    """Return the settings of a backbone and of a neck that takes its stages from `first` on."""
    backbone = dict(backbone, out_indices=tuple(range(first, 4)))
    return dict(backbone=backbone, neck=dict(in_channels=CHANNELS[backbone["type"]][first:]))


def segmentor(backbone, **heads):
    """Return the settings of a backbone and of heads that take the given stages of it."""
    channels = CHANNELS[backbone["type"]]
    chosen = {
        name: [channels[i] for i in stages] if isinstance(stages, tuple) else channels[stages]
        for name, stages in heads.items()
    }
    return dict(backbone=backbone, **{n: dict(in_channels=c) for n, c in chosen.items()})


EACH = (0, 1, 2, 3)
NO_WEIGHTS = dict(pretrained=None)
# stock config, and what changes in its model; the rest is as installed
QUICK = {
    "mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py": after(BIFORMER),
    "mmseg::segformer/segformer_mit-b0_8xb2-160k_ade20k-512x512.py": segmentor(
        MIXFORMER, decode_head=EACH
    ),
    "mmpretrain::resnet/resnet50_8xb32_in1k.py": dict(
        backbone=dict(type="ACmixSwin", arch="tiny", out_norm="final", out_indices=(3,)),
        head=dict(in_channels=768),
    ),
}
SLOW = {
    "mmdet::deformable_detr/deformable-detr-refine-twostage_r50_16xb2-50e_coco.py": after(
        UNIFORMER, 1
    ),
    "mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py": after(SWIFTFORMER),
    "mmdet::cascade_rcnn/cascade-rcnn_r50_fpn_1x_coco.py": after(MIXFORMER),
    "mmdet::retinanet/retinanet_r50_fpn_1x_coco.py": after(ACMIX),
    "mmdet::fcos/fcos_r50-caffe_fpn_gn-head_1x_coco.py": after(XVOLUTION),
    "mmdet::detr/detr_r50_8xb2-150e_coco.py": after(SWIFTFORMER, 3),
    "mmdet::dino/dino-4scale_r50_8xb2-12e_coco.py": after(UNIFORMER, 1),
    "mmdet::rtmdet/rtmdet_tiny_8xb32-300e_coco.py": after(SWIFTFORMER, 1),
    "mmdet::rtmdet/rtmdet-ins_tiny_8xb32-300e_coco.py": after(MIXFORMER, 1),
    "mmdet::yolox/yolox_tiny_8xb8-300e_coco.py": after(XVOLUTION, 1),
    "mmdet::dyhead/atss_r50_fpn_dyhead_1x_coco.py": dict(
        backbone=XVOLUTION,
        neck=[
            dict(
                **dict(type="FPN", in_channels=CHANNELS["XVolutionResNet"], out_channels=256),
                **dict(start_level=1, add_extra_convs="on_output", num_outs=5),
            ),
            dict(type="DyHead", in_channels=256, out_channels=256, num_blocks=2),
        ],
    ),
    "mmseg::upernet/upernet_r50_4xb4-80k_ade20k-512x512.py": dict(
        segmentor(BIFORMER, decode_head=EACH, auxiliary_head=2), **NO_WEIGHTS
    ),
    "mmseg::deeplabv3plus/deeplabv3plus_r50-d8_4xb4-80k_ade20k-512x512.py": dict(
        segmentor(ACMIX, decode_head=3, auxiliary_head=2), **NO_WEIGHTS
    ),
    "mmseg::mask2former/mask2former_r50_8xb2-160k_ade20k-512x512.py": segmentor(
        UNIFORMER, decode_head=EACH
    ),
}
# those that take longest, whose heads train in our own configs, too
LONGEST = ("mmdet::cascade_rcnn/", "mmdet::dino/", "mmdet::mask_rcnn/", "mmdet::retinanet/")
LONGEST += ("mmdet::deformable_detr/", "mmdet::rtmdet/rtmdet-ins", "mmseg::mask2former/")
CASES = [
    *(pytest.param(*case, marks=pytest.mark.upstream) for case in QUICK.items()),
    *(
        pytest.param(
            *case,
            marks=pytest.mark.exhaustive if case[0].startswith(LONGEST) else pytest.mark.slow,
        )
        for case in SLOW.items()
    ),
]


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    """Run in a folder outside the checkout."""
    monkeypatch.chdir(tmp_path)


def read(stock, changes):
    """Write the config of a user who takes ours in place of the backbone, and read it."""
    backbone, others = changes["backbone"], {k: v for k, v in changes.items() if k != "backbone"}
    with open("mine.py", "w") as file:
        file.write(
            f"_base_ = {stock!r}\n"
            "custom_imports = dict(imports=['hybrid_backbones'])\n"
            f"model = dict(backbone=dict(_delete_=True, **{backbone!r}), **{others!r})\n"
        )
    return Config.fromfile("mine.py")


def samples(cfg, size):
    """Return a batch of two random images with annotations, as the host's dataset makes it."""
    if cfg.default_scope == "mmdet":
        # boxes and masks of random objects
        types = str([one.get("type") for one in dicts(cfg.model)])
        with_mask = "MaskRCNN" in types or "RTMDetIns" in types
        return demo_mm_inputs(2, [(3, *size)] * 2, num_items=[3, 2], with_mask=with_mask)
    inputs = [torch.randint(0, 256, (3, *size), dtype=torch.uint8) for _ in range(2)]
    if cfg.default_scope == "mmpretrain":
        labels = [DataSample().set_gt_label(label) for label in (1, 2)]
        return dict(inputs=torch.stack(inputs), data_samples=labels)
    meta = dict(img_shape=size, ori_shape=size, pad_shape=size, reduce_zero_label=True)
    maps = [
        SegDataSample(
            metainfo=meta,
            gt_sem_seg=PixelData(data=torch.arange(size[1]).div(8).long().expand(1, *size) % 9),
        )
        for _ in range(2)
    ]
    return dict(inputs=inputs, data_samples=maps)


@pytest.mark.parametrize(("stock", "changes"), CASES)
def test_a_stock_config_trains_a_step_and_predicts_with_our_backbone(stock, changes):
    cfg = read(stock, changes)
    # DINO takes the best 900 positions
    size = (256, 256) if "dino" in stock else (128, 128)
    if "mmseg" in stock:
        cfg.model.data_preprocessor.size = size
    if "mmpretrain" in stock:
        cfg.model.data_preprocessor = cfg.data_preprocessor
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        model = revert_sync_batchnorm(MODELS.build(cfg.model))
        model.init_weights()
        optimizer = build_optim_wrapper(model, cfg.optim_wrapper)
        optimizer.zero_grad = lambda: None
        model.train()
        # the runner says so, and YOLOX reads it
        MessageHub.get_current_instance().update_info("iter", 0)
        losses = model.train_step(samples(cfg, size), optimizer)
        assert all(torch.as_tensor(loss).isfinite().all() for loss in losses.values())
        grads = [p.grad for p in model.backbone.parameters()]
        assert all(grad is not None and grad.isfinite().all() for grad in grads)
        model.eval()
        with torch.no_grad():
            prediction = model.test_step(samples(cfg, size))[0]
    if "mmdet" in stock:
        assert prediction.pred_instances.bboxes.isfinite().all()
    elif "mmseg" in stock:
        assert prediction.pred_sem_seg.data.shape == (1, *size)
    else:
        torch.testing.assert_close(prediction.pred_score.sum(), torch.tensor(1.0))


def test_a_backbone_that_would_get_weights_of_another_says_how_to_do_without():
    stock = "mmseg::upernet/upernet_r50_4xb4-80k_ade20k-512x512.py"
    changes = segmentor(BIFORMER, decode_head=EACH, auxiliary_head=2)
    with (
        DefaultScope.overwrite_default_scope("mmseg"),
        pytest.raises(ValueError, match=r"resnet50_v1c.*add pretrained=None to the model"),
    ):
        MODELS.build(read(stock, changes).model)


@pytest.mark.upstream
def test_importing_the_package_is_enough_to_inherit_configs_of_mmseg(tmp_path):
    (tmp_path / "mine.py").write_text(
        "_base_ = 'mmseg::upernet/upernet_r50_4xb4-80k_ade20k-512x512.py'"
    )
    script = (
        "import hybrid_backbones; from mmengine.config import Config;"
        "from mmengine.hub import get_config; name = Config.fromfile('mine.py').model.type;"
        "same = get_config('mmseg::upernet/upernet_r50_4xb4-80k_ade20k-512x512.py');"
        "assert name == same.model.type == 'EncoderDecoder'"
    )
    # where pip cannot run: an attempt to install something fails
    (tmp_path / "pip.py").write_text("raise SystemExit('pip was called')")
    python_path = os.pathsep.join([str(tmp_path), *filter(None, sys.path)])
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        env=dict(os.environ, PYTHONPATH=python_path),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.upstream
def test_a_missing_library_is_named_and_not_installed(monkeypatch):
    called = []
    monkeypatch.setattr(mmengine.utils.package_utils, "call_command", called.append)
    with pytest.raises(ModuleNotFoundError, match="mmpose is not installed"):
        mmengine.hub.get_config("mmpose::body/some.py")
    with pytest.raises(ModuleNotFoundError, match="mmpose is not installed"):
        mmengine.utils.install_package("mmpose")
    assert not called
