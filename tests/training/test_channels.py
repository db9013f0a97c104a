"""What reads the maps of a backbone expects their channels, or the training does not begin."""

import pytest
from torch import nn

from hybrid_backbones.backbones import SwiftFormer, UniFormerLight
from hybrid_backbones.training.checks import require_channels

# channels (48, 56, 112, 220)
XS = SwiftFormer("xs")


@pytest.mark.parametrize(
    "model",
    [
        dict(neck=dict(type="FPN", in_channels=[48, 56, 112, 220])),
        dict(neck=[dict(type="FPN", in_channels=(48, 56, 112, 220)), dict(in_channels=256)]),
        # that of YOLOv3 counts from the deepest map
        dict(neck=dict(type="YOLOV3Neck", in_channels=[220, 112, 56, 48])),
        # what the heads read is the neck's
        dict(neck=dict(in_channels=[48, 56, 112, 220]), rpn_head=dict(in_channels=256)),
        dict(
            decode_head=dict(in_channels=[48, 112], in_index=[0, 2]),
            auxiliary_head=dict(in_channels=112, in_index=2),
        ),
        dict(panoptic_head=dict(in_channels=[48, 56, 112, 220])),
        dict(neck=dict(type="GlobalAveragePooling"), head=dict(in_channels=220)),
        # of a neck that may change them, nothing is known
        dict(neck=dict(type="Own"), head=dict(in_channels=1)),
        dict(head=dict(type="WithoutChannels")),
        dict(decode_head=[dict(in_channels=1)]),
        {},
    ],
)
def test_what_fits_is_taken(model):
    require_channels(model, XS)


@pytest.mark.parametrize(
    ("model", "line"),
    [
        (
            dict(neck=dict(type="FPN", in_channels=[48, 56, 112, 221])),
            r"^model\.neck\.in_channels is \[48, 56, 112, 221\], but the backbone's maps have "
            r"\[48, 56, 112, 220\] channels: set model\.neck\.in_channels=\[48,56,112,220\]$",
        ),
        (
            dict(neck=[dict(type="FPN", in_channels=[48, 56])]),
            r"set model\.neck\.0\.in_channels=\[48,56,112,220\]",
        ),
        (
            dict(
                decode_head=dict(in_channels=[48, 56, 112, 220], in_index=[0, 1, 2, 3]),
                auxiliary_head=dict(in_channels=320, in_index=2),
            ),
            r"model\.auxiliary_head\.in_channels is 320, .*set .*=112",
        ),
        (
            dict(neck=dict(type="GlobalAveragePooling"), head=dict(in_channels=512)),
            r"set model\.head\.in_channels=220",
        ),
        (
            dict(decode_head=dict(in_channels=220, in_index=4)),
            r"in_index is 4, but the backbone returns 4 maps",
        ),
        (dict(decode_head=dict(in_channels=[220], in_index=3)), "two numbers or two lists"),
        (dict(decode_head=dict(in_channels=220, in_index=[3])), "two numbers or two lists"),
    ],
    ids=["neck", "necks", "auxiliary head", "classifier", "index", "lists", "numbers"],
)
def test_what_differs_is_one_line_with_what_to_set(model, line):
    with pytest.raises(ValueError, match=line):
        require_channels(model, XS)


def test_the_class_token_of_a_light_uniformer_has_the_channels_of_its_map():
    backbone = UniFormerLight("xxs", out_norm="final", out_indices=(3,))
    require_channels(dict(head=dict(in_channels=448)), backbone)


def test_other_backbones_are_the_business_of_their_own_library():
    require_channels(dict(neck=dict(in_channels=[1])), nn.Conv2d(3, 1, 1))
