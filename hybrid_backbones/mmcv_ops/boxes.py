"""Operators on boxes `(x1, y1, x2, y2)`."""

import numpy as np
import torch
import torchvision
from torch import Tensor

from .support import widen


def nms(boxes: Tensor, scores: Tensor, iou_threshold: float, offset: int) -> Tensor:
    """Return the indices of the boxes `(N, 4)` that NMS keeps, by descending score."""
    boxes, scores = widen(boxes, scores)
    if offset:
        # mmcv computes sides as x2 - x1 + offset, which is equal to moving the far corner
        boxes = boxes + boxes.new_tensor([0, 0, offset, offset])
    # mmcv compares in float32: an overlap of exactly 0.6 does not exceed the threshold 0.6
    return torchvision.ops.nms(boxes, scores, float(np.float32(iou_threshold)))


def _overlaps(box: np.ndarray, boxes: np.ndarray, offset: int) -> np.ndarray:
    """Return the IoU of one box `(4,)` with boxes `(N, 4)`; 0 if both are empty."""
    low, high = np.maximum(box[:2], boxes[:, :2]), np.minimum(box[2:], boxes[:, 2:])
    intersection = (high - low + offset).clip(min=0).prod(axis=1)
    area, areas = ((b[..., 2:] - b[..., :2] + offset).prod(axis=-1) for b in (box, boxes))
    return intersection / np.maximum(area + areas - intersection, np.finfo(boxes.dtype).tiny)


def softnms(
    boxes: Tensor, scores: Tensor, dets: Tensor, *, method: int, offset: int, **settings: float
) -> Tensor:
    """Repeatedly keep the best box, decay the scores of overlapping ones and drop low scores.

    The kept boxes and their scores fill the first rows of `dets`, `(N, 5)`; returns their indices.
    """
    corners, decayed = (tensor.numpy().copy() for tensor in widen(boxes, scores))
    left: np.ndarray = np.arange(len(decayed))
    kept = []
    while left.size:
        hole = decayed[left].argmax()
        kept.append(best := left[hole])
        # gaps here and below are filled in mmcv's order, which decides between equal scores
        left[hole] = left[0]
        left = left[1:]
        overlap = _overlaps(corners[best], corners[left], offset)
        if method == 2:  # gaussian; 0 is naive, 1 linear
            decayed[left] *= np.exp(-(overlap**2) / settings["sigma"])
        else:
            hit = overlap >= np.float32(settings["iou_threshold"])
            decayed[left] *= np.where(hit, 1 - overlap if method == 1 else 0, 1)
        dropped = decayed[left] < np.float32(settings["min_score"])
        num_left = len(left) - dropped.sum()
        fillers = left[num_left:][~dropped[num_left:]]
        left = left[:num_left]
        left[dropped[:num_left]] = fillers[::-1]
    dets[: len(kept)] = torch.from_numpy(np.c_[corners, decayed][kept])
    return torch.tensor(kept, dtype=torch.long)


def nms_match(dets: Tensor, iou_threshold: float) -> list[list[int]]:
    """Return for each box that NMS keeps its index, followed by those of the boxes it suppresses.

    Args:
        dets: boxes and scores, `(N, 5)`; indices are in the order of descending scores.
        iou_threshold: lowest overlap at which a box is suppressed.
    """
    (wide,) = widen(dets)
    corners, scores = wide[:, :4].numpy(), wide[:, 4]
    left = scores.sort(descending=True, stable=True).indices.numpy()
    groups = []
    while left.size:
        best, left = left[0], left[1:]
        hit = _overlaps(corners[best], corners[left], 0) >= np.float32(iou_threshold)
        groups.append([int(best), *left[hit].tolist()])
        left = left[~hit]
    return groups


def bbox_overlaps(
    bboxes1: Tensor, bboxes2: Tensor, ious: Tensor, *, mode: int, aligned: bool, offset: int
) -> None:
    """Fill `ious`, `(N, M)` or aligned `(N,)`, with intersection over union, or over the first."""
    first, second = widen(bboxes1, bboxes2)
    if not aligned:
        first = first[:, None]
    low = torch.maximum(first[..., :2], second[..., :2])
    high = torch.minimum(first[..., 2:], second[..., 2:])
    common = (high - low + offset).clamp(min=0).prod(-1)
    areas = [(boxes[..., 2:] - boxes[..., :2] + offset).prod(-1) for boxes in (first, second)]
    whole = areas[0] if mode == 1 else areas[0] + areas[1] - common
    # two empty boxes do not overlap; mmcv's kernel divides 0 by 0
    ious.copy_(common / whole.clamp(min=torch.finfo(common.dtype).tiny))
