"""What all configs share: registration, seed, logging, checkpoints, pictures."""

custom_imports = dict(imports=["hybrid_backbones"])

randomness = dict(seed=0)
default_hooks = dict(
    timer=dict(type="IterTimerHook"),
    logger=dict(type="LoggerHook", interval=50),
    param_scheduler=dict(type="ParamSchedulerHook"),
    checkpoint=dict(
        type="WholeCheckpointHook",
        interval=1,
        max_keep_ckpts=3,
        backend_args=dict(backend="atomic"),
    ),
    sampler_seed=dict(type="DistSamplerSeedHook"),
)
custom_hooks = [
    dict(type="SeedIterationsHook"),
    dict(type="FiniteLossHook"),
    dict(type="ProgressHook"),
    dict(type="CurvesHook"),
]

env_cfg = dict(
    cudnn_benchmark=False,
    mp_cfg=dict(mp_start_method="fork", opencv_num_threads=0),
    dist_cfg=dict(backend="nccl"),
)
vis_backends = [dict(type="LocalVisBackend"), dict(type="TensorboardVisBackend")]
log_processor = dict(type="LogProcessor", window_size=50, by_epoch=True)
log_level = "INFO"
load_from = None
resume = False
