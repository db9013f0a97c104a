"""What published classifiers have between backbone and logits, and mmpretrain has not."""

import torch.nn.functional as F
from mmpretrain.models import LinearClsHead
from mmpretrain.registry import MODELS
from mmpretrain.structures import DataSample
from torch import Tensor, nn

from .layers import to_tokens


@MODELS.register_module()
class ProjectedPooling(nn.Module):
    """Compute ``mean(GELU(proj(x)))`` over all positions: a projection before the pooling.

    Args:
        in_channels: channels of the map.
        out_channels: channels of the result.
    """

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__()
        self.proj = nn.Linear(in_channels, out_channels)
        nn.init.trunc_normal_(self.proj.weight, std=0.02)
        nn.init.zeros_(self.proj.bias)

    def forward(self, maps: tuple[Tensor, ...]) -> tuple[Tensor]:
        """Map the last of several ``(B, C, H, W)`` to ``(B, out_channels)``."""
        tokens = to_tokens(maps[-1])  # (B, N, C)
        return (F.gelu(self.proj(tokens)).mean(1),)


@MODELS.register_module()
class PairedLinearHead(LinearClsHead):
    """Classify twice, by two linear layers; each loss is the mean of both.

    The first layer, `fc`, sees the first of the features, the second, `paired_fc`, the last; these
    are the same where there is one.

    Args:
        average: predict by the mean of both logits, else by the first.
        **kwargs: settings of mmpretrain's LinearClsHead.
    """

    def __init__(self, *, average: bool, **kwargs):
        super().__init__(**kwargs)
        self.average = average
        self.paired_fc = nn.Linear(self.in_channels, self.num_classes)

    def forward(self, feats: tuple[Tensor, ...]) -> Tensor:
        """Return the logits ``(B, num_classes)`` of pooled features ``(B, C)``."""
        first, second = self._both(feats)
        return (first + second) / 2 if self.average else first

    def loss(
        self, feats: tuple[Tensor, ...], data_samples: list[DataSample], **kwargs
    ) -> dict[str, Tensor]:
        """Return the mean loss of both layers, and the accuracy of the predicted logits."""
        losses = self._get_loss(self(feats), data_samples, **kwargs)
        both = [self._get_loss(x, data_samples, **kwargs)["loss"] for x in self._both(feats)]
        return dict(losses, loss=sum(both) / 2)

    def _both(self, feats: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        return self.fc(feats[0]), self.paired_fc(feats[-1])
