"""Stages of a backbone, with gradient checkpointing that leaves running statistics exact."""

from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import nn

from ..recompute import recompute


class Stage(nn.Sequential):
    """Stage of a backbone: its downsampling, named `downsample`, then its blocks, named 0, 1, ...

    Args:
        parts: modules by name, in the order in which they run.
        recomputed: names of the parts whose activations are recomputed in the backward pass
            instead of stored (gradient checkpointing).
    """

    def __init__(self, parts: Mapping[str, nn.Module], recomputed: Iterable[str] = ()):
        super().__init__(OrderedDict(parts))
        self.recomputed = frozenset(recomputed)

    def forward(self, x: Any, before_blocks: Callable[[Any], Any] | None = None) -> Any:
        """Map the output of the previous stage to the output of this one.

        Args:
            x: feature map ``(B, C, H, W)``, or another type that the blocks of the network share.
            before_blocks: function applied to the input of the first block.
        """
        recomputes = self.training and torch.is_grad_enabled()
        for name, part in self.named_children():
            if name == "0" and before_blocks is not None:
                x = before_blocks(x)
            x = recompute(part, x) if recomputes and name in self.recomputed else part(x)
        return x
