"""Operators on rotated boxes `(x, y, width, height, angle)`, angles in radians."""

import torch
from torch import Tensor

from .support import widen

# relative tolerance of a corner that lies on a side of the other box
_ON_SIDE = 1e-6


def box_iou_rotated(
    bboxes1: Tensor, bboxes2: Tensor, ious: Tensor, *, mode_flag: int, aligned: bool
) -> None:
    """Fill `ious`, flat `(N * M,)` or aligned `(N,)`, with the IoU, or the share of the first."""
    first, second = bboxes1.double(), bboxes2.double()
    if not aligned:
        first, second = first[:, None], second[None]
    common = _intersection(first, second)
    areas = [boxes[..., 2] * boxes[..., 3] for boxes in (first, second)]
    whole = areas[0] if mode_flag == 1 else areas[0] + areas[1] - common
    # boxes without area do not overlap
    ratio = torch.where((areas[0] > 0) & (areas[1] > 0), common / whole, 0)
    ious.copy_(ratio.reshape(ious.shape))


def nms_rotated(
    dets: Tensor,
    scores: Tensor,
    order: Tensor,
    dets_sorted: Tensor,
    labels: Tensor,
    iou_threshold: float,
    multi_label: bool,
) -> Tensor:
    """Return the indices of the boxes that NMS keeps, by descending score.

    `dets` is `(N, 5)`, or `(N, 6)` with labels. As in mmcv's kernels, boxes of all labels suppress
    each other; `batched_nms` keeps them apart.
    """
    left, kept = order, []
    (boxes,) = widen(dets)
    while len(left):
        best, left = left[0], left[1:]
        kept.append(best)
        overlap = boxes.new_zeros(len(left))
        box_iou_rotated(boxes[best, None, :5], boxes[left, :5], overlap, mode_flag=0, aligned=False)
        left = left[overlap <= iou_threshold]
    return torch.stack(kept) if kept else order


def _corners(boxes: Tensor) -> Tensor:
    """Return the corners of boxes `(..., 5)`, in order around the box, `(..., 4, 2)`."""
    center, half, angle = boxes[..., None, :2], boxes[..., 2:4] / 2, boxes[..., 4]
    cos, sin = angle.cos(), angle.sin()
    right = half[..., :1] * torch.stack([cos, sin], -1)
    down = half[..., 1:] * torch.stack([-sin, cos], -1)
    return center + torch.stack([-right - down, right - down, right + down, down - right], -2)


def _cross(a: Tensor, b: Tensor) -> Tensor:
    return a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0]


def _intersection(first: Tensor, second: Tensor) -> Tensor:
    """Return the areas that boxes `(..., 5)` share.

    The corners of the shared polygon are the crossings of the sides, and the corners of each box
    in the other one; sorted by their angle around the mean they give its area.
    """
    first, second = torch.broadcast_tensors(first, second)
    # near the origin, where differences are exact
    middle = torch.zeros_like(first)
    middle[..., :2] = (first[..., :2] + second[..., :2]) / 2
    p, q = _corners(first - middle), _corners(second - middle)
    r, s = (corners.roll(-1, dims=-2) - corners for corners in (p, q))
    between = q[..., None, :, :] - p[..., :, None, :]  # (..., 4, 4, 2)
    r, s = r[..., :, None, :], s[..., None, :, :]
    turn = _cross(r, s)
    steep = turn.abs() > _ON_SIDE**2 * (r.norm(dim=-1) * s.norm(dim=-1))
    t, u = (_cross(between, side) / torch.where(steep, turn, 1) for side in (s, r))
    crosses = steep & (t >= 0) & (t <= 1) & (u >= 0) & (u <= 1)
    crossings = p[..., :, None, :] + t[..., None] * r
    points = torch.cat([crossings.flatten(-3, -2), p, q], -2)  # (..., 24, 2)
    valid = torch.cat([crosses.flatten(-2), _is_in(p, q), _is_in(q, p)], -1)
    # others stand on a valid point, where they add no area
    some = valid.int().argmax(-1)[..., None, None].expand(*points.shape[:-2], 1, 2)
    points = torch.where(valid[..., None], points, points.gather(-2, some))
    points = points - points.mean(-2, keepdim=True)
    order = torch.atan2(points[..., 1], points[..., 0]).argsort(-1)
    points = points.gather(-2, order[..., None].expand_as(points))
    area = _cross(points, points.roll(-1, dims=-2)).sum(-1).abs() / 2
    return torch.where(valid.any(-1), area, 0)


def _is_in(points: Tensor, corners: Tensor) -> Tensor:
    """Return which points `(..., 4, 2)` lie in the box of the given corners, or on its sides."""
    origin = corners[..., None, 0, :]
    inside = torch.ones_like(points[..., 0], dtype=torch.bool)
    for corner in (1, 3):
        side = corners[..., None, corner, :] - origin
        share = ((points - origin) * side).sum(-1)
        length = side.square().sum(-1)
        inside &= (share >= -_ON_SIDE * length) & (share <= (1 + _ON_SIDE) * length)
    return inside
