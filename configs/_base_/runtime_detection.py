"""The shared runtime with mmdet's pictures."""

_base_ = "runtime.py"
default_scope = "mmdet"
default_hooks = dict(visualization=dict(type="DetVisualizationHook", draw=True, interval=500))
visualizer = dict(
    type="DetLocalVisualizer", vis_backends={{_base_.vis_backends}}, name="visualizer"
)
# mmdet's, as no publication has results at many scales
tta_model = dict(
    type="DetTTAModel", tta_cfg=dict(nms=dict(type="nms", iou_threshold=0.5), max_per_img=100)
)
tta_ratios = [0.5, 1.0, 1.5]
