"""ACmix-ResNet: a ResNet whose 3×3 convolutions are ACmix operators.

Pan et al., "On the Integration of Self-Attention and Convolution", CVPR 2022,
https://arxiv.org/abs/2111.14556. The published training script re-initialises every convolution,
including the shift kernels of ACmix; here they keep their shift initialisation, as in the paper.
"""

from collections.abc import Sequence
from functools import partial

from mmengine.registry import MODELS

from ..ops import ACmix
from .resnet import HybridResNet


@MODELS.register_module()
class ACmixResNet(HybridResNet):
    """ACmix-ResNet backbone for images of any size.

    The feature maps have strides 4, 8, 16, 32 and 256, 512, 1024, 2048 channels.

    Args:
        depth: number of layers: 26, 38, 50 or 101.
        hybrid_stages: for each of the four stages, whether ACmix replaces its 3×3 convolutions, or
            the indices of the blocks in which it does.
        num_heads: number of attention heads of each ACmix.
        attn_kernel_size: side of the local attention window, odd, in positions of the feature map.
        **kwargs: arguments of :class:`HybridResNet` and :class:`HierarchicalBackbone`.
    """

    depths = (26, 38, 50, 101)

    def __init__(
        self,
        depth: int = 50,
        hybrid_stages: Sequence[bool | Sequence[int]] = (True, True, True, True),
        *,
        num_heads: int = 4,
        attn_kernel_size: int = 7,
        **kwargs,
    ):
        make_operator = partial(ACmix, num_heads=num_heads, attn_kernel_size=attn_kernel_size)
        super().__init__(depth, hybrid_stages, make_operator, **kwargs)
