"""The labels of segmentors, as mmseg chooses them."""

import math
from typing import Any

import torch
from torch import Tensor


def class_logits(head: Any, logits: Tensor) -> Tensor:
    """Return logits of which the largest is that of the label, ``(B, classes, H, W)``.

    They are a head's own, unless it has one channel for two classes: mmseg then compares its
    sigmoid with a threshold, and ``argmax([-z, z])`` with ``z = logit - log(t / (1 - t))`` is
    ``sigmoid(logit) > t``.

    Args:
        head: decode head of mmseg, with its `threshold`.
        logits: logits of the head, ``(B, channels, H, W)``.

    Raises:
        ValueError: if the threshold leaves nothing to compare.
    """
    if logits.shape[1] > 1:
        return logits
    if not 0 < head.threshold < 1:
        raise ValueError(
            f"decode_head.threshold must lie between 0 and 1, got {head.threshold}: with it, all "
            "pixels have one label"
        )
    above = logits - math.log(head.threshold / (1 - head.threshold))
    return torch.cat([-above, above], 1)
