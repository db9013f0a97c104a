"""ResNets in which another operator replaces 3×3 convolutions.

The network is torchvision's; only the operator is ours.
"""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet

from ..recompute import recompute_before_last
from .base import HierarchicalBackbone, Parts
from .names import PublishedNames
from .stage import Stage


class LeanBottleneck(Bottleneck):
    """Bottleneck that keeps less for the backward pass, and computes again what is cheap.

    The output of an operator that replaces the 3×3 convolution is kept once: what follows it is
    normalised and activated again, before the last layer. With `recomputes_projection`, the
    1×1 convolutions to the wide output are computed again, too.
    """

    recomputes_projection = False

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(B, C, H, W)`` to ``(B, C', H', W')``."""
        out = self.conv2(self.relu(self.bn1(self.conv1(x))))
        if self.recomputes_projection:
            modules = [self.bn2, self.conv3, self.bn3]
            modules += [] if self.downsample is None else [self.downsample]
            return recompute_before_last(self._add_projected, out, x, modules=modules)
        projected = recompute_before_last(self._project, out, modules=[self.bn2, self.conv3])
        return self._add(projected, x)

    def _add_projected(self, out: Tensor, x: Tensor) -> Tensor:
        return self._add(self._project(out), x)

    def _project(self, out: Tensor) -> Tensor:
        return self.conv3(self.relu(self.bn2(out)))

    def _add(self, projected: Tensor, x: Tensor) -> Tensor:
        identity = x if self.downsample is None else self.downsample(x)
        return self.relu(self.bn3(projected) + identity)


# blocks per stage by depth: He et al., CVPR 2016, table 1; 26 and 38 from ACmix's training script
DEPTHS = {
    18: (BasicBlock, (2, 2, 2, 2)),
    26: (LeanBottleneck, (1, 2, 4, 1)),
    34: (BasicBlock, (3, 4, 6, 3)),
    38: (LeanBottleneck, (2, 3, 5, 2)),
    50: (LeanBottleneck, (3, 4, 6, 3)),
    101: (LeanBottleneck, (3, 4, 23, 3)),
}
# torchvision's names of the layers of the stem
STEM = ("conv1", "bn1", "relu", "maxpool")


class HybridResNet(HierarchicalBackbone):
    """ResNet (v1.5) with another operator as the 3×3 convolutions of some stages or blocks.

    A bottleneck has one such convolution, a basic block has two. State dict entries keep
    torchvision's names; those of the operator start with ``layerL.B.conv2``, in basic blocks also
    with ``layerL.B.conv1``.

    Args:
        depth: number of layers, one of the class's `depths`.
        hybrid_stages: for each of the four stages, whether its blocks use the operator, or the
            indices, from 0, of the blocks that do.
        make_operator: function that builds each operator, called with
            ``(in_channels, out_channels, stride=stride)``.
        zero_init_residual: whether each block starts as an identity, as the ResNets of the
            OpenMMLab libraries do; otherwise training from scratch starts with huge gradients.
        **kwargs: arguments of :class:`HierarchicalBackbone`, except `parts`, `drop_path_rate` and
            `out_norm`.
    """

    # keys of `DEPTHS` that the network supports
    depths: ClassVar[Sequence[int]] = tuple(DEPTHS)
    published = PublishedNames(rename=((r"^fc\.", "head.fc."),))

    def __init__(
        self,
        depth: int,
        hybrid_stages: Sequence[bool | Sequence[int]],
        make_operator: Callable[..., nn.Module],
        *,
        zero_init_residual: bool = True,
        **kwargs: Any,
    ):
        if depth not in self.depths:
            raise ValueError(f"depth must be one of {sorted(self.depths)}, got {depth!r}")
        block_type, num_blocks = DEPTHS[depth]
        hybrid_blocks = _read_hybrid_stages(hybrid_stages, num_blocks)
        resnet = ResNet(block_type, list(num_blocks))

        def make_block(stage: int, index: int, rate: float) -> nn.Module:
            block = resnet.get_submodule(f"layer{stage + 1}.{index}")
            if index in hybrid_blocks[stage]:
                _replace_convs(block, make_operator)
            if isinstance(block, LeanBottleneck):
                # large maps of few channels, with which a 1×1 convolution costs least for each byte
                block.recomputes_projection = stage == 0
            return block

        def initialise(network: nn.Module) -> None:
            for module in network.modules():
                # as published, including the convolutions inside the operators
                if isinstance(module, nn.Conv2d):
                    nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
                elif isinstance(module, block_type) and zero_init_residual:
                    last = module.bn3 if isinstance(module, Bottleneck) else module.bn2
                    nn.init.zeros_(last.weight)

        if fixed := kwargs.keys() & {"drop_path_rate", "out_norm"}:
            raise ValueError(
                f"{type(self).__name__} has no {', '.join(sorted(fixed))}, as published: leave it "
                "out"
            )
        parts = Parts(
            [block_type.expansion * width for width in (64, 128, 256, 512)],
            num_blocks,
            stem=lambda: nn.Sequential(OrderedDict((name, getattr(resnet, name)) for name in STEM)),
            block=make_block,
            initialise=initialise,
        )
        super().__init__(parts, drop_path_rate=0.0, out_norm="none", **kwargs)

    def register_parts(self, stem: nn.Module, stages: Sequence[Stage]) -> None:
        """Register the parts under torchvision's names."""
        for name, layer in stem.named_children():
            self.add_module(name, layer)
        for i, stage in enumerate(stages, 1):
            self.add_module(f"layer{i}", stage)

    def stem(self, x: Tensor) -> Tensor:
        """Map images ``(B, 3, H, W)`` to ``(B, 64, H/4, W/4)``.

        In training, the largest maps of the network are normalised, activated and pooled again.
        """
        x = self.conv1(x)
        return recompute_before_last(self._pool, x, modules=[self.bn1])

    def _pool(self, x: Tensor) -> Tensor:
        return self.maxpool(self.relu(self.bn1(x)))

    @property
    def stages(self) -> tuple[Stage, ...]:  # type: ignore[override]  # registered as layers
        """The four stages."""
        return self.layer1, self.layer2, self.layer3, self.layer4

    def _stem_modules(self) -> list[nn.Module]:
        return [self.conv1, self.bn1]


def _read_hybrid_stages(
    hybrid_stages: Sequence[bool | Sequence[int]], num_blocks: Sequence[int]
) -> list[list[int]]:
    """Return the indices of the blocks of each stage that use the operator."""
    if len(hybrid_stages) != 4:
        raise ValueError(f"hybrid_stages needs four values, got {hybrid_stages}")
    hybrid_blocks = []
    for hybrid, number in zip(hybrid_stages, num_blocks, strict=True):
        if isinstance(hybrid, bool):
            hybrid = range(number) if hybrid else ()
        if isinstance(hybrid, (int, str)) or not set(hybrid) <= set(range(number)):
            raise ValueError(
                "hybrid_stages must have for each stage a bool or indices of its blocks, numbering "
                f"{', '.join(map(str, num_blocks))}, counted from 0; got {hybrid_stages}"
            )
        hybrid_blocks.append(sorted(set(hybrid)))
    return hybrid_blocks


def _replace_convs(block: nn.Module, make_operator: Callable[..., nn.Module]) -> None:
    for name, conv in list(block.named_children()):
        if isinstance(conv, nn.Conv2d) and conv.kernel_size == (3, 3):
            operator = make_operator(conv.in_channels, conv.out_channels, stride=conv.stride[0])
            setattr(block, name, operator)
