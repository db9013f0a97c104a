"""The shared runtime with mmpretrain's pictures."""

_base_ = "runtime.py"
custom_imports = dict(
    imports=[
        "hybrid_backbones",
        "hybrid_backbones.classification",
        "hybrid_backbones.datasets.repeated",
    ]
)
default_scope = "mmpretrain"
default_hooks = dict(visualization=dict(type="VisualizationHook", enable=True, interval=500))
visualizer = dict(
    type="UniversalVisualizer", vis_backends={{_base_.vis_backends}}, name="visualizer"
)
