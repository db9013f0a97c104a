"""Channel MLPs, which keep the input and the hidden layer before its activation for training."""

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor, nn

from .recompute import recompute_before_last


class Mlp(nn.Module):
    """Two-layer perceptron over the channels of each position, ``fc2(GELU(fc1(x)))``.

    Args:
        embed_dims: number of input and output channels.
        hidden_dims: number of hidden channels.
        linear: constructor of a layer from its numbers of input and output channels: `nn.Linear`
            for ``(..., C)``, `PointwiseConv2d` for ``(B, C, H, W)``.
    """

    def __init__(
        self,
        embed_dims: int,
        hidden_dims: int,
        linear: Callable[[int, int], nn.Module] = nn.Linear,
    ):
        super().__init__()
        self.fc1 = linear(embed_dims, hidden_dims)
        self.fc2 = linear(hidden_dims, embed_dims)

    def forward(self, x: Tensor, norm: nn.Module | None = None) -> Tensor:
        """Map x, or ``norm(x)``, to a tensor of the same shape."""
        if norm is None:
            hidden = self.expand(x)
        else:
            modules = norm, self.fc1
            hidden = recompute_before_last(lambda x: self.expand(norm(x)), x, modules=modules)
        return recompute_before_last(self.contract, hidden, modules=[self.fc2])

    def expand(self, x: Tensor) -> Tensor:
        """Compute the hidden layer before its activation."""
        return self.fc1(x)

    def contract(self, hidden: Tensor) -> Tensor:
        """Compute the output from the hidden layer."""
        return self.fc2(F.gelu(hidden))


class MapMlp(Mlp):
    """MLP over the channels of a feature map ``(B, C, H, W)``, with linear layers."""

    def expand(self, x: Tensor) -> Tensor:
        """Compute the hidden layer ``(B, H, W, C')`` before its activation."""
        return super().expand(x.permute(0, 2, 3, 1))

    def contract(self, hidden: Tensor) -> Tensor:
        """Compute the output ``(B, C, H, W)`` from the hidden layer."""
        return super().contract(hidden).permute(0, 3, 1, 2)
