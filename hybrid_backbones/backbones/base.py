"""The base of all backbones: one control flow, one set of settings."""

from collections.abc import Sequence
from contextlib import contextmanager, nullcontext
from typing import ClassVar

import torch
from mmengine.model import BaseModule
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint


class HierarchicalBackbone(BaseModule):
    """Compute four maps of decreasing resolution: stem, then four stages.

    A subclass provides `stem`, `stages` (four sequences of blocks, each beginning with its
    downsampling), `channels` and, where outputs are normalised, `norms` (a module per stage). Its
    constructor ends with ``self.train()``, which freezes what is to be frozen.

    Args:
        out_indices: stages whose maps are returned, ascending, from 0 to 3.
        frozen_stages: -1 freezes nothing, 0 the stem, n the stem and the first n stages: no
            gradients, and normalisation as in evaluation.
        norm_eval: keep all batch normalisation in evaluation mode while training.
        with_cp: recompute each block in the backward pass instead of storing what is inside.
        init_cfg: as in :class:`mmengine.model.BaseModule`; ``dict(type='Published',
            checkpoint=...)`` loads a published checkpoint.

    Raises:
        ValueError: for settings other than these.
    """

    strides = (4, 8, 16, 32)
    # channels of the four stages
    channels: tuple[int, ...]
    # (pattern, replacement) pairs from published entry names to ours, applied in turn by `re.sub`
    rename_rules: ClassVar[Sequence[tuple[str, str]]] = ()
    # prefix that the published classifier has after renaming; ImageClassifier calls its own so too
    classifier_prefix: ClassVar[str] = "head."
    # patterns of entries that no published checkpoint has and that start fresh
    fresh_entries: ClassVar[Sequence[str]] = ()

    def __init__(
        self,
        *,
        out_indices: Sequence[int] = (0, 1, 2, 3),
        frozen_stages: int = -1,
        norm_eval: bool = False,
        with_cp: bool = False,
        init_cfg: dict | None = None,
    ):
        super().__init__(init_cfg=init_cfg)
        out_indices = tuple(out_indices)
        if not out_indices or not set(out_indices) <= set(range(4)):
            raise ValueError(f"out_indices must be some of 0, 1, 2, 3, got {out_indices}")
        if list(out_indices) != sorted(set(out_indices)):
            raise ValueError(f"out_indices must ascend without repetition, got {out_indices}")
        if frozen_stages not in range(-1, 5):
            raise ValueError(f"frozen_stages must be from -1 to 4, got {frozen_stages}")
        self.out_indices = out_indices
        self.frozen_stages = frozen_stages
        self.norm_eval = norm_eval
        self.with_cp = with_cp

    @property
    def out_channels(self) -> tuple[int, ...]:
        """Channels of the returned maps."""
        return tuple(self.channels[i] for i in self.out_indices)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Map images ``(B, 3, H, W)`` to the maps of `out_indices`, ``(B, C_i, H_i, W_i)``."""
        x = self.stem(x)
        outs = []
        for i, stage in enumerate(self.stages):
            for block in stage:
                x = self._run(block, x)
            if i in self.out_indices:
                outs.append(self.norms[i](x) if hasattr(self, "norms") else x)
        return tuple(outs)

    def _run(self, block: nn.Module, x: Tensor) -> Tensor:
        if not (self.with_cp and self.training and torch.is_grad_enabled()):
            return block(x)
        return checkpoint(
            block,
            x,
            use_reentrant=False,
            context_fn=lambda: (nullcontext(), _keep_running_statistics(block)),
        )

    def train(self, mode: bool = True) -> "HierarchicalBackbone":
        """Set the training mode, except for what is frozen."""
        super().train(mode)
        for module in self._frozen_modules():
            module.eval()
            for parameter in module.parameters():
                parameter.requires_grad_(False)
        if self.norm_eval:
            for module in self.modules():
                if isinstance(module, _BatchNorm):
                    module.eval()
        return self

    def _frozen_modules(self) -> list[nn.Module]:
        if self.frozen_stages < 0:
            return []
        norms = list(self.norms[: self.frozen_stages]) if hasattr(self, "norms") else []
        return [*self._stem_modules(), *self.stages[: self.frozen_stages], *norms]

    def _stem_modules(self) -> list[nn.Module]:
        return [self.stem]


@contextmanager
def _keep_running_statistics(block: nn.Module):
    """Keep recomputation from counting a batch into the running statistics a second time."""
    norms = [m for m in block.modules() if isinstance(m, _BatchNorm) and m.training]
    momenta = [norm.momentum for norm in norms]
    counts = [norm.num_batches_tracked.clone() for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, momentum, count in zip(norms, momenta, counts, strict=True):
            norm.momentum = momentum
            norm.num_batches_tracked.copy_(count)
