"""ACmix-ResNet: a ResNet whose 3×3 convolutions are ACmix operators.

Pan et al., "On the Integration of Self-Attention and Convolution", CVPR 2022,
https://arxiv.org/abs/2111.14556. The published training script re-initialises every convolution,
and with it the shift kernels of ACmix; here these stay shifts, as the paper describes them.
"""

from collections.abc import Sequence
from functools import partial

from mmengine.registry import MODELS

from ..ops import ACmix
from .resnet import HybridResNet


@MODELS.register_module()
class ACmixResNet(HybridResNet):
    """Compute the four feature maps of an ACmix-ResNet.

    Maps have strides 4, 8, 16, 32 and 256, 512, 1024, 2048 channels, for images of any size.

    Args:
        depth: 26, 38, 50 or 101.
        hybrid_stages: for each of the four stages, whether its 3×3 convolutions are ACmix, or the
            numbers of the blocks where they are.
        num_heads: of ACmix.
        attn_kernel_size: of ACmix, odd, in pixels of the stage's map.
        **kwargs: settings of :class:`HybridResNet` and :class:`HierarchicalBackbone`.
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
