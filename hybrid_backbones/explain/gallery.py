"""What is on the page of pictures: for each operator a model, an image, panels and a caption."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

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


class Shown(NamedTuple):
    """Panels of one view, by their indices; `layer` None chooses layers as the tool does."""

    what: str
    indices: Sequence[int]
    layer: str | None = None


@dataclass(frozen=True)
class Entry:
    """A picture of the page and what is said about it.

    Args:
        name: name of the picture.
        heading: heading of its section.
        operators: operators that it shows, in one of their forms.
        config: name of the config of the model.
        image: image file of the mini set.
        panels: what is shown.
        caption: what one sees, in Markdown.
        sketch: drawing to search for, of a detector by sketch.
        options: changes of the config, for training and for the picture.
    """

    name: str
    heading: str
    operators: Sequence[type[nn.Module]]
    config: str
    image: str
    panels: Sequence[Shown]
    caption: str
    sketch: str | None = None
    options: Mapping[str, int] = field(default_factory=dict)


# so that a mini image has several windows; no weight depends on their size
SMALL_WINDOWS = {"model.backbone.window_size": 4}
FRONT = Entry(
    "front",
    "Mask R-CNN with BiFormer-S, trained on the mini set, and what it looks at",
    (),
    "maskrcnn_biformer_s",
    SCENE.format("34"),
    (Shown("routes", (4, 8)),),
    "",
)
# titles of its panels beside the detections, and lowest score of these
FRONT_TITLES = (
    "how often each region is chosen\nby all regions (stage 2, top-4)",
    "attention from the ring (+)\nalong its 16 routes (stage 3)",
)
FRONT_SCORE = 0.5
ENTRIES = (
    Entry(
        "acmix",
        "ACmix: local attention beside a convolution",
        (ACmix,),
        "maskrcnn_acmix_r50",
        SCENE.format("34"),
        (
            Shown("attention", (0, 1, 2)),
            Shown("rates", (0,)),
        ),
        "Each position attends to the 7×7 positions around it (green), which are 28 pixels in "
        "`layer1`, 56 in `layer2` and 112 in `layer3`. From the middle of the triangle, one "
        "position beside the square gets by far the largest weight in the first two layers, and "
        "the weight spreads out in the third. The chart has the rates of the two branches over "
        "depth: α of the attention, β of the convolution. Both start at 0.5 and move by less "
        "than 0.02 in a training this short.",
    ),
    Entry(
        "acmix_swin",
        "ACmix in the windows of a Swin Transformer",
        (ACmixWindow,),
        "imagenet_acmix_swin_t",
        SINGLE.format("ring/0020"),
        (
            Shown("attention", (0, 1)),
            Shown("rates", (0,)),
        ),
        "A position attends to the 7×7 positions of its window (green), which are shifted by "
        "three in every second block and cut off at the border of the image; ACmix adds a "
        "convolution of the same projections. From below the ring, the background in the "
        "window gets more weight than the ring in the first stage; in the second one, all of the "
        "window gets nearly the same. The chart has the rates over depth, which start at 0.5: "
        "β of the convolution is above α of the attention from the second block to the middle "
        "of the third stage, and below it at the end of that.",
    ),
    Entry(
        "xvolution",
        "X-volution: a kernel for each position",
        (XVolution, MergedXVolution),
        "imagenet_xvolution_r34",
        SINGLE.format("ring/0020"),
        (Shown("kernel", (0, 1)), Shown("attention", (0,))),
        "X-volution replaces attention by products of a position's query with the nine "
        "shifted keys around it: a kernel of 3×3 that differs at each position, with weights "
        "of either sign that are not normalised. Its norm is largest in the hole of the ring "
        "and smaller on most of the ring itself. The kernel of the position has negative "
        "weights only; the last panel shows which part of the image each of them is for. A "
        "map of this stage has 4×4 positions here.",
    ),
    Entry(
        "biformer_routes",
        "BiFormer: routes",
        (BiLevelRoutingAttention2d, BiLevelRoutingAttention),
        "maskrcnn_biformer_s",
        SCENE.format("34"),
        (Shown("routes", (0, 1, 3, 4, 6)),),
        "Bi-level routing first chooses regions, and then attends to the tokens in them. The "
        "region of the position (red), on the ring, attends to a single region in the first "
        "stage, to four in the second and to sixteen in the third; the colour is the rank of "
        "a choice, the brightest the first. *chosen by all regions* counts how often each region "
        "is chosen: most regions of the first stage choose one and the same, on the square. In "
        "such small images a region has 2×2 positions in the first stage and one in the others.",
    ),
    Entry(
        "biformer_attention",
        "BiFormer: attention to tokens",
        (BiLevelRoutingAttention2d, AttentionLePE2d, AttentionLePE),
        "maskrcnn_biformer_s",
        SCENE.format("34"),
        (Shown("attention", (0, 1, 2, 3)),),
        "Shown are the weights that the position on the ring gives to the tokens of the regions "
        "it routes to; all other tokens have none. The first three stages are sparse, with nearly "
        "equal weights along the routes. The last stage has no routing: every position attends to "
        "all, with weights that differ.",
    ),
    Entry(
        "uniformer_local",
        "UniFormer: the local aggregator's kernel",
        (LocalRelationAggregator,),
        "fpn_uniformer_s_h32",
        SEGMENTED.format("34"),
        (Shown("kernel", (0, 1, 2, 4, 5)),),
        "UniFormer's first two stages aggregate by a learned kernel of 5×5 for each channel, "
        "the same at all positions and for all images, in place of attention. The mean size "
        "over all channels is nearly flat; single channels, those with the largest kernels, "
        "mix the neighbourhood with weights of both signs.",
        options=SMALL_WINDOWS,
    ),
    Entry(
        "uniformer_attention",
        "UniFormer: attention in windows, and to all positions",
        (GlobalRelationAggregator,),
        "fpn_uniformer_s_h32",
        SEGMENTED.format("34"),
        (
            Shown("attention", (0, 1, 2), "backbone.stages.2.6.attn"),
            Shown("attention", (0, 1)),
        ),
        "The third stage attends in windows, the green one here, of 4×4 positions so that a "
        "mini image has four of them (14×14 or 32×32 are published). From the square, the "
        "heads look at the background in the window rather than at the square itself. The "
        "last block of that stage, and all of the fourth, attend to all positions, with "
        "weights that differ little after a training this short.",
        options=SMALL_WINDOWS,
    ),
    Entry(
        "uniformer_light",
        "UniFormerLight: kept and pruned tokens",
        (TokenPruningBlock,),
        "fpn_uniformer_xxs",
        SEGMENTED.format("34"),
        (Shown("tokens", (0, 1, 4, 7, 9)),),
        "The first block of the third stage still processes each token. From then on, half of "
        "the tokens are kept, those that the class token attends to most, and the white ones "
        "are merged into one that stands for all of them. The kept ones cover the ring, the "
        "square and most of the triangles; what is pruned is background, nearly all of it.",
    ),
    Entry(
        "swiftformer",
        "SwiftFormer: weights of tokens in the global query",
        (EfficientAdditiveAttention,),
        "imagenet_swiftformer_xs",
        SINGLE.format("ring/0020"),
        (Shown("tokens", (0, 1)),),
        "Additive attention has no weights between pairs of positions: each token has one "
        "weight in a global query, which all positions share. In the first stage, only the "
        "tokens of the ring have one; in the second, the ring and the background have "
        "opposite signs.",
    ),
    Entry(
        "mixformer",
        "MixFormer: windows and a convolution that gate each other",
        (MixingAttention,),
        "imagenet_mixformer_b0",
        SINGLE.format("ring/0020"),
        (
            Shown("rates", (0, 1)),
            Shown("attention", (0,)),
        ),
        "Windows of 7×7 positions (green) and a depth-wise convolution run side by side. The "
        "convolution sends a gate for each channel to the attention, and they range from 0.32 "
        "to 0.52 here. The attention sends a gate for each position to the convolution: see "
        "the scale, in the first block it is still about 0.502 everywhere, and its steps at "
        "the borders of the windows show that it is made of the windows' output.",
    ),
    Entry(
        "locformer",
        "LocFormer: where the image looks on a sketch",
        (StageFusion, RAMBlock),
        "locformer_swin_t",
        SCENE.format("34"),
        (Shown("attention", (0, 1, 2, 5)),),
        "The question is the sketch of a ring. *Mean attention to the strokes* is high on the "
        "ring of the image, which is found, and low elsewhere. On the sketch itself, one sees "
        "which parts of it the position looks at when the sketch is fused into a stage: it "
        "has 2×2 positions only, being 64 pixels wide here (7×7 for sketches of 224). The "
        "last panel is a window of the Swin Transformer around the position.",
        sketch="data/mini/sketches/ndjson/ring.ndjson:3",
    ),
    Entry(
        "gradcam",
        "Grad-CAM",
        (),
        "imagenet_swiftformer_xs",
        SINGLE.format("star/0022"),
        (Shown("cam", (0, 1)),),
        "Where the features of a stage speak for the class *star*: for each channel, its mean "
        "gradient times its value, added up. In the third stage that is the middle of the "
        "star, and least of all the corners of the image. `--what cam` does the same for the "
        "strongest box of a detector and for the second largest class of a segmentor.",
    ),
    Entry(
        "receptive_field",
        "Effective receptive field",
        (),
        "maskrcnn_acmix_r50",
        SCENE.format("34"),
        (Shown("erf", (0, 1, 2)),),
        "How much each pixel moves the features at the position, by gradients. In `layer1` "
        "the theoretical receptive field, made by three local attentions of 7×7, ends at the "
        "border of the darker square, but nearly all of the effect is from a few pixels in "
        "its middle; deeper layers see the whole image, and still depend most on the nearest "
        "10 to 20 pixels. The middle is where the strided convolutions put the position of "
        "the coarse map, up to one step above and left of the cross.",
    ),
    Entry(
        "features",
        "Features of the stages",
        (),
        "maskrcnn_biformer_s",
        SCENE.format("34"),
        (Shown("features", (0, 1, 2)),),
        "The three principal components of a stage's channels as red, green and blue: equal "
        "colours are similar features. The first stage separates each shape from the "
        "background, whose pattern is gone, and the edges of shapes by their direction; from "
        "stage to stage, positions become fewer and mix more of their surroundings, until "
        "shapes can no longer be told apart by the three components.",
    ),
)
