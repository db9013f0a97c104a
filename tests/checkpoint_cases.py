"""Models that the tests of checkpoints load weights into, and comparisons of their entries."""

import torch
from mmpretrain.models import ImageClassifier
from torch import nn

from hybrid_backbones.backbones import ACmixResNet

DEPTH = 26


def build_backbone(**kwargs):
    return ACmixResNet(DEPTH, **kwargs)


def build_classifier(head_channels=1000, **kwargs):
    head = dict(type="LinearClsHead", num_classes=head_channels, in_channels=2048)
    return ImageClassifier(
        backbone=dict(type="ACmixResNet", depth=DEPTH),
        neck=dict(type="GlobalAveragePooling"),
        **{"head": head, **kwargs},
    )


class Detector(nn.Module):
    """A model around a backbone, with parts that no published checkpoint has."""

    def __init__(self):
        super().__init__()
        self.backbone = build_backbone()
        self.neck = nn.Conv2d(2048, 8, 1)
        self.bbox_head = nn.Linear(8, 4)


def snapshot(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def assert_equal(state_dict, expected):
    torch.testing.assert_close(dict(state_dict), dict(expected), rtol=0, atol=0)


def features(weights):
    """What of a published checkpoint belongs to the backbone."""
    return {name: value for name, value in weights.items() if not name.startswith("fc.")}


def under(prefix, weights):
    return {prefix + name: value for name, value in weights.items()}
