"""36 epochs of AdamW at batch 16: Mask2Former's optimiser and rates, and the steps of 3x."""

_base_ = "coco_adamw_3x.py"

embedding = dict(decay_mult=0.0)
optim_wrapper = dict(
    clip_grad=dict(max_norm=0.01, norm_type=2),
    paramwise_cfg=dict(
        norm_decay_mult=0.0,
        custom_keys=dict(
            backbone=dict(lr_mult=0.1),
            query_embed=embedding,
            query_feat=embedding,
            level_embed=embedding,
        ),
    ),
)
