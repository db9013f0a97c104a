"""The shared runtime with mmdet's pictures."""

_base_ = "runtime.py"
default_scope = "mmdet"
default_hooks = dict(visualization=dict(type="DetVisualizationHook", draw=True, interval=500))
visualizer = dict(
    type="DetLocalVisualizer", vis_backends={{_base_.vis_backends}}, name="visualizer"
)
