"""LocFormer: detect all instances of a sketched object category in an image.

Tripathi et al., "Query-guided Attention in Vision Transformers for Localizing Objects Using a
Single Sketch", WACV 2024, https://arxiv.org/abs/2303.08784. The backbone fuses the sketch into its
features. Its maps and object queries go straight to the decoder of Deformable DETR, without that
network's encoder, and the head scores how well each object matches the sketch.
"""

from typing import Any

import torch
import torch.nn.functional as F
from mmcv.ops import MultiScaleDeformableAttention
from mmdet.models.detectors import DeformableDETR
from mmdet.models.detectors.base import BaseDetector
from mmdet.models.layers import DeformableDetrTransformerDecoder
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from mmengine.model import xavier_init
from torch import Tensor, nn

from ..backbones.names import PublishedNames, matches
from ..layers import to_tokens
from ..ops.choice import is_exporting
from .backbone import SwinRAM, resize_padding
from .fusion import SketchMixer
from .guidance import GuidedFeatures
from .head import at_least_float32


def find_padding(images: Tensor, data_samples: list[DetDataSample] | None) -> Tensor:
    """Compute the padding mask of images ``(B, 3, H, W)`` from the `img_shape` of each sample.

    Returns:
        padding mask, ``(B, H, W)``, True for padding.
    """
    batch, _, height, width = images.shape
    sizes = [(height, width)] * batch
    if data_samples is not None:
        sizes = [sample.metainfo.get("img_shape", sizes[0])[:2] for sample in data_samples]
    ends = torch.tensor(sizes, device=images.device)[:, :, None]  # (B, 2, 1)
    below = torch.arange(height, device=images.device) >= ends[:, 0]  # (B, H)
    right = torch.arange(width, device=images.device) >= ends[:, 1]  # (B, W)
    return below[:, :, None] | right[:, None]


def flatten_levels(maps: tuple[Tensor, ...], padding: Tensor) -> dict[str, Any]:
    """Flatten maps ``(B, C, H_l, W_l)`` and their padding masks to the decoder's arguments."""
    sizes = [x.shape[2:] for x in maps]
    masks = [resize_padding(padding, size) for size in sizes]
    levels: dict[str, Any] = dict(
        value=torch.cat([to_tokens(x) for x in maps], 1),
        key_padding_mask=torch.cat([mask.flatten(1) for mask in masks], 1),
        valid_ratios=torch.stack([DeformableDETR.get_valid_ratio(mask) for mask in masks], 1),
    )
    if is_exporting():
        # sizes in a tensor are unknown to the graph; its attention takes a list
        return dict(levels, spatial_shapes=sizes, level_start_index=None)
    shapes = torch.tensor(sizes, device=padding.device)
    starts = F.pad(shapes.prod(1).cumsum(0)[:-1], (1, 0))
    return dict(levels, spatial_shapes=shapes, level_start_index=starts)


def match_batches(images: Tensor, sketch: Tensor, data_samples: list | None) -> tuple:
    """Repeat a single image for several queries, or a single query for several images.

    Raises:
        ValueError: if there are several images and a different number of several queries, or data
            samples that belong to neither.
    """
    numbers = {len(images), len(sketch)}
    if len(numbers) > 1 and 1 not in numbers:
        raise ValueError(
            "expected as many images as queries, or a single image or query, "
            f"got {len(images)} images and {len(sketch)} queries"
        )
    number = max(numbers)
    if data_samples is not None and len(data_samples) != number:
        if len(data_samples) != 1:
            raise ValueError(
                f"expected a data sample for each of {number} images and queries, or one for all, "
                f"got {len(data_samples)}"
            )
        data_samples = [data_samples[0].new() for _ in range(number)]
    return images.expand(number, -1, -1, -1), sketch.expand(number, -1, -1, -1, -1), data_samples


class TokenProjection(nn.Sequential):
    """Linear projection of tokens, followed by a GroupNorm over all tokens of an image.

    It is initialised like the neck, with a bias of zero: before training, learned tokens differ so
    little that a random bias would dominate them even after the normalisation, and all queries
    would start near the same reference point.

    Args:
        in_channels: number of input channels.
        out_channels: number of output channels; must be a multiple of 32.
    """

    def __init__(self, in_channels: int, out_channels: int):
        conv = nn.Conv2d(in_channels, out_channels, 1)
        super().__init__(conv, nn.GroupNorm(32, out_channels))
        xavier_init(conv, distribution="uniform")

    def forward(self, tokens: Tensor) -> Tensor:
        """Project tokens ``(B, N, in_channels)`` to ``(B, N, out_channels)``."""
        return to_tokens(super().forward(tokens.transpose(1, 2)[..., None]))


@MODELS.register_module()
class LocFormer(BaseDetector):
    """Detector of the objects that sketches show.

    A query is one sketch, or several sketches of the same category. A batch has one query for each
    image, one query for all images, or several queries for one image.

    Args:
        backbone: config of a backbone that maps images, padding mask and sketch features to
            :class:`GuidedFeatures`: ``SwinRAM``, or ``SketchGuided`` around another backbone.
        sketch_encoder: config of the :class:`SketchEncoder`.
        neck: config of the neck that projects the backbone's four maps to the decoder's width.
        decoder: settings of mmdet's DeformableDetrTransformerDecoder.
        bbox_head: config of the head, with one level more than the decoder has layers.
        mix_sketches: whether a :class:`SketchMixer`, with the dropout rate of the head, fuses the
            sketches of a query for the head; otherwise they are averaged.
        train_cfg: training settings of the head, as in mmdet.
        test_cfg: test settings of the head, as in mmdet.
        data_preprocessor: config of a ``SketchDetDataPreprocessor``.
        init_cfg: as in :class:`mmengine.model.BaseModule`.
    """

    published = PublishedNames(
        # names of https://github.com/vcl-iisc/locformer-SGOL
        rename=(
            (r"^transformer\.(?=decoder\.layers\.|reference_points\.)", ""),
            (r"^(decoder\.layers\.\d\.)norm2\.", r"\1norms.0."),
            (r"^(decoder\.layers\.\d\.)norm1\.", r"\1norms.1."),
            (r"^(decoder\.layers\.\d\.)norm3\.", r"\1norms.2."),
            (r"^(decoder\.layers\.\d\.)linear1\.", r"\1ffn.layers.0.0."),
            (r"^(decoder\.layers\.\d\.)linear2\.", r"\1ffn.layers.1."),
            (r"^(decoder\.layers\.\d\.self_attn\.)(?=in_|out_)", r"\1attn."),
            (r"^class_embed_v2\.", "bbox_head.cls_branches."),
            (r"^bbox_embed\.(\d)\.layers\.0\.", r"bbox_head.reg_branches.\1.0."),
            (r"^bbox_embed\.(\d)\.layers\.1\.", r"bbox_head.reg_branches.\1.2."),
            (r"^bbox_embed\.(\d)\.layers\.2\.", r"bbox_head.reg_branches.\1.4."),
            (r"^trans\.", "bbox_head.sketch_branches."),
            (r"^query_fusion\.", "bbox_head.object_fusions."),
            (r"^query_fusion_sketch\.", "bbox_head.sketch_fusions."),
            (r"^multi_sketch_fusion\.", "sketch_mixer.fusion."),
            (r"^sketch_embedding\.", "sketch_encoder.trunk."),
            (r"^gp_norm\.", "sketch_encoder.norm."),
            (r"^sketch_proj\.", "sketch_encoder.proj."),
            (r"^input_proj\.(\d)\.0\.", r"neck.convs.\1.conv."),
            (r"^input_proj\.(\d)\.1\.", r"neck.convs.\1.gn."),
            (r"^tgt_proj\.", "token_proj."),
            (r"^query_pos_proj\.", "position_proj."),
            *SwinRAM.published.rename,
            # the rules of the backbone expect names without this prefix
            (r"^(?=(stem|stages|fusions|last_merging|last_downsample|body)\.)", "backbone."),
            (r"^(?=(det|query)_(token|pos))", "backbone."),
        ),
        computed=SwinRAM.published.computed,
        fresh=(),
        classifier=(),
        # entries that the published network never uses, and a second copy of its box branches
        unused=(
            r"^transformer\.(level_embed$|decoder\.bbox_embed\.)",
            r"^(sketch_proj_query|pos_proj)\.",
            r"^bbox_head\.\w+_fusions\.[012]\.",
            r"^(bbox_head\.\w+_fusions\.\d|sketch_mixer\.fusion)\.(self_attn_sk|norm[12])\.",
            *SwinRAM.published.unused,
        ),
    )

    def __init__(
        self,
        backbone: dict,
        sketch_encoder: dict,
        neck: dict,
        decoder: dict,
        bbox_head: dict,
        *,
        mix_sketches: bool = False,
        train_cfg: dict | None = None,
        test_cfg: dict | None = None,
        data_preprocessor: dict | None = None,
        init_cfg: dict | None = None,
    ):
        super().__init__(data_preprocessor=data_preprocessor, init_cfg=init_cfg)
        self.backbone = MODELS.build(backbone)
        self.sketch_encoder = MODELS.build(sketch_encoder)
        self.neck = MODELS.build(neck)
        self.decoder = DeformableDetrTransformerDecoder(**decoder)
        self.bbox_head = MODELS.build(dict(bbox_head, train_cfg=train_cfg, test_cfg=test_cfg))
        levels = self.decoder.num_layers + 1
        if self.bbox_head.num_pred_layer != levels:
            raise ValueError(
                f"the head must have {levels} levels for {self.decoder.num_layers} decoder layers, "
                f"got {self.bbox_head.num_pred_layer}"
            )
        dims = self.decoder.embed_dims
        self.token_proj = TokenProjection(self.backbone.token_dims, dims)
        self.position_proj = TokenProjection(self.backbone.position_dims, dims)
        self.reference_points = nn.Linear(dims, 2)
        self.sketch_mixer = None
        if mix_sketches:
            self.sketch_mixer = SketchMixer(dims, dropout=self.bbox_head.dropout)

    def init_weights(self) -> None:
        """Initialise the decoder as Deformable DETR does, other parts by their own `init_cfg`."""
        super().init_weights()
        for parameter in self.decoder.parameters():
            if parameter.ndim > 1:
                nn.init.xavier_uniform_(parameter)
        for module in self.decoder.modules():
            if isinstance(module, MultiScaleDeformableAttention):
                module.init_weights()
        xavier_init(self.reference_points, distribution="uniform")

    def forward(
        self,
        inputs: Tensor,
        sketches: Tensor,
        data_samples: list[DetDataSample] | None = None,
        mode: str = "tensor",
        *,
        rescale: bool = True,
    ) -> dict[str, Tensor] | list[DetDataSample] | tuple[Tensor, Tensor]:
        """Compute losses, predictions or the raw outputs of the head.

        Args:
            inputs: batch of images, ``(B, 3, H, W)``.
            sketches: batch of queries, ``(B, Q, 3, H', W')``, with Q sketches per query.
            data_samples: data samples with the `img_shape` of each image; None means no padding.
            mode: ``'loss'``, ``'predict'`` or ``'tensor'``.
            rescale: whether predicted boxes are in pixels of the original image, not of `inputs`.
        """
        if mode not in ("loss", "predict", "tensor"):
            raise ValueError(f"mode must be 'loss', 'predict' or 'tensor', got {mode!r}")
        if sketches.ndim != 5:
            raise ValueError(
                "sketches must have the shape (batch, number, 3, height, width), "
                f"got {tuple(sketches.shape)}"
            )
        sketch = self.sketch_encoder(sketches)
        inputs, sketch, data_samples = match_batches(inputs, sketch, data_samples)
        features = self.decode(*self.extract_feat(inputs, sketch, data_samples), sketch)
        if mode == "loss":
            return self.bbox_head.loss(*features, data_samples=data_samples)
        if mode == "predict":
            results = self.bbox_head.predict(*features, data_samples=data_samples, rescale=rescale)
            return self.add_pred_to_datasample(data_samples, results)
        return self.bbox_head(*features)

    def extract_feat(
        self, images: Tensor, sketch: Tensor, data_samples: list[DetDataSample] | None = None
    ) -> tuple[GuidedFeatures, Tensor]:
        """Return the features of backbone and neck, and the padding mask of the images."""
        padding = find_padding(images, data_samples)
        features = self.backbone(images, padding, sketch)
        return features._replace(maps=self.neck(features.maps)), padding

    def decode(
        self, features: GuidedFeatures, padding: Tensor, sketch: Tensor
    ) -> tuple[list[Tensor], list[Tensor], Tensor, Tensor]:
        """Run the decoder and return the arguments of the head."""
        query = self.token_proj(features.tokens)
        query_pos = self.position_proj(features.positions).expand_as(query)
        centres = at_least_float32(self.reference_points(query_pos)).sigmoid()
        # boxes predicted from the tokens, for the first layer
        reference = self.bbox_head.boxes(0, query, centres).detach()
        states, references = self.decoder(
            query=query,
            query_pos=query_pos,
            reference_points=reference,
            reg_branches=self.bbox_head.reg_branches[1:],
            **flatten_levels(features.maps, padding),
        )
        mix = self.sketch_mixer or (lambda sketches: sketches.mean(1))
        return [query, *states], [centres, reference, *references[:-1]], query_pos, mix(sketch)

    def is_droppable(self, entry: str) -> bool:
        """Return whether a published entry, after renaming, belongs to an unused part."""
        return matches(self.published.unused, entry.removeprefix("backbone."))

    def loss(self, *args, **kwargs) -> dict[str, Tensor]:
        """Compute the losses; arguments as for :meth:`forward`."""
        return self(*args, **kwargs, mode="loss")

    def predict(self, *args, **kwargs) -> list[DetDataSample]:
        """Detect objects; arguments as for :meth:`forward`."""
        return self(*args, **kwargs, mode="predict")

    def _forward(self, *args, **kwargs) -> tuple[Tensor, Tensor]:
        return self(*args, **kwargs)
