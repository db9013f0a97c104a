"""Stand-in for mmcv's compiled extension, based on torchvision.

A plain `pip install` provides mmcv without its compiled module `mmcv._ext`, so `import mmcv.ops`
and `import mmdet.models` fail. `install` puts a stand-in in place of an absent `mmcv._ext`. Its
operators follow mmcv's calling conventions (positional tensors, results written into tensors that
the caller allocates, settings by keyword) and run on CPU and CUDA, in all floating-point dtypes and
with gradients; all other operators raise `NotImplementedError` when called.
"""

import importlib.util
import math
import sys
import types
from collections.abc import Callable
from functools import partial
from importlib.abc import Loader
from importlib.machinery import ModuleSpec, PathFinder
from typing import Any

import numpy as np
import torch
import torchvision
from torch import Tensor
from torch.nn.functional import log_softmax, logsigmoid

_NO_STAND_IN = """\
mmcv operator '{name}' has no stand-in: it needs mmcv's compiled extension. Install a wheel made for
your torch and CUDA versions (mmcv's installation guide says where they are), or build one,
which requires torch and a C++ compiler (for GPUs also nvcc):
    pip install "setuptools>=80,<82" wheel packaging
    pip install --no-build-isolation --no-deps --force-reinstall --no-binary onedl-mmcv onedl-mmcv
With upstream's packages: pip uninstall mmcv-lite; pip install --no-build-isolation mmcv==2.1.0"""

# mmcv's setting names in torchvision's order, for RoIAlign and deformable convolution v1 and v2
_BINS = ("spatial_scale", "aligned_height", "aligned_width", "sampling_ratio", "aligned")
_V1 = ("dH", "dW", "padH", "padW", "dilationH", "dilationW", "group", "deformable_group")
_V2 = ("stride_h", "stride_w", "pad_h", "pad_w", "dilation_h", "dilation_w", *_V1[-2:])
# lower bound of probabilities before the logarithm, as in mmcv
_TINY = torch.finfo(torch.float32).tiny


def _refuse(name: str, *args: Any, **kwargs: Any) -> None:
    raise NotImplementedError(_NO_STAND_IN.format(name=name))


def _widen(first: Tensor, *others: Tensor) -> list[Tensor]:
    """Cast all to the dtype of the first, or to float32 if it has 16 bits, which kernels lack."""
    dtype = torch.float32 if first.dtype in (torch.float16, torch.bfloat16) else first.dtype
    return [tensor.to(dtype) for tensor in (first, *others)]


def _gradients(function: Callable, *inputs: Tensor, grad: Tensor | float = 1.0, **constants: Any):
    """Return the gradients of `(function(*inputs, **constants) * grad).sum()` w.r.t. `inputs`."""
    with torch.enable_grad():
        leaves = [tensor.detach().requires_grad_() for tensor in inputs]
        total = (function(*leaves, **constants) * grad).sum()
    return torch.autograd.grad(total, leaves)


def nms(boxes: Tensor, scores: Tensor, iou_threshold: float, offset: int) -> Tensor:
    """Return the indices of the boxes `(N, 4)` that NMS keeps, by descending score."""
    boxes, scores = _widen(boxes, scores)
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
    corners, decayed = (tensor.numpy().copy() for tensor in _widen(boxes, scores))
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


def roi_align_forward(*tensors: Tensor, **settings: Any) -> None:
    if settings["pool_mode"] != 1:
        _refuse("roi_align_forward with pool_mode=max")
    input, rois, output, _, _ = tensors
    bins = (settings[name] for name in _BINS)
    output.copy_(torch.ops.torchvision.roi_align(*_widen(input, rois), *bins))


def roi_align_backward(*tensors: Tensor, **settings: Any) -> None:
    grad_output, rois, _, _, grad_input = tensors
    *bins, sampling_ratio, aligned = (settings[name] for name in _BINS)
    arguments = (*_widen(grad_output, rois), *bins, *grad_input.shape, sampling_ratio, aligned)
    grad_input.copy_(torch.ops.torchvision._roi_align_backward(*arguments))


def _focal(log_right: Tensor, log_wrong: Tensor, gamma: float) -> Tensor:
    """Return `-(1 - p)**gamma * log(p)` from the logarithms of p and 1 - p; finite for any gamma.

    mmcv's kernels round 1 - p and clamp its logarithm: 87 instead of 20 for a wrong logit of 20.
    """
    return -torch.exp(gamma * log_wrong) * log_right


def _row_weight(weight: Tensor, target: Tensor) -> Tensor | float:
    """Return the class weight of each row, `(N, 1)`, or 1 without weights."""
    if weight.numel() == 0:
        return 1.0
    # mmcv's kernels read out of bounds for background and ignored rows; their weight is 1 here
    has_class = (target >= 0) & (target < len(weight))
    return torch.where(has_class, weight[target.clamp(0, len(weight) - 1)], 1)[:, None]


def _sigmoid_loss(logits: Tensor, target: Tensor, weight: Tensor, gamma: float, alpha: float):
    """Return the loss of each logit, `(N, C)`; a `target` outside the classes is background."""
    (logits,) = _widen(logits)
    positive = (target[:, None] == torch.arange(logits.size(1), device=logits.device)).to(logits)
    scale = (alpha * positive + (1 - alpha) * (1 - positive)) * _row_weight(weight, target)
    right = (2 * positive - 1) * logits
    return scale * _focal(logsigmoid(right), logsigmoid(-right), gamma)


def sigmoid_focal_loss_forward(*tensors: Tensor, **settings: float) -> None:
    logits, target, weight, output = tensors
    output.copy_(_sigmoid_loss(logits, target, weight, **settings))


def sigmoid_focal_loss_backward(*tensors: Tensor, **settings: float) -> None:
    logits, target, weight, grad_logits = tensors
    grad_logits.copy_(*_gradients(_sigmoid_loss, logits, target=target, weight=weight, **settings))


def _softmax_loss(logits: Tensor, target: Tensor, weight: Tensor, gamma: float, alpha: float):
    """Return the loss of each row, `(N, 1)`; 0 for a negative target."""
    label, log_p = target.clamp(min=0)[:, None], log_softmax(logits, dim=1)
    # 1 - p as the sum over all other classes, which avoids cancellation
    others = log_p.scatter(1, label, math.log(_TINY))
    scale = alpha * (target >= 0)[:, None].to(logits) * _row_weight(weight, target)
    return scale * _focal(log_p.gather(1, label), others.logsumexp(1, keepdim=True), gamma)


def softmax_focal_loss_forward(*tensors: Tensor, **settings: float) -> None:
    softmax, target, weight, output = tensors
    logits = _widen(softmax)[0].clamp(min=_TINY).log()
    output.copy_(_softmax_loss(logits, target, weight, **settings).squeeze(1))


def softmax_focal_loss_backward(*tensors: Tensor, **settings: float) -> None:
    softmax, target, weight, _, grad_logits = tensors
    logits = _widen(softmax)[0].clamp(min=_TINY).log()
    grad_logits.copy_(*_gradients(_softmax_loss, logits, target=target, weight=weight, **settings))


def _deform_conv(settings: dict[str, Any], grad: Tensor | None, *tensors: Tensor) -> Any:
    """Return the output, or with `grad` the gradients of input, weight, offset, mask and bias.

    The offset is `(B, 2 * deform_groups * K * K, H', W')`, y before x. v1 has no mask and no bias.
    """
    input, weight, offset, *others = tensors
    # torchvision requires mask and bias; mmcv's v2 passes an empty bias for none
    mask, bias = others or (input.new_zeros(len(input), 1), input.new_zeros(0))
    bias = bias if bias.numel() else input.new_zeros(len(weight))
    widened = _widen(input, weight, offset, mask, bias)
    arguments = (*widened, *(settings[name] for name in (_V2 if others else _V1)), bool(others))
    if grad is None:
        return torch.ops.torchvision.deform_conv2d(*arguments)
    return torch.ops.torchvision._deform_conv2d_backward(grad.to(widened[0].dtype), *arguments)


def deform_conv_forward(*tensors: Tensor, **settings: Any) -> None:
    input, weight, offset, output, _, _ = tensors
    output.copy_(_deform_conv(settings, None, input, weight, offset))


def deform_conv_backward_input(*tensors: Tensor, **settings: Any) -> None:
    input, offset, grad_output, grad_input, grad_offset, weight, _ = tensors
    grads = _deform_conv(settings, grad_output, input, weight, offset)
    grad_input.copy_(grads[0])
    grad_offset.copy_(grads[2])


def deform_conv_backward_parameters(*tensors: Tensor, scale: float, **settings: Any) -> None:
    input, offset, grad_output, grad_weight, _, _ = tensors
    # mmcv does not pass the weight, whose gradient does not depend on its values
    grads = _deform_conv(settings, grad_output, input, torch.zeros_like(grad_weight), offset)
    grad_weight.add_(grads[1], alpha=scale)


def modulated_deform_conv_forward(*tensors: Tensor, **settings: Any) -> None:
    input, weight, bias, _, offset, mask, output, _ = tensors
    output.copy_(_deform_conv(settings, None, input, weight, offset, mask, bias))


def modulated_deform_conv_backward(*tensors: Tensor, **settings: Any) -> None:
    input, weight, bias, _, offset, mask, _, *outputs, grad_output = tensors
    grads = _deform_conv(settings, grad_output, input, weight, offset, mask, bias)
    # mmcv expects the bias third, and an empty gradient if there is no bias
    for output, index in zip(outputs, (0, 1, 4, 2, 3), strict=True):
        output.copy_(grads[index][: len(output)])


def _attend(value: Tensor, locations: Tensor, weights: Tensor, shapes: Tensor) -> Tensor:
    """Compute deformable attention, `(B, num_queries, C)`, by mmcv's formula on `grid_sample`."""
    # imported late: mmcv.ops cannot be imported before the stand-in is installed
    from mmcv.ops.multi_scale_deform_attn import multi_scale_deformable_attn_pytorch

    value, locations, weights = _widen(value, locations, weights)
    return multi_scale_deformable_attn_pytorch(value, shapes.tolist(), locations, weights)


def ms_deform_attn_forward(*tensors: Tensor, im2col_step: int) -> Tensor:
    value, shapes, _, locations, weights = tensors
    return _attend(value, locations, weights, shapes).to(value.dtype)


def ms_deform_attn_backward(*tensors: Tensor, im2col_step: int) -> None:
    value, shapes, _, locations, weights, grad_output, *outputs = tensors
    grads = _gradients(_attend, value, locations, weights, grad=grad_output, shapes=shapes)
    for output, grad in zip(outputs, grads, strict=True):
        output.copy_(grad)


_OPERATORS = [
    nms, softnms, roi_align_forward, roi_align_backward,
    sigmoid_focal_loss_forward, sigmoid_focal_loss_backward,
    softmax_focal_loss_forward, softmax_focal_loss_backward,
    deform_conv_forward, deform_conv_backward_input, deform_conv_backward_parameters,
    modulated_deform_conv_forward, modulated_deform_conv_backward,
    ms_deform_attn_forward, ms_deform_attn_backward,
]  # fmt: skip


class _StandIn(types.ModuleType):
    """Module `mmcv._ext` with the operators above; all others raise an error when called."""

    def get_compiler_version(self) -> str:
        return "not available (stand-in operators)"

    get_compiling_cuda_version = get_compiler_version

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        # mmcv.ops reads over a hundred names on import, so only calls may raise the error
        return partial(_refuse, name)


def is_standin() -> bool:
    """Return whether `mmcv._ext` is the stand-in."""
    return isinstance(sys.modules.get("mmcv._ext"), _StandIn)


def install() -> bool:
    """Install the stand-in if `mmcv._ext` is absent, and return whether it is active.

    It stays inactive if mmcv is missing or compiled (`import mmcv.ops` then shows any problem).
    """
    if is_standin():
        return True
    mmcv = importlib.util.find_spec("mmcv")
    if "mmcv._ext" in sys.modules or mmcv is None:
        return False
    # search without importing mmcv, which takes a second and can fail for other reasons
    if PathFinder.find_spec("mmcv._ext", mmcv.submodule_search_locations) is not None:
        return False
    module = _StandIn("mmcv._ext", __doc__)
    # without a loader mmengine 0.10.7 assumes that mmcv has no deformable convolutions
    module.__spec__ = ModuleSpec("mmcv._ext", Loader(), origin=__name__)
    module.__dict__.update({operator.__name__: operator for operator in _OPERATORS})
    sys.modules["mmcv._ext"] = module
    if "mmcv" in sys.modules:
        sys.modules["mmcv"].__dict__["_ext"] = module
    return True
