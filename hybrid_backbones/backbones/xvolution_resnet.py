"""X-volution-ResNet: a ResNet whose 3×3 convolutions are X-volutions in one stage.

Chen et al., "X-volution: On the Unification of Convolution and Self-attention", 2021,
https://arxiv.org/abs/2106.02253. The paper replaces the 3×3 convolutions of one stage at a time;
stage 3 gives the best results. A basic block (depths 18 and 34) has two of them; our reading is to
replace both. The block keeps its batch normalisation after the operator's own.
"""

from collections.abc import Callable, Sequence
from functools import partial

from mmengine.registry import MODELS
from torch import nn

from ..ops.xvolution import MergedXVolution, XVolution, merge_xvolutions
from .resnet import HybridResNet


@MODELS.register_module()
class XVolutionResNet(HybridResNet):
    """X-volution-ResNet backbone for images of any size.

    The feature maps have strides 4, 8, 16, 32 and 256, 512, 1024, 2048 channels; a quarter of the
    channels at depths 18 and 34.

    Args:
        depth: number of layers: 18, 34, 50 or 101.
        hybrid_stages: for each of the four stages, whether X-volutions replace its 3×3
            convolutions, or the indices of the blocks in which they do.
        num_heads: number of attention heads of each X-volution.
        attention: attention branch of X-volution, ``'shift'`` or ``'global'``.
        merged: whether to build the form after :meth:`switch_to_deploy`, for its checkpoints.
        **kwargs: arguments of :class:`HybridResNet` and :class:`HierarchicalBackbone`.

    Raises:
        ValueError: if an argument has another value, or for merged global attention.
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
        make_operator: Callable[..., nn.Module]
        make_operator = partial(XVolution, num_heads=num_heads, attention=attention)
        if merged:
            make_operator = partial(MergedXVolution, num_heads=num_heads)
        super().__init__(depth, hybrid_stages, make_operator, **kwargs)

    def switch_to_deploy(self) -> None:
        """Merge the branches of all X-volutions in place; the name is mmpretrain's.

        Raises:
            ValueError: in training mode, or if no X-volution can be merged.
        """
        merge_xvolutions(self)
