"""What is on the page of pictures: for each operator a model, an image, panels and a caption."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from torch import nn

from ..backbones.uniformer_light import TokenPruningBlock
from ..locformer.backbone import RAMBlock
from ..locformer.fusion import StageFusion
from ..ops import (
    ACmix,
    ACmixWindow,
    BiLevelRoutingAttention,
    BiLevelRoutingAttention2d,
    EfficientAdditiveAttention,
    GlobalRelationAggregator,
    LocalRelationAggregator,
    MixingAttention,
)
from ..ops.biformer import AttentionLePE, AttentionLePE2d
from ..ops.xvolution import MergedXVolution, XVolution

SCENE = "data/mini/coco/val2017/0000000000{}.png"
SEGMENTED = "data/mini/ade/images/validation/0000000000{}.png"
SINGLE = "data/mini/imagenet/val/{}.png"


@dataclass(frozen=True)
class Entry:
    """A picture of the page and what is said about it.

    Args:
        name: name of the picture.
        heading: heading of its section.
        operators: operators that it shows, in one of their forms.
        config: name of the config of the model.
        image: image file of the mini set.
        panels: indices of the panels that are shown, by the view that they are from.
        caption: what one sees, in Markdown.
        layer: module to look at; None chooses, as the tool does.
        sketch: drawing to search for, of a detector by sketch.
        options: changes of the config, for training and for the picture.
    """

    name: str
    heading: str
    operators: Sequence[type[nn.Module]]
    config: str
    image: str
    panels: Mapping[str, Sequence[int]]
    caption: str
    layer: str | None = None
    sketch: str | None = None
    options: Mapping[str, int] = field(default_factory=dict)


FRONT = Entry(
    "front",
    "Mask R-CNN with BiFormer-S, trained on the mini set, and what it looks at",
    (),
    "maskrcnn_biformer_s",
    SCENE.format("34"),
    {"routes": (4, 8)},
    "",
)
ENTRIES = (
    Entry(
        "acmix",
        "ACmix: local attention beside a convolution",
        (ACmix,),
        "maskrcnn_acmix_r50",
        SCENE.format("34"),
        {"attention": (0, 1, 2), "rates": (0,)},
        "CAPTION",
    ),
    Entry(
        "acmix_swin",
        "ACmix in the windows of a Swin Transformer",
        (ACmixWindow,),
        "imagenet_acmix_swin_t",
        SINGLE.format("ring/0003"),
        {"attention": (0, 1), "rates": (0,)},
        "CAPTION",
    ),
    Entry(
        "xvolution",
        "X-volution: a kernel for each position",
        (XVolution, MergedXVolution),
        "imagenet_xvolution_r34",
        SINGLE.format("ring/0003"),
        {"kernel": (0, 1, 2)},
        "CAPTION",
    ),
    Entry(
        "biformer_routes",
        "BiFormer: routes",
        (BiLevelRoutingAttention2d, BiLevelRoutingAttention),
        "maskrcnn_biformer_s",
        SCENE.format("34"),
        {"routes": (0, 1, 3, 4, 6)},
        "CAPTION",
    ),
    Entry(
        "biformer_attention",
        "BiFormer: attention to tokens",
        (BiLevelRoutingAttention2d, AttentionLePE2d, AttentionLePE),
        "maskrcnn_biformer_s",
        SCENE.format("34"),
        {"attention": (0, 1, 2, 3)},
        "CAPTION",
    ),
    Entry(
        "uniformer",
        "UniFormer: local kernels, then windows, then all positions",
        (LocalRelationAggregator, GlobalRelationAggregator),
        "fpn_uniformer_s_h32",
        SEGMENTED.format("34"),
        {"kernel": (0, 1, 2), "attention": (0, 1)},
        "CAPTION",
        options={"model.backbone.window_size": 4},
    ),
    Entry(
        "uniformer_light",
        "UniFormerLight: kept and pruned tokens",
        (TokenPruningBlock,),
        "fpn_uniformer_xxs",
        SEGMENTED.format("34"),
        {"tokens": (0, 1, 4, 7, 9)},
        "CAPTION",
    ),
    Entry(
        "swiftformer",
        "SwiftFormer: weights of tokens in the global query",
        (EfficientAdditiveAttention,),
        "imagenet_swiftformer_xs",
        SINGLE.format("ring/0003"),
        {"tokens": (0, 1)},
        "CAPTION",
    ),
    Entry(
        "mixformer",
        "MixFormer: windows and a convolution that gate each other",
        (MixingAttention,),
        "imagenet_mixformer_b0",
        SINGLE.format("ring/0003"),
        {"rates": (0, 1), "attention": (0,)},
        "CAPTION",
    ),
    Entry(
        "locformer",
        "LocFormer: where the image looks on a sketch",
        (StageFusion, RAMBlock),
        "locformer_swin_t",
        SCENE.format("34"),
        {"attention": (0, 1, 2, 3, 5)},
        "CAPTION",
        sketch="data/mini/sketches/ndjson/ring.ndjson:3",
    ),
    Entry(
        "gradcam",
        "Grad-CAM",
        (),
        "maskrcnn_biformer_s",
        SCENE.format("34"),
        {"cam": (0, 1)},
        "CAPTION",
    ),
    Entry(
        "receptive_field",
        "Effective receptive field",
        (),
        "maskrcnn_acmix_r50",
        SCENE.format("34"),
        {"erf": (0, 1, 2)},
        "CAPTION",
    ),
    Entry(
        "features",
        "Features of the stages",
        (),
        "maskrcnn_biformer_s",
        SCENE.format("34"),
        {"features": (0, 1, 2)},
        "CAPTION",
    ),
)
