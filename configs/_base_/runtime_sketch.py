"""The runtime of detection with what a search by sketch needs: detector, data, metric."""

_base_ = "runtime_detection.py"
custom_imports = dict(
    imports=[
        "hybrid_backbones",
        "hybrid_backbones.datasets.sketches",
        "hybrid_backbones.datasets.sketch_metric",
        "hybrid_backbones.detectors",
    ]
)
