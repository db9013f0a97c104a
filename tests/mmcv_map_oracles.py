"""Slow definitions of mmcv's operators that reassemble maps, and of rotated boxes; cases for them.

Written from the papers' formulas and mmcv's documentation, as loops over numpy arrays.
"""

import math

import mmcv.ops
import numpy as np
import torch
from mmcv_oracles import Case, deform_conv, normal


def carafe(features, masks, kernel_size, groups, scale):
    """Weigh the K×K neighbours of the position that lies under each one of the larger map."""
    num, channels, height, width = features.shape
    output = np.zeros((num, channels, height * scale, width * scale))
    weights = masks.reshape(num, groups, kernel_size, kernel_size, *output.shape[2:])
    for n, c, i, j in np.ndindex(*output.shape):
        for p, q in np.ndindex(kernel_size, kernel_size):
            y, x = i // scale + p - kernel_size // 2, j // scale + q - kernel_size // 2
            if 0 <= y < height and 0 <= x < width:
                weight = weights[n, c * groups // channels, p, q, i, j]
                output[n, c, i, j] += features[n, c, y, x] * weight
    return output


def psa_mask(masks, kind, size):
    """Place the mask of each position so that its centre lies on the position."""
    num, _, height, width = masks.shape
    masks = masks.reshape(num, *size, height, width)
    output = np.zeros((num, height, width, height, width))
    for n, p, q, y, x in np.ndindex(*masks.shape):
        i, j = y + p - (size[0] - 1) // 2, x + q - (size[1] - 1) // 2
        if 0 <= i < height and 0 <= j < width:
            pair = (y, x, i, j) if kind == "distribute" else (i, j, y, x)
            output[(n, *pair)] = masks[n, p, q, y, x]
    return output.reshape(num, height * width, height, width)


def corners(x, y, w, h, angle):
    turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    signs = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]])
    return [turn @ (sign * (w, h) / 2) + (x, y) for sign in signs]


def area(polygon):
    following = [*polygon[1:], *polygon[:1]]
    return abs(sum(a[0] * b[1] - a[1] * b[0] for a, b in zip(polygon, following, strict=True))) / 2


def rotated_overlap(box, other):
    """Cut a box by the four sides of another one (Sutherland and Hodgman); return the area left."""
    left, sides = corners(*box), corners(*other)
    for start, end in zip(sides, [*sides[1:], *sides[:1]], strict=True):
        direction = end - start

        def height(point, start=start, direction=direction):
            return direction[0] * (point - start)[1] - direction[1] * (point - start)[0]

        cut = []
        for a, b in zip(left, [*left[1:], *left[:1]], strict=True):
            if height(a) >= 0:
                cut.append(a)
            if (height(a) > 0) != (height(b) > 0) and height(a) != height(b):
                cut.append(a + (b - a) * height(a) / (height(a) - height(b)))
        left = cut
    return area(left) if len(left) > 2 else 0.0


def rotated_iou(box, other, mode="iou"):
    common = rotated_overlap(box, other)
    whole = box[2] * box[3] + (other[2] * other[3] - common if mode == "iou" else 0)
    return common / whole


def carafe_case(kernel_size: int, groups: int, scale: int) -> Case:
    settings = (kernel_size, groups, scale)
    masks = normal(1, groups * kernel_size**2, 2 * scale, 2 * scale)
    return Case(
        lambda features, masks: mmcv.ops.carafe(features, masks, *settings),
        lambda features, masks: carafe(features, masks, *settings),
        [normal(1, 2, 2, 2), masks],
    )


def psa_mask_case(kind: str, size: tuple[int, int]) -> Case:
    layer = mmcv.ops.PSAMask(kind, size)
    return Case(
        layer, lambda masks: psa_mask(masks, kind, size), [normal(2, size[0] * size[1], 4, 3)]
    )


def larger_offset_case() -> Case:
    """The layers of DyHead pass the offsets of a larger map; each sample is read from its start."""
    settings = ((1, 1), (1, 1), (1, 1), 1, 1)
    inputs = [
        normal(2, 4, 3, 2),
        1.5 * normal(2, 18, 6, 5),
        normal(2, 9, 6, 5).sigmoid(),
        normal(6, 4, 3, 3),
    ]

    def definition(maps, offset, mask, weight):
        first = [
            x.reshape(2, -1)[:, : n * 6].reshape(2, n, 3, 2) for x, n in ((offset, 18), (mask, 9))
        ]
        return deform_conv(maps, *first, weight, None, *settings)

    return Case(
        lambda *tensors: mmcv.ops.modulated_deform_conv2d(*tensors, None, *settings),
        definition,
        inputs,
    )


MAP_CASES = {
    "carafe": carafe_case(5, 1, 1),
    "carafe-groups": carafe_case(3, 2, 2),
    "psa_mask-collect": psa_mask_case("collect", (5, 4)),
    "psa_mask-distribute": psa_mask_case("distribute", (2, 7)),
    "modulated_deform_conv2d-larger": larger_offset_case(),
}
# boxes that meet in special ways, besides random ones
SPECIAL = [
    ("the same", [3, 4, 5, 2, 0.7], [3, 4, 5, 2, 0.7], 10.0),
    ("turned by a quarter", [3, 4, 5, 2, 0.7], [3, 4, 2, 5, 0.7 + math.pi / 2], 10.0),
    ("inside", [3, 4, 5, 2, 0.7], [3, 4, 2.5, 1, 0.7], 2.5),
    ("sharing a corner", [0, 0, 4, 4, 0], [1, 1, 2, 2, 0], 4.0),
    ("touching", [0, 0, 2, 2, 0], [2, 0, 2, 2, 0], 0.0),
    ("apart", [0, 0, 2, 2, 0.3], [9, 9, 2, 2, 0.1], 0.0),
    ("a cross", [100, 100, 10, 2, 0.4], [100, 100, 2, 10, 0.4], 4.0),
    ("a star", [0, 0, 2, 2, 0], [0, 0, 2, 2, math.pi / 4], 8 * (math.sqrt(2) - 1)),
    ("without area", [0, 0, 2, 0, 0.3], [0, 0, 2, 2, 0.1], 0.0),
]


def random_rotated(num: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    scale = torch.tensor([10.0, 10.0, 8.0, 8.0, 6.0])
    return torch.rand(num, 5, generator=generator) * scale
