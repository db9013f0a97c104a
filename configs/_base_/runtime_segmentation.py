"""The shared runtime with mmseg's pictures, counted in iterations."""

_base_ = "runtime.py"
default_scope = "mmseg"
default_hooks = dict(
    logger=dict(log_metric_by_epoch=False),
    checkpoint=dict(by_epoch=False, interval=16000),
    visualization=dict(type="SegVisualizationHook", draw=True, interval=500),
)
visualizer = dict(
    type="SegLocalVisualizer", vis_backends={{_base_.vis_backends}}, name="visualizer"
)
log_processor = dict(by_epoch=False)
# the scales of every publication that has results at many, with flips
tta_model = dict(type="SegTTAModel")
tta_ratios = [0.5, 0.75, 1.0, 1.25, 1.5, 1.75]
