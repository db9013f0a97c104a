"""Slow definitions of mmcv's operators, as loops over numpy arrays in float64, and cases for them.

Written from the papers' formulas and mmcv's documentation; nothing here calls torchvision.
"""

import math
from collections.abc import Callable
from itertools import product
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from hybrid_backbones import mmcv_ops

STAND_IN = mmcv_ops.install()

import mmcv.ops  # noqa: E402
from mmcv.ops.multi_scale_deform_attn import MultiScaleDeformableAttnFunction  # noqa: E402


def iou(a, b, offset):
    """Intersection over union of two boxes `(x1, y1, x2, y2)` with sides `x2 - x1 + offset`."""

    def area(x1, y1, x2, y2):
        return max(x2 - x1 + offset, 0) * max(y2 - y1 + offset, 0)

    common = area(max(a[0], b[0]), max(a[1], b[1]), min(a[2], b[2]), min(a[3], b[3]))
    union = area(*a) + area(*b) - common
    return common / union if union > 0 else 0.0


def nms(boxes, scores, iou_threshold, offset):
    """Go through the boxes by descending score; keep one unless a kept one overlaps it too much."""
    kept = []
    for i in sorted(range(len(scores)), key=lambda i: -scores[i]):
        if all(iou(boxes[i], boxes[j], offset) <= iou_threshold for j in kept):
            kept.append(i)
    return kept


def soft_nms(boxes, scores, iou_threshold, sigma, min_score, method, offset):
    """Take the best box again and again, decaying the scores of the others by their overlap."""
    decay = {
        "naive": lambda overlap: 0.0 if overlap >= iou_threshold else 1.0,
        "linear": lambda overlap: 1 - overlap if overlap >= iou_threshold else 1.0,
        "gaussian": lambda overlap: math.exp(-(overlap**2) / sigma),
    }[method]
    left, kept = dict(enumerate(scores)), {}
    while left:
        best = max(left, key=left.get)
        kept[best] = left.pop(best)
        left = {i: s * decay(iou(boxes[best], boxes[i], offset)) for i, s in left.items()}
        left = {i: s for i, s in left.items() if s >= min_score}
    return list(kept), list(kept.values())


def bilinear(image, y, x):
    """Value at `(y, x)` of an image `(..., H, W)` that is zero outside of its pixels."""
    value = np.zeros(image.shape[:-2])
    for row, column in product(
        (math.floor(y), math.floor(y) + 1), (math.floor(x), math.floor(x) + 1)
    ):
        if 0 <= row < image.shape[-2] and 0 <= column < image.shape[-1]:
            share = (1 - abs(y - row)) * (1 - abs(x - column))
            value = value + share * image[..., row, column]
    return value


def roi_align(maps, rois, output_size, spatial_scale, sampling_ratio, aligned):
    """Average each bin over a regular grid of points, `sampling_ratio` or about one per pixel."""
    _, channels, height, width = maps.shape
    output = np.zeros((len(rois), channels, *output_size))
    for n, (index, *box) in enumerate(rois):
        left, top, right, bottom = (c * spatial_scale - (0.5 if aligned else 0.0) for c in box)
        # the legacy version has no RoI smaller than a pixel
        sides = [s if aligned else max(s, 1.0) for s in (bottom - top, right - left)]
        bins = [side / size for side, size in zip(sides, output_size, strict=True)]
        points = [sampling_ratio or math.ceil(size) for size in bins]
        for i, j in np.ndindex(*output_size):
            for p, q in np.ndindex(*points):
                y = top + (i + (p + 0.5) / points[0]) * bins[0]
                x = left + (j + (q + 0.5) / points[1]) * bins[1]
                # up to one pixel outside the map the border is repeated
                if -1 <= y <= height and -1 <= x <= width:
                    y, x = np.clip(y, 0, height - 1), np.clip(x, 0, width - 1)
                    output[n, :, i, j] += bilinear(maps[int(index)], y, x) / math.prod(points)
    return output


def log_sigmoid(x):
    return -math.log1p(math.exp(-x)) if x > 0 else x - math.log1p(math.exp(x))


def sigmoid_focal_loss(logits, target, gamma, alpha, weight):
    """Sum over all classes of the binary focal loss; a target of no class is background."""
    total = 0.0
    for (n, c), logit in np.ndenumerate(logits):
        sign, balance = (1, alpha) if target[n] == c else (-1, 1 - alpha)
        loss = -balance * math.exp(gamma * log_sigmoid(-sign * logit)) * log_sigmoid(sign * logit)
        total += loss * (weight[target[n]] if 0 <= target[n] < len(weight) else 1.0)
    return total


def softmax_focal_loss(logits, target, gamma, alpha, weight):
    """Sum over the rows of `-alpha * (1 - p)**gamma * log(p)`; negative labels are ignored."""
    total = 0.0
    for row, label in zip(logits, target, strict=True):
        if label >= 0:
            p = math.exp(row[label]) / sum(math.exp(logit) for logit in row)
            class_weight = weight[label] if len(weight) else 1.0
            total -= class_weight * alpha * (1 - p) ** gamma * math.log(p)
    return total


def deform_conv(maps, offset, mask, weight, bias, stride, padding, dilation, groups, deform_groups):
    """Convolve with each tap moved by its offset (y, x) and scaled by its mask."""
    num_maps, channels, _, _ = maps.shape
    out_channels, group_channels, *kernel = weight.shape
    output = np.zeros((num_maps, out_channels, *offset.shape[2:]))
    per_tap = (num_maps, deform_groups, *kernel)
    offset = offset.reshape(*per_tap, 2, *offset.shape[2:])
    mask = np.ones_like(offset[:, :, :, :, 0]) if mask is None else mask
    mask = mask.reshape(*per_tap, *offset.shape[-2:])
    for n, o, i, j in np.ndindex(*output.shape):
        first = o // (out_channels // groups) * group_channels
        for c, p, q in np.ndindex(group_channels, *kernel):
            g = (first + c) // (channels // deform_groups)
            y = i * stride[0] - padding[0] + p * dilation[0] + offset[n, g, p, q, 0, i, j]
            x = j * stride[1] - padding[1] + q * dilation[1] + offset[n, g, p, q, 1, i, j]
            sample = bilinear(maps[n, first + c], y, x) * mask[n, g, p, q, i, j]
            output[n, o, i, j] += weight[o, c, p, q] * sample
    return output if bias is None else output + bias[:, None, None]


def deform_attention(value, locations, weights, shapes):
    """Sum the values of each level at its locations `(x, y)` in 0..1, scaled by their weights."""
    num, queries, heads, _, points, _ = locations.shape
    output = np.zeros((num, queries, heads, value.shape[-1]))
    start = 0
    for level, (height, width) in enumerate(shapes):
        maps = value[:, start : start + height * width].reshape(num, height, width, heads, -1)
        start += height * width
        for n, query, head, point in np.ndindex(num, queries, heads, points):
            x, y = locations[n, query, head, level, point]
            image = np.moveaxis(maps[n, :, :, head], -1, 0)
            sample = bilinear(image, y * height - 0.5, x * width - 0.5)
            output[n, query, head] += weights[n, query, head, level, point] * sample
    return output.reshape(num, queries, -1)


class Case(NamedTuple):
    """A differentiable operator of mmcv, its definition, and float64 inputs for both.

    `num_roundings` counts what mmcv's own Python rounds to 16 bits, besides the inputs.
    """

    operator: Callable[..., Tensor]
    definition: Callable[..., np.ndarray | float]
    inputs: list[Tensor]
    num_roundings: int = 2


def normal(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed + sum(shape))
    return torch.randn(shape, dtype=torch.float64, generator=generator)


def roi_align_case(sampling_ratio: int, aligned: bool) -> Case:
    # inside, across two borders, thinner than a bin, outside, without any area
    rois = torch.tensor(
        [
            [0, 2, 4, 20, 22],
            [1, -8, 4, 12, 40],
            [1, 8, 8, 9, 30],
            [0, 80, 80, 96, 90],
            [0, 4, 4, 4, 4],
        ]
    )
    settings = ((3, 2), 0.25, sampling_ratio)
    layer = mmcv.ops.RoIAlign(*settings, aligned=aligned)
    return Case(
        lambda maps: layer(maps, rois.to(maps)),
        lambda maps: roi_align(maps, rois.numpy(), *settings, aligned),
        [normal(2, 3, 6, 7)],
    )


def focal_loss_case(name: str, gamma: float, weighted: bool = False) -> Case:
    operator, definition = getattr(mmcv.ops, name), globals()[name]
    # the last row has no class: background for the sigmoid, ignored by the softmax
    target = torch.tensor([2, 0, 1, 2, 3 if name == "sigmoid_focal_loss" else -1])
    weight = torch.tensor([0.5, 1.0, 2.0], dtype=torch.float64)[: 3 if weighted else 0]
    return Case(
        lambda logits: operator(
            logits,
            target.to(logits.device),
            gamma,
            0.3,
            weight.to(logits) if weighted else None,
            "sum",
        ),
        lambda logits: definition(logits, target.numpy(), gamma, 0.3, weight.numpy()),
        [3 * normal(5, 3)],
        # mmcv takes the softmax itself, by five operations in the dtype of the logits
        num_roundings=2 if name == "sigmoid_focal_loss" else 8,
    )


def deform_conv_case(
    version: int, groups: int = 1, deform_groups: int = 1, bias: bool = False
) -> Case:
    settings = ((2, 1), (1, 0), (1, 2), groups, deform_groups)  # stride, padding, dilation
    inputs = [
        normal(2, 4, 5, 4),
        1.5 * normal(2, 2 * deform_groups * 6, 3, 2),
        normal(2, deform_groups * 6, 3, 2).sigmoid(),
        normal(6, 4 // groups, 3, 2),
        normal(6),
    ]
    if version == 1:
        return Case(
            lambda maps, offset, weight: mmcv.ops.deform_conv2d(
                maps, offset, weight, *settings, False, 1
            ),
            lambda maps, offset, weight: deform_conv(maps, offset, None, weight, None, *settings),
            [inputs[0], inputs[1], inputs[3]],
        )
    return Case(
        lambda *tensors: mmcv.ops.modulated_deform_conv2d(
            *tensors, *(() if bias else (None,)), *settings
        ),
        lambda *arrays: deform_conv(*arrays, *(() if bias else (None,)), *settings),
        inputs if bias else inputs[:-1],
    )


def deform_attention_case() -> Case:
    shapes = [[3, 4], [2, 1]]
    shapes_and_starts = torch.tensor(shapes), torch.tensor([0, 12])
    weights = normal(2, 5, 2, 2 * 3).softmax(dim=-1).view(2, 5, 2, 2, 3)
    return Case(
        lambda value, locations, weights: MultiScaleDeformableAttnFunction.apply(
            value, *(t.to(value.device) for t in shapes_and_starts), locations, weights, 64
        ),
        lambda *arrays: deform_attention(*arrays, shapes),
        # a few locations are outside of 0..1
        [normal(2, 14, 2, 3), 0.5 + 0.4 * normal(2, 5, 2, 2, 3, 2), weights],
    )


CASES = {
    "roi_align-adaptive": roi_align_case(0, aligned=True),
    "roi_align-2x2": roi_align_case(2, aligned=True),
    "roi_align-legacy": roi_align_case(0, aligned=False),
    "sigmoid_focal_loss": focal_loss_case("sigmoid_focal_loss", 2.0),
    "sigmoid_focal_loss-gamma0": focal_loss_case("sigmoid_focal_loss", 0.0),
    "sigmoid_focal_loss-weighted": focal_loss_case("sigmoid_focal_loss", 0.7, weighted=True),
    "softmax_focal_loss": focal_loss_case("softmax_focal_loss", 2.0),
    "softmax_focal_loss-gamma0": focal_loss_case("softmax_focal_loss", 0.0),
    "softmax_focal_loss-weighted": focal_loss_case("softmax_focal_loss", 0.7, weighted=True),
    "deform_conv2d": deform_conv_case(1),
    "deform_conv2d-groups": deform_conv_case(1, groups=2, deform_groups=2),
    "modulated_deform_conv2d": deform_conv_case(2, deform_groups=2, bias=True),
    "modulated_deform_conv2d-groups": deform_conv_case(2, groups=2),
    "deform_attention": deform_attention_case(),
}
