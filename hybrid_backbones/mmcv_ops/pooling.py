"""RoIAlign, by torchvision."""

from typing import Any

import torch
from torch import Tensor

from .support import refuse, widen

# mmcv's setting names in torchvision's order
_BINS = ("spatial_scale", "aligned_height", "aligned_width", "sampling_ratio", "aligned")


def roi_align_forward(*tensors: Tensor, **settings: Any) -> None:
    if settings["pool_mode"] != 1:
        refuse("roi_align_forward with pool_mode=max")
    input, rois, output, _, _ = tensors
    bins = (settings[name] for name in _BINS)
    output.copy_(torch.ops.torchvision.roi_align(*widen(input, rois), *bins))


def roi_align_backward(*tensors: Tensor, **settings: Any) -> None:
    grad_output, rois, _, _, grad_input = tensors
    *bins, sampling_ratio, aligned = (settings[name] for name in _BINS)
    arguments = (*widen(grad_output, rois), *bins, *grad_input.shape, sampling_ratio, aligned)
    grad_input.copy_(torch.ops.torchvision._roi_align_backward(*arguments))
