"""LocFormer on Swin-T: 100 queries, six decoder layers, refinement from level 3 on."""

layer = dict(
    self_attn_cfg=dict(embed_dims=256, num_heads=8, dropout=0.1, batch_first=True),
    cross_attn_cfg=dict(embed_dims=256, num_levels=4, dropout=0.1, batch_first=True),
    ffn_cfg=dict(embed_dims=256, feedforward_channels=1024, ffn_drop=0.1),
)
match_costs = [
    dict(type="FocalLossCost", weight=2.0),
    dict(type="BBoxL1Cost", weight=5.0, box_format="xywh"),
    dict(type="IoUCost", iou_mode="giou", weight=2.0),
]
model = dict(
    type="LocFormer",
    data_preprocessor=dict(
        type="SketchDetDataPreprocessor",
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        bgr_to_rgb=True,
        pad_size_divisor=32,
    ),
    backbone=dict(type="SwinRAM", arch="tiny", num_queries=100, drop_path_rate=0.2, dropout=0.4),
    sketch_encoder=dict(
        type="SketchEncoder",
        # trained with the rest, batch statistics included, as published
        trunk=dict(
            type="ResNet",
            depth=50,
            out_indices=(3,),
            norm_eval=False,
            style="pytorch",
            init_cfg=dict(type="Pretrained", checkpoint="torchvision://resnet50"),
        ),
    ),
    neck=dict(
        type="ChannelMapper",
        in_channels=[192, 384, 768, 256],
        out_channels=256,
        kernel_size=1,
        bias=True,
        act_cfg=None,
        norm_cfg=dict(type="GN", num_groups=32),
    ),
    decoder=dict(num_layers=6, return_intermediate=True, post_norm_cfg=None, layer_cfg=layer),
    bbox_head=dict(
        type="SketchDETRHead",
        num_levels=7,
        dropout=0.4,
        sync_cls_avg_factor=True,
        loss_cls=dict(type="FocalLoss", use_sigmoid=True, gamma=2.0, alpha=0.25, loss_weight=2.0),
        loss_bbox=dict(type="L1Loss", loss_weight=5.0),
        loss_iou=dict(type="GIoULoss", loss_weight=2.0),
    ),
    train_cfg=dict(assigner=dict(type="HungarianAssigner", match_costs=match_costs)),
    test_cfg=dict(max_per_img=100),
)
