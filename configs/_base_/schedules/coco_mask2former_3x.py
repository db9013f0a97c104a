"""36 epochs of AdamW at batch 16: Mask2Former's optimiser and rates, and the steps of 3x."""

_base_ = "coco_adamw_3x.py"

embedding = dict(decay_mult=0.0)
optim_wrapper = dict(
    clip_grad=dict(max_norm=0.01, norm_type=2),
    paramwise_cfg=dict(
        norm_decay_mult=0.0,
        # the longest key that fits counts: norms of the backbone decay, as in the host's for R-50
        custom_keys=dict(
            backbone=dict(lr_mult=0.1),
            relative_position_bias_table=dict(lr_mult=0.1, decay_mult=0.0),
            query_embed=embedding,
            query_feat=embedding,
            level_embed=embedding,
        ),
    ),
)
