"""Necks and heads of published classifiers that mmpretrain lacks."""

import torch.nn.functional as F
from mmpretrain.models import LinearClsHead
from mmpretrain.registry import MODELS
from mmpretrain.structures import DataSample
from torch import Tensor, nn

from .layers import to_tokens


@MODELS.register_module()
class ProjectedPooling(nn.Module):
    """Neck that projects a feature map before global pooling: ``mean(GELU(proj(x)))``.

    Args:
        in_channels: number of channels of the feature map.
        out_channels: number of output channels.
    """

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__()
        self.proj = nn.Linear(in_channels, out_channels)
        nn.init.trunc_normal_(self.proj.weight, std=0.02)
        nn.init.zeros_(self.proj.bias)

    def forward(self, maps: tuple[Tensor, ...]) -> tuple[Tensor]:
        """Map the last of several feature maps ``(B, C, H, W)`` to ``(B, out_channels)``."""
        tokens = to_tokens(maps[-1])  # (B, N, C)
        return (F.gelu(self.proj(tokens)).mean(1),)


@MODELS.register_module()
class PairedLinearHead(LinearClsHead):
    """Head of two linear classifiers, trained with the mean of their losses.

    The layer `fc` takes the first of the features, `paired_fc` the last, which is the same if
    there is only one.

    Args:
        average: whether predictions use the mean of both logits instead of the first.
        **kwargs: arguments of mmpretrain's LinearClsHead.
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


@MODELS.register_module()
class TokenLabelHead(LinearClsHead):
    """Head of networks trained with token labelling, on a feature map instead of pooled features.

    The logits are ``fc(mean of tokens) + 0.5 · max over tokens of aux_fc(token)``. In training
    every token learns the label of its image, since the published label maps are not used here.

    Args:
        **kwargs: arguments of mmpretrain's LinearClsHead.
    """

    aux_weight = 0.5

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.aux_fc = nn.Linear(self.in_channels, self.num_classes)

    def forward(self, feats: tuple[Tensor, ...]) -> Tensor:
        """Return the logits ``(B, num_classes)`` of the last of the maps ``(B, C, H, W)``."""
        tokens = to_tokens(feats[-1])  # (B, N, C)
        return self.fc(tokens.mean(1)) + self.aux_weight * self.aux_fc(tokens).amax(1)

    def loss(
        self, feats: tuple[Tensor, ...], data_samples: list[DataSample], **kwargs
    ) -> dict[str, Tensor]:
        """Return the sum of the losses of the image and of its tokens, and the accuracy."""
        tokens = to_tokens(feats[-1])  # (B, N, C)
        # with the accuracy of what is predicted
        losses = self._get_loss(self(feats), data_samples, **kwargs)
        image = self._get_loss(self.fc(tokens.mean(1)), data_samples, **kwargs)
        of_tokens = [sample for sample in data_samples for _ in range(tokens.shape[1])]
        aux = self._get_loss(self.aux_fc(tokens).flatten(0, 1), of_tokens, **kwargs)
        return dict(losses, loss=image["loss"] + self.aux_weight * aux["loss"])
