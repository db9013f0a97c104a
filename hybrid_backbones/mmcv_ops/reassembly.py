"""Operators that reassemble maps: CARAFE, the masks of PSANet, and masked convolution."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .support import gradients, widen


def _carafe(features: Tensor, masks: Tensor, kernel_size: int, group_size: int, scale_factor: int):
    """Sum the K×K neighbours of each low-resolution position, weighted by `masks`.

    Args:
        features: `(B, C, H, W)`, zero outside.
        masks: weights, `(B, groups * K * K, s * H, s * W)`.

    Returns:
        map, `(B, C, s * H, s * W)`.
    """
    features, masks = widen(features, masks)
    height, width = features.shape[2:]
    padded = F.pad(features, 4 * [kernel_size // 2]).unflatten(1, (group_size, -1))
    weights = masks.unflatten(1, (group_size, 1, kernel_size, kernel_size))
    output = features.new_zeros(())
    for p in range(kernel_size):
        for q in range(kernel_size):
            near = padded[..., p : p + height, q : q + width]
            near = near.repeat_interleave(scale_factor, -2).repeat_interleave(scale_factor, -1)
            output = output + near * weights[:, :, :, p, q]
    return output.flatten(1, 2)


def carafe_naive_forward(*tensors: Tensor, **settings: int) -> None:
    features, masks, output = tensors
    output.copy_(_carafe(features, masks, **settings))


def carafe_naive_backward(*tensors: Tensor, **settings: int) -> None:
    grad_output, features, masks, *outputs = tensors
    grads = gradients(_carafe, features, masks, grad=grad_output, **settings)
    for output, grad in zip(outputs, grads, strict=True):
        output.copy_(grad)


def carafe_forward(*tensors: Tensor, **settings: int) -> None:
    features, masks, kept_features, _, _, output = tensors
    # mmcv passes nothing else of the features to the backward pass
    kept_features.copy_(features)
    carafe_naive_forward(features, masks, output, **settings)


def carafe_backward(*tensors: Tensor, **settings: int) -> None:
    grad_output, features, masks, _, _, _, _, *outputs = tensors
    carafe_naive_backward(grad_output, features, masks, *outputs, **settings)


def _psa_mask(input: Tensor, psa_type: int, h_mask: int, w_mask: int) -> Tensor:
    """Move a mask relative to each position to the positions of the map.

    Args:
        input: mask of each position, `(B, h_mask * w_mask, H, W)`.
        psa_type: 1 to distribute, where position `i` gives `input` to others; 0 to collect, its
            transpose.

    Returns:
        weights of all pairs of positions, `(B, H * W, H, W)`, zero where a mask does not reach.
    """
    height, width = input.shape[2:]
    rows, columns = (torch.arange(n, device=input.device) for n in (height, width))
    # place in the mask of the first position that belongs to the second
    i = rows - rows[:, None] + (h_mask - 1) // 2  # (H, H)
    j = columns - columns[:, None] + (w_mask - 1) // 2  # (W, W)
    reached = ((i >= 0) & (i < h_mask))[:, None, :, None] & ((j >= 0) & (j < w_mask))[:, None, :]
    place = i.clamp(0, h_mask - 1)[:, None, :, None] * w_mask + j.clamp(0, w_mask - 1)[:, None, :]
    place = place.reshape(height * width, -1).expand(len(input), -1, -1)
    weights = input.flatten(2).transpose(1, 2).gather(2, place)  # (B, H * W, H * W)
    weights = weights * reached.reshape(height * width, -1)
    return (weights if psa_type == 1 else weights.transpose(1, 2)).unflatten(2, (height, width))


def psamask_forward(*tensors: Tensor, psa_type: int, h_mask: int, w_mask: int, **_: Any) -> None:
    input, output = tensors
    output.copy_(_psa_mask(input, psa_type, h_mask, w_mask))


def psamask_backward(*tensors: Tensor, psa_type: int, h_mask: int, w_mask: int, **_: Any) -> None:
    grad_output, grad_input = tensors
    settings = dict(psa_type=psa_type, h_mask=h_mask, w_mask=w_mask)
    # linear in the input, whose values are not passed
    grad_input.copy_(*gradients(_psa_mask, grad_input, grad=grad_output, **settings))


def masked_im2col_forward(
    *tensors: Tensor, kernel_h: int, kernel_w: int, pad_h: int, pad_w: int
) -> None:
    features, rows, columns, patches = tensors
    unfolded = F.unfold(features, (kernel_h, kernel_w), padding=(pad_h, pad_w))[0]
    width = features.shape[3] + 2 * pad_w - kernel_w + 1
    patches.copy_(unfolded[:, rows * width + columns])


def masked_col2im_forward(*tensors: Tensor, **_: Any) -> None:
    values, rows, columns, output = tensors
    output[0, :, rows, columns] = values
