"""Anchors, candidates and proposals of mmdet's detectors, in a form that can be exported.

What the host computes with lists and masks is here in graphs of fixed shapes: each level of the
pyramid gives its k best candidates and the first stage a constant number of proposals, where places
that stay empty have a score of -inf. Only NMS of the objects above the threshold, the last step,
has a size that depends on the image. As in :mod:`.detectors`, ``A`` is the number of anchors, ``P``
that of proposals, ``N`` that of objects, and ``L`` that of classes.
"""

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from mmdet.models.dense_heads import RetinaHead, RPNHead
from torch import Tensor, nn
from torchvision.ops import nms

from ..layers import are_known
from ..ops.choice import is_exporting

# score of empty places
EMPTY = float("-inf")


def best(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Return the k largest scores ``(n,)``, best first and the first of equals first.

    Returns:
        scores ``(k,)``, -inf where there are fewer, and their places, which are in range there too;
        where n is a constant below k, both are ``(n,)``.
    """
    number = scores.shape[0]
    if are_known(number):
        k = min(k, number)
    else:
        scores = F.pad(scores, (0, k), value=EMPTY)
    # ONNX's TopK puts the first of equals first, PyTorch's does not
    found = scores.topk(k) if is_exporting() else scores.sort(descending=True, stable=True)
    scores, places = (x[:k] for x in found)
    return scores, torch.where(scores > EMPTY, places, 0)


def decode(coder: Any, anchors: Tensor, deltas: Tensor, size: tuple[int, int]) -> Tensor:
    """Move anchors ``(n, 4)`` by their deltas ``(n, 4·L)`` as the host does, within the image.

    Returns:
        boxes, ``(n, 4·L)``.
    """
    boxes = coder.decode(anchors, deltas)
    if not coder.clip_border:
        return boxes
    height, width = size
    corners = boxes.unflatten(1, (-1, 2))  # (n, 2·L, 2)
    corners = torch.stack([corners[..., 0].clamp(0, width), corners[..., 1].clamp(0, height)], -1)
    return corners.flatten(1)


def suppress(
    boxes: Tensor, scores: Tensor, groups: Tensor, limit: Tensor, iou_threshold: float
) -> Tensor:
    """Return the boxes ``(n, 4)`` that NMS within each group keeps, best first.

    Args:
        boxes: boxes.
        scores: their scores, ``(n,)``.
        groups: number of the group of each box, ``(n,)``.
        limit: largest coordinate, by which the groups are moved apart as the host does.
        iou_threshold: largest overlap of two boxes that are kept.
    """
    apart = boxes + (groups * (limit + 1))[:, None]
    # mmcv compares in float32
    return nms(apart, scores, float(np.float32(iou_threshold)))


def require_nms(settings: Any) -> float:
    """Return the threshold of NMS that keeps classes apart.

    Raises:
        ValueError: if the config has another kind of NMS.
    """
    if settings.get("type") != "nms" or settings.get("class_agnostic"):
        raise ValueError(
            f"only NMS of each class is exported, got nms={dict(settings)}: add --no-postprocess"
        )
    return settings.iou_threshold


class Candidates(nn.Module):
    """All anchors of a RetinaNet or a region proposal network, and the best of each level.

    Args:
        head: head of mmdet, with anchors and a sigmoid for each class.
    """

    def __init__(self, head: Any):
        super().__init__()
        if not isinstance(head, RetinaHead | RPNHead) or not head.use_sigmoid_cls:
            raise ValueError(
                f"{type(head).__name__} is not exported: add --backbone-only for the feature maps"
            )
        self.head: Any = head

    def levels(self, maps: tuple[Tensor, ...]) -> list[tuple[Tensor, Tensor, Tensor]]:
        """Return scores ``(A, L)``, deltas ``(A, 4)`` and anchors ``(A, 4)`` of each level."""
        logits, deltas = self.head(maps)
        anchors = self.head.prior_generator.grid_priors(
            [level.shape[2:] for level in logits], dtype=maps[0].dtype, device=maps[0].device
        )
        channels = self.head.cls_out_channels
        return [
            (
                level_logits[0].permute(1, 2, 0).reshape(-1, channels).sigmoid(),
                level_deltas[0].permute(1, 2, 0).reshape(-1, 4),
                level_anchors,
            )
            for level_logits, level_deltas, level_anchors in zip(
                logits, deltas, anchors, strict=True
            )
        ]

    def forward(self, maps: tuple[Tensor, ...], size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Return the boxes ``(A, 4)`` and scores ``(A, L)`` of all anchors of all levels."""
        scores, deltas, anchors = (torch.cat(x) for x in zip(*self.levels(maps), strict=True))
        return decode(self.head.bbox_coder, anchors, deltas, size), scores

    def select(
        self, maps: tuple[Tensor, ...], size: tuple[int, int]
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Select the `nms_pre` best pairs of anchor and class of each level.

        Returns:
            boxes ``(n, 4)``, scores, classes and levels ``(n,)``; the score is -inf for places that
            stay empty, and of boxes that are too small.
        """
        settings = self.head.test_cfg
        found = []
        for number, (scores, deltas, anchors) in enumerate(self.levels(maps)):
            channels, flat = scores.shape[1], scores.flatten()
            if isinstance(self.head, RetinaHead):
                flat = torch.where(flat > settings.get("score_thr", 0), flat, EMPTY)
            level_scores, places = best(flat, settings.nms_pre)
            rows = places // channels
            level = torch.full_like(places, number)
            classes = places - rows * channels
            chosen = (x.index_select(0, rows) for x in (deltas, anchors))
            found.append((*chosen, level_scores, classes, level))
        deltas, anchors, scores, classes, levels = map(torch.cat, zip(*found, strict=True))
        boxes = decode(self.head.bbox_coder, anchors, deltas, size)
        smallest = settings.get("min_bbox_size", -1)
        if smallest >= 0:
            large = (boxes[:, 2:] - boxes[:, :2] > smallest).all(1)
            scores = torch.where(large, scores, EMPTY)
        return boxes, scores, classes, levels


def select_objects(
    boxes: Tensor, scores: Tensor, classes: Tensor, settings: Any
) -> tuple[Tensor, Tensor, Tensor]:
    """Select the objects with a score above -inf that NMS of their class keeps.

    Args:
        boxes: boxes, ``(n, 4)``.
        scores: their scores, ``(n,)``.
        classes: their classes, ``(n,)``.
        settings: host's settings, of which `nms` and `max_per_img` are read.

    Returns:
        boxes ``(N, 4)``, classes and scores ``(N,)``, best first.
    """
    valid = scores > EMPTY
    limit = torch.where(valid[:, None], boxes, 0).max()
    (places,) = valid.nonzero(as_tuple=True)
    boxes, scores, classes = (x.index_select(0, places) for x in (boxes, scores, classes))
    kept = suppress(boxes, scores, classes, limit, require_nms(settings.nms))
    if settings.max_per_img > 0:
        kept = kept[: settings.max_per_img]
    return boxes.index_select(0, kept), classes.index_select(0, kept), scores.index_select(0, kept)


class Proposals(Candidates):
    """The proposals of a region proposal network."""

    def forward(self, maps: tuple[Tensor, ...], size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Return boxes ``(P, 4)`` and scores ``(P,)``, -inf and a box at 0 for empty places."""
        settings = self.head.test_cfg
        boxes, scores, _, levels = self.select(maps, size)
        valid = scores > EMPTY
        limit = torch.where(valid[:, None], boxes, 0).max()
        # boxes of empty places overlap, so that NMS keeps only one of them
        aside = boxes.new_tensor([-2.0, -2.0, -1.0, -1.0])
        apart = torch.where(valid[:, None], boxes, aside)
        groups = torch.where(valid, levels, 0)
        kept = suppress(apart, scores, groups, limit, require_nms(settings.nms))
        scores = torch.full_like(scores, EMPTY).scatter(0, kept, scores.index_select(0, kept))
        scores, places = best(scores, settings.max_per_img)
        return torch.where(scores[:, None] > EMPTY, boxes.index_select(0, places), 0), scores
