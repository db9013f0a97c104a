"""The runtime of detection, with a mini run of its own for search by sketch."""

_base_ = "runtime_detection.py"
mini_preset = "hybrid_backbones.locformer.mini.sketch_detection"
# a sketch is not flipped with its image
tta_model = None
