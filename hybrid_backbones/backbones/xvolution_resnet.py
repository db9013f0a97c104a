"""X-volution-ResNet: a ResNet whose 3×3 convolutions are X-volutions in one stage.

Chen et al., "X-volution: On the Unification of Convolution and Self-attention", 2021,
https://arxiv.org/abs/2106.02253. The paper replaces the 3×3 convolutions of one stage at a time and
finds the third best. A basic block (depths 18 and 34) has two of them: both are replaced, which is
our reading. The block's own batch normalisation stays behind the operator, which ends in its own.
"""

from collections.abc import Sequence
from functools import partial

from mmengine.registry import MODELS

from ..ops.xvolution import MergedXVolution, XVolution, merge_xvolutions
from .resnet import HybridResNet


@MODELS.register_module()
class XVolutionResNet(HybridResNet):
    """Compute the four feature maps of an X-volution-ResNet.

    Maps have strides 4, 8, 16, 32 and 256, 512, 1024, 2048 channels, a quarter of that at depths 18
    and 34, for images of any size.

    Args:
        depth: 18, 34, 50 or 101.
        hybrid_stages: for each of the four stages, whether its 3×3 convolutions are X-volutions, or
            the numbers of the blocks where they are.
        num_heads: of X-volution.
        attention: of X-volution, ``'shift'`` or ``'global'``.
        merged: build what :meth:`switch_to_deploy` makes, for its checkpoints.
        **kwargs: settings of :class:`HybridResNet` and :class:`HierarchicalBackbone`.

    Raises:
        ValueError: for settings other than these; global attention cannot be merged.
    """

    depths = (18, 34, 50, 101)

    def __init__(
        self,
        depth: int = 50,
        hybrid_stages: Sequence[bool | Sequence[int]] = (False, False, True, False),
        *,
        num_heads: int = 1,
        attention: str = "shift",
        merged: bool = False,
        **kwargs,
    ):
        if merged and attention != "shift":
            raise ValueError(f"merged=True needs attention='shift', got {attention!r}")
        make_operator = partial(XVolution, num_heads=num_heads, attention=attention)
        if merged:
            make_operator = partial(MergedXVolution, num_heads=num_heads)
        super().__init__(depth, hybrid_stages, make_operator, **kwargs)

    def switch_to_deploy(self) -> None:
        """Merge all operators in place; mmpretrain's name for it.

        Raises:
            ValueError: in training mode, and where nothing can be merged.
        """
        merge_xvolutions(self)
