"""Focal losses."""

import math

import torch
from torch import Tensor
from torch.nn.functional import log_softmax, logsigmoid

from .support import gradients, widen

# lower bound of probabilities before the logarithm, as in mmcv
_TINY = torch.finfo(torch.float32).tiny


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
    (logits,) = widen(logits)
    positive = (target[:, None] == torch.arange(logits.size(1), device=logits.device)).to(logits)
    scale = (alpha * positive + (1 - alpha) * (1 - positive)) * _row_weight(weight, target)
    right = (2 * positive - 1) * logits
    return scale * _focal(logsigmoid(right), logsigmoid(-right), gamma)


def sigmoid_focal_loss_forward(*tensors: Tensor, **settings: float) -> None:
    logits, target, weight, output = tensors
    output.copy_(_sigmoid_loss(logits, target, weight, **settings))


def sigmoid_focal_loss_backward(*tensors: Tensor, **settings: float) -> None:
    logits, target, weight, grad_logits = tensors
    grad_logits.copy_(*gradients(_sigmoid_loss, logits, target=target, weight=weight, **settings))


def _softmax_loss(logits: Tensor, target: Tensor, weight: Tensor, gamma: float, alpha: float):
    """Return the loss of each row, `(N, 1)`; 0 for a negative target."""
    label, log_p = target.clamp(min=0)[:, None], log_softmax(logits, dim=1)
    # 1 - p as the sum over all other classes, which avoids cancellation
    others = log_p.scatter(1, label, math.log(_TINY))
    scale = alpha * (target >= 0)[:, None].to(logits) * _row_weight(weight, target)
    return scale * _focal(log_p.gather(1, label), others.logsumexp(1, keepdim=True), gamma)


def softmax_focal_loss_forward(*tensors: Tensor, **settings: float) -> None:
    softmax, target, weight, output = tensors
    logits = widen(softmax)[0].clamp(min=_TINY).log()
    output.copy_(_softmax_loss(logits, target, weight, **settings).squeeze(1))


def softmax_focal_loss_backward(*tensors: Tensor, **settings: float) -> None:
    softmax, target, weight, _, grad_logits = tensors
    logits = widen(softmax)[0].clamp(min=_TINY).log()
    grad_logits.copy_(*gradients(_softmax_loss, logits, target=target, weight=weight, **settings))
