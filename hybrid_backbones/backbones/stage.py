"""Stages of a backbone, with gradient checkpointing that leaves running statistics exact."""

from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint


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
            x = _recompute(part, x) if recomputes and name in self.recomputed else part(x)
        return x


def _recompute(part: nn.Module, x: Any) -> Any:
    """Run a part of a stage with gradient checkpointing."""
    return checkpoint(
        part,
        x,
        use_reentrant=False,
        context_fn=lambda: (nullcontext(), _keep_running_statistics(part)),
    )


@contextmanager
def _keep_running_statistics(block: nn.Module) -> Iterator[None]:
    """Leave the running statistics unchanged during recomputation, which sees a batch again."""
    kept = [
        (norm, norm.momentum, count, count.clone())
        for norm in block.modules()
        if isinstance(norm, _BatchNorm) and norm.training
        if (count := norm.num_batches_tracked) is not None
    ]
    for norm, *_ in kept:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, momentum, count, number in kept:
            norm.momentum = momentum
            count.copy_(number)
