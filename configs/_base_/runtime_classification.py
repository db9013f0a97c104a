"""The shared runtime with mmpretrain's pictures."""

_base_ = "runtime.py"
default_scope = "mmpretrain"
default_hooks = dict(visualization=dict(type="VisualizationHook", enable=True, interval=500))
visualizer = dict(
    type="UniversalVisualizer", vis_backends={{_base_.vis_backends}}, name="visualizer"
)
# flips alone, as no publication has results at many scales
tta_model = dict(type="AverageClsScoreTTA")
tta_ratios = [1.0]
