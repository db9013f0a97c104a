"""Small LocFormers, and what they take."""

from pathlib import Path

import torch
from golden.fill import fill_
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from mmengine.config import Config
from mmengine.registry import DefaultScope
from mmengine.structures import InstanceData

CONFIGS = Path(__file__).resolve().parent.parent / "configs"
SMALL_SWIN = dict(
    type="SwinRAM",
    arch=dict(embed_dims=32, num_heads=(1, 2, 4, 8), depths=(1, 1, 1, 1), drop_path_rate=0.0),
    num_queries=7,
    sketch_dims=64,
)
SMALL_UNIFORMER = dict(
    type="SketchGuided",
    num_queries=7,
    embed_dims=64,
    backbone=dict(
        type="UniFormer",
        arch=dict(
            embed_dims=(32, 64, 128, 256),
            depths=(1, 1, 1, 1),
            head_dims=32,
            conv_stem=False,
            layer_scale=False,
        ),
        drop_path_rate=0.0,
        out_indices=(1, 2, 3),
    ),
)


def read_config(name):
    cfg = Config.fromfile(CONFIGS / f"{name}.py").model
    cfg.sketch_encoder.trunk.init_cfg = None
    return cfg


def build(cfg):
    with DefaultScope.overwrite_default_scope("mmdet"):
        return MODELS.build(cfg)


def shrink(cfg, backbone=SMALL_SWIN, **head):
    """Turn a config's model into a small one, in place."""
    cfg.backbone = backbone
    cfg.neck.update(in_channels=[64, 128, 256, 64], out_channels=64)
    cfg.sketch_encoder.trunk.update(depth=18, base_channels=8)
    cfg.sketch_encoder.update(in_channels=64, out_channels=64)
    cfg.decoder.num_layers = 2
    for layer in cfg.decoder.layer_cfg.values():
        layer.embed_dims = 64
    cfg.decoder.layer_cfg.ffn_cfg.feedforward_channels = 32
    cfg.bbox_head.update(num_levels=3, first_refined=1, embed_dims=64, **head)
    cfg.test_cfg.max_per_img = 7
    return cfg


def build_small(backbone=SMALL_SWIN, name="locformer_swin_t", **head):
    return fill_(build(shrink(read_config(name), backbone, **head))).eval()


def make_samples(*shapes, boxes=(), scale=1.0):
    """Make data samples of images of these shapes, with the same boxes each."""
    samples = []
    for shape in shapes:
        sample = DetDataSample(
            metainfo=dict(img_shape=shape, ori_shape=shape, scale_factor=(scale, scale))
        )
        sample.gt_instances = InstanceData(
            bboxes=torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
            labels=torch.zeros(len(boxes), dtype=torch.long),
        )
        samples.append(sample)
    return samples


def make_batch(num_sketches=1, shapes=((64, 96), (50, 70)), boxes=((5, 6, 30, 40),)):
    """Make what a data loader hands over."""
    generator = torch.Generator().manual_seed(0)

    def picture(*shape):
        return torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)

    return dict(
        inputs=[picture(3, *shape) for shape in shapes],
        sketches=[picture(num_sketches, 3, 64, 64) for _ in shapes],
        data_samples=make_samples(*shapes, boxes=boxes),
    )
