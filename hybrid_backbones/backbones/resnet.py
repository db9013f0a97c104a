"""ResNets whose 3×3 convolutions give way to another operator.

The network is torchvision's; only the operator in its 3×3 slot is ours.
"""

from collections.abc import Callable, Sequence

from torch import Tensor, nn
from torchvision.models.resnet import Bottleneck, ResNet

from .base import HierarchicalBackbone

# blocks per stage by depth: He et al., CVPR 2016, table 1; 26 and 38 from ACmix's training script
DEPTHS = {26: (1, 2, 4, 1), 38: (2, 3, 5, 2), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}


class HybridResNet(HierarchicalBackbone):
    """Run a bottleneck ResNet (v1.5) with another operator in the 3×3 slot of some stages.

    Entries keep torchvision's names; those of the operator stand under ``layerL.B.conv2``.

    Args:
        depth: a key of `DEPTHS`.
        hybrid_stages: for each of the four stages, whether its blocks use the operator.
        make_operator: called with ``(channels, stride)`` for each slot.
        zero_init_residual: begin with blocks that pass their input on, as the ResNets of the
            OpenMMLab libraries do; without it a training from scratch begins with huge gradients.
        **kwargs: settings of :class:`HierarchicalBackbone`.
    """

    channels = (256, 512, 1024, 2048)
    rename_rules = ((r"^fc\.", "head.fc."),)

    def __init__(
        self,
        depth: int,
        hybrid_stages: Sequence[bool],
        make_operator: Callable[[int, int], nn.Module],
        *,
        zero_init_residual: bool = True,
        **kwargs,
    ):
        super().__init__(**kwargs)
        if depth not in DEPTHS:
            raise ValueError(f"depth must be one of {sorted(DEPTHS)}, got {depth!r}")
        if len(hybrid_stages) != 4:
            raise ValueError(f"hybrid_stages needs four values, got {hybrid_stages}")
        resnet = ResNet(Bottleneck, list(DEPTHS[depth]))
        self.conv1, self.bn1 = resnet.conv1, resnet.bn1
        self.relu, self.maxpool = resnet.relu, resnet.maxpool
        self.layer1, self.layer2 = resnet.layer1, resnet.layer2
        self.layer3, self.layer4 = resnet.layer3, resnet.layer4
        for stage, hybrid in zip(self.stages, hybrid_stages, strict=True):
            for block in stage if hybrid else ():
                block.conv2 = make_operator(block.conv2.out_channels, block.conv2.stride[0])
        for module in self.modules():
            # as the publications do, operators included
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            elif isinstance(module, Bottleneck) and zero_init_residual:
                nn.init.zeros_(module.bn3.weight)
        self.train()

    def stem(self, x: Tensor) -> Tensor:
        """Map images ``(B, 3, H, W)`` to ``(B, 64, H/4, W/4)``."""
        return self.maxpool(self.relu(self.bn1(self.conv1(x))))

    @property
    def stages(self) -> tuple[nn.Sequential, ...]:
        """The four stages."""
        return self.layer1, self.layer2, self.layer3, self.layer4

    def _stem_modules(self) -> list[nn.Module]:
        return [self.conv1, self.bn1]
