"""LocFormer in a form that can be exported: an image and sketches to boxes and scores."""

from copy import deepcopy
from typing import Any

import torch
from mmcv.ops.multi_scale_deform_attn import multi_scale_deformable_attn_pytorch
from mmengine.config import Config
from torch import Tensor, nn

from ..layers import pad_to_multiple
from ..locformer.demo import sketch_size
from ..settings import tested_dataset
from .compare import INPUT


def require_search(*, backbone_only: bool, postprocess: bool, precision: str) -> None:
    """Check that a detector by sketch can be exported in a form.

    Raises:
        ValueError: if its backbone alone is asked for, all boxes, or 8 bits.
    """
    if backbone_only or not postprocess:
        raise ValueError(
            "a detector by sketch is exported whole: leave --backbone-only and --no-postprocess out"
        )
    if precision == "int8":
        raise ValueError("--int8 calibrates on images without sketches: leave it out")


def search_options(cfg: Config, num_sketches: int | None) -> dict[str, Any]:
    """Return the options of :func:`~.export.export_onnx` for a detector by sketch.

    Args:
        cfg: config of the detector.
        num_sketches: number of sketches of a query; None for that of the config's test set.
    """
    dataset, side = tested_dataset(cfg), sketch_size(cfg)
    number = num_sketches or dataset.get("num_sketches", 1)

    def example(batch: int, height: int, width: int) -> tuple[Tensor, Tensor]:
        sizes = (batch, 3, height, width), (number, 3, side, side)
        images, sketches = (torch.randint(256, size, dtype=torch.uint8) for size in sizes)
        return images, sketches

    # the exporter's optimiser breaks the nested clamps of inverse sigmoids
    return dict(example=example, input_names=(INPUT, "sketches"), optimize=False)


class ListedLevels(nn.Module):
    """The host's deformable attention, which also takes the sizes of the levels as a list.

    Args:
        attention: the host's, whose tokens come batch first.
    """

    def __init__(self, attention: Any):
        super().__init__()
        self.attention: Any = attention

    def forward(
        self,
        query: Tensor,
        *,
        value: Tensor,
        query_pos: Tensor,
        reference_points: Tensor,
        key_padding_mask: Tensor,
        spatial_shapes: Any,
        **unused: Any,
    ) -> Tensor:
        """Attend from the queries to the levels, as the host does.

        Args:
            query: queries, ``(B, N, C)``.
            value: tokens of all levels, ``(B, M, C)``.
            query_pos: position embedding of the queries.
            reference_points: boxes for each level, ``(B, N, levels, 4)``.
            key_padding_mask: padding mask of the tokens, ``(B, M)``.
            spatial_shapes: height and width of each level.
        """
        host = self.attention
        grid = (host.num_heads, host.num_levels, host.num_points)
        queries = query + query_pos
        values = host.value_proj(value).masked_fill(key_padding_mask[..., None], 0)
        offsets = host.sampling_offsets(queries).unflatten(2, (*grid, 2))
        weights = host.attention_weights(queries).unflatten(2, (grid[0], -1))
        weights = weights.softmax(-1).unflatten(3, grid[1:])
        boxes = reference_points[:, :, None, :, None]  # (B, N, 1, levels, 1, 4)
        locations = boxes[..., :2] + offsets / host.num_points * boxes[..., 2:] * 0.5
        values = values.unflatten(2, (host.num_heads, -1))
        out = multi_scale_deformable_attn_pytorch(values, spatial_shapes, locations, weights)
        return query + host.output_proj(out)


class SketchSearch(nn.Module):
    """Objects that the sketches of one query show, in one image, best first.

    Inputs: images ``(1, 3, H, W)``, RGB, and sketches ``(K, 3, S, S)``, white strokes on black,
    both uint8. Outputs: boxes ``(N, 4)``, x1, y1, x2, y2 in pixels, and scores ``(N,)``.
    """

    task = "sketch"
    single = True
    names: tuple[str, ...] = ("boxes", "scores")

    def __init__(self, model: Any, normalise: nn.Module):
        super().__init__()
        self.normalise = normalise
        # attention is decomposed otherwise where there are gradients
        self.model: Any = deepcopy(model).requires_grad_(False)
        for layer in self.model.decoder.layers:
            layer.cross_attn = ListedLevels(layer.cross_attn)

    def forward(self, images: Tensor, sketches: Tensor) -> tuple[Tensor, Tensor]:
        model, preprocessor = self.model, self.model.data_preprocessor
        strokes = (sketches.float() - preprocessor.sketch_mean) / preprocessor.sketch_std
        sketch = model.sketch_encoder(strokes[None])
        height, width = images.shape[2:]
        x = pad_to_multiple(self.normalise(images), preprocessor.pad_size_divisor)
        below = torch.arange(x.shape[2], device=x.device) >= height
        right = torch.arange(x.shape[3], device=x.device) >= width
        padding = (below[:, None] | right)[None]
        features = model.backbone(x, padding, sketch)
        features = features._replace(maps=model.neck(features.maps))
        logits, boxes = model.bbox_head(*model.decode(features, padding, sketch))
        return self._select(logits[-1, 0].sigmoid(), boxes[-1, 0], height, width)

    def _select(
        self, scores: Tensor, boxes: Tensor, height: int, width: int
    ) -> tuple[Tensor, Tensor]:
        """Select the best objects from scores ``(N, L)`` and boxes ``(N, 4)``, centre and size."""
        head = self.model.bbox_head
        channels = scores.shape[1]
        best, places = scores.flatten().topk(head.test_cfg.max_per_img)
        centre, size = boxes.index_select(0, places // channels).chunk(2, 1)
        x, y = torch.stack([centre - size / 2, centre + size / 2], 1).unbind(2)  # (n, 2) each
        corners = [(x * width).clamp(0, width), (y * height).clamp(0, height)]
        boxes = torch.stack(corners, 2).flatten(1)
        if channels > 1:
            # the other logit of the released code takes part in the selection only
            boxes, best = (x[places % channels == 0] for x in (boxes, best))
        return boxes, best
