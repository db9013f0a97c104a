"""160,000 iterations of AdamW at batch 16, polynomial decay: the schedule of Mask2Former."""

_base_ = "ade20k_adamw_160k.py"

embedding = dict(decay_mult=0.0)
optim_wrapper = dict(
    optimizer=dict(lr=1e-4, weight_decay=0.05),
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
param_scheduler = [dict(type="PolyLR", eta_min=0.0, power=0.9, begin=0, end=160000, by_epoch=False)]
