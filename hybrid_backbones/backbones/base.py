"""Base classes of the networks.

`StagedNetwork` builds, freezes and runs a stem and four stages; `HierarchicalBackbone` adds the
forward pass from images to feature maps. Indices of stages start at 0; docstrings count stages
from 1.
"""

from collections.abc import Callable, Sequence
from typing import Any, ClassVar, NamedTuple

import torch
from mmengine.model import BaseModule
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from .names import PublishedNames, matches
from .stage import Stage

OUT_NORMS = ("each", "final", "none")
STRIDES = (4, 8, 16, 32)


def drop_path_rates(rate: float, depths: Sequence[int]) -> list[list[float]]:
    """Return the stochastic depth rate of each block, one list per stage.

    The rates rise linearly from 0 in the first block to `rate` in the last.

    Raises:
        ValueError: if `rate` lies outside [0, 1].
    """
    if not isinstance(rate, int | float) or not 0 <= rate <= 1:
        raise ValueError(f"drop_path_rate must be a number from 0 to 1, got {rate!r}")
    # on the CPU even if the network is built on the meta device, which holds no values
    rates = iter(torch.linspace(0, rate, sum(depths), device="cpu").tolist())
    return [[next(rates) for _ in range(depth)] for depth in depths]


class Parts(NamedTuple):
    """Sizes and parts from which :class:`StagedNetwork` builds a network."""

    # number of channels and of blocks of each of the four stages
    channels: Sequence[int]
    depths: Sequence[int]
    # function that builds the stem, from images to the input of the first stage
    stem: Callable[[], nn.Module]
    # function from the indices of stage and block and the stochastic depth rate to the block
    block: Callable[[int, int, float], nn.Module]
    # function from the index of a stage, 1 to 3, to the downsampling before its blocks, or None
    downsample: Callable[[int], nn.Module | None] = lambda stage: None
    # functions from a number of channels to a norm: of each output (``out_norm='each'``), and of
    # the last output, as before the published classifier (``out_norm='final'``)
    norm: Callable[[int], nn.Module] = nn.Identity
    final_norm: Callable[[int], nn.Module] = nn.Identity
    # function that initialises the parameters of the whole network
    initialise: Callable[[nn.Module], None] = lambda network: None
    # stochastic depth rate if the user sets none
    drop_path_rate: float = 0.0


class StagedNetwork(BaseModule):
    """Network of a stem and four stages of decreasing resolution.

    A subclass passes its :class:`Parts` to the constructor. The output norms are outside the
    stages, so a forward hook on a stage receives the output before its norm. Networks with other
    inputs than images, such as LocFormer's, define their own `forward`.

    Args:
        parts: sizes and parts of the network.
        drop_path_rate: stochastic depth rate of the last block; the rates rise linearly from 0 in
            the first block. None takes the rate of the variant.
        out_norm: ``'each'`` normalises every output, for dense prediction; ``'final'`` only the
            last stage, as the published classifier does; ``'none'`` no output.
        out_indices: ascending indices, from 0 to 3, of the stages whose feature maps are returned.
        frozen_stages: -1 freezes nothing, 0 the stem, n the stem and the first n stages with their
            output norms; frozen parts get no gradients and stay in evaluation mode.
        norm_eval: whether all batch normalisation stays in evaluation mode during training.
        with_cp: gradient checkpointing, which recomputes activations in the backward pass: True for
            all blocks and downsamplings, or for each of the four stages its number of leading
            blocks, without downsamplings.
        init_cfg: initialisation, as in :class:`mmengine.model.BaseModule`;
            ``dict(type='Published', checkpoint=...)`` loads a published checkpoint.
        pretrained: must be None, which base configs of mmdet and mmseg pass to every backbone.

    Raises:
        ValueError: if an argument is outside the values listed above.
    """

    # whether inputs on a CPU are converted to channels-last, which speeds up some networks there
    channels_last: ClassVar[bool] = False
    published: ClassVar[PublishedNames] = PublishedNames()
    stem: Callable[[Tensor], Any]

    def __init__(
        self,
        parts: Parts,
        *,
        drop_path_rate: float | None = None,
        out_norm: str = "each",
        out_indices: Sequence[int] = (0, 1, 2, 3),
        frozen_stages: int = -1,
        norm_eval: bool = False,
        with_cp: bool | Sequence[int] = False,
        init_cfg: dict | None = None,
        pretrained: None = None,
    ):
        super().__init__(init_cfg=init_cfg)
        if pretrained is not None:
            raise ValueError(
                f"expected pretrained=None, got {pretrained!r}: add pretrained=None to the model "
                "if its base config has weights of another network; to load weights, set "
                "init_cfg=dict(type='Published', checkpoint=...)"
            )
        if not isinstance(out_indices, Sequence):
            raise ValueError(f"out_indices must be a sequence such as (3,), got {out_indices!r}")
        out_indices = tuple(out_indices)
        if not out_indices or any(type(i) is not int or not 0 <= i < 4 for i in out_indices):
            raise ValueError(f"out_indices must be some of 0, 1, 2, 3, got {out_indices}")
        if list(out_indices) != sorted(set(out_indices)):
            raise ValueError(f"out_indices must ascend without repetition, got {out_indices}")
        if type(frozen_stages) is not int or not -1 <= frozen_stages <= 4:
            raise ValueError(
                f"frozen_stages must be an integer from -1 to 4, got {frozen_stages!r}"
            )
        is_per_stage = (
            isinstance(with_cp, Sequence)
            and len(with_cp) == 4
            # a bool would count as one block
            and all(type(number) is int and number >= 0 for number in with_cp)
        )
        if not isinstance(with_cp, bool) and not is_per_stage:
            raise ValueError(f"with_cp must be a bool or four numbers of blocks, got {with_cp!r}")
        if out_norm not in OUT_NORMS:
            raise ValueError(f"out_norm must be one of {OUT_NORMS}, got {out_norm!r}")
        if out_norm == "final" and 3 not in out_indices:
            raise ValueError(f"out_norm='final' needs 3 among out_indices, got {out_indices}")
        self.channels = tuple(parts.channels)
        self.out_indices = out_indices
        self.out_norm = out_norm
        self.frozen_stages = frozen_stages
        self.norm_eval = norm_eval
        self.with_cp = with_cp
        rate = parts.drop_path_rate if drop_path_rate is None else drop_path_rate
        rates = drop_path_rates(rate, parts.depths)
        self.register_parts(
            parts.stem(), [_make_stage(i, parts, rates[i], with_cp) for i in range(4)]
        )
        # the key is the index of the stage
        self.norms = nn.ModuleDict()
        if out_norm == "each":
            self.norms.update({str(i): parts.norm(self.channels[i]) for i in out_indices})
        elif out_norm == "final":
            self.final_norm = parts.final_norm(self.channels[3])
        parts.initialise(self)
        self.train()

    def register_parts(self, stem: nn.Module, stages: Sequence[Stage]) -> None:
        """Register the stem and the stages as submodules."""
        self.stem = stem
        self.stages = nn.ModuleList(stages)

    @property
    def out_channels(self) -> tuple[int, ...]:
        """Number of channels of each returned feature map."""
        return tuple(self.channels[i] for i in self.out_indices)

    @property
    def strides(self) -> tuple[int, ...]:
        """Pixels of the image per position of each returned feature map."""
        return tuple(STRIDES[i] for i in self.out_indices)

    def run_stages(
        self, x: Any, before_blocks: Sequence[Callable[[Any], Any]] | None = None
    ) -> list[Any]:
        """Return the output of each stage, before its norm.

        Args:
            x: output of the stem.
            before_blocks: for each stage, a function applied to the input of its first block, for
                example to fuse other features into it.
        """
        outs = []
        for i, stage in enumerate(self.stages):
            x = stage(x) if before_blocks is None else stage(x, before_blocks[i])
            outs.append(x)
        return outs

    def output_norm(self, stage: int) -> nn.Module | None:
        """Return the norm of a stage's output, if it has one."""
        if str(stage) in self.norms:
            return self.norms[str(stage)]
        return self.final_norm if self.out_norm == "final" and stage == 3 else None

    def normalise(self, stage: int, x: Any) -> Any:
        """Apply the output norm of a stage, if it has one."""
        norm = self.output_norm(stage)
        return x if norm is None else norm(x)

    def is_droppable(self, entry: str) -> bool:
        """Return whether a renamed published entry may be dropped if this model lacks it.

        This holds for the classifier with its norm, the norms of stages without one here, and what
        the published network never uses.
        """
        patterns = (*self.published.classifier, *self.published.unused, r"^final_norm\.")
        if matches(patterns, entry):
            return True
        return entry.startswith("norms.") and entry.split(".")[1] not in self.norms

    def train(self, mode: bool = True) -> "StagedNetwork":
        """Set the training mode; frozen parts stay in evaluation mode and get no gradients."""
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
        norms = [self.output_norm(i) for i in range(self.frozen_stages)]
        stages = self.stages[: self.frozen_stages]
        return [*self._stem_modules(), *stages, *(norm for norm in norms if norm is not None)]

    def _stem_modules(self) -> list[nn.Module]:
        return [self.get_submodule("stem")]


class HierarchicalBackbone(StagedNetwork):
    """Backbone that maps images to feature maps; see :class:`StagedNetwork`."""

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Map images ``(B, 3, H, W)`` to the maps of `out_indices`, ``(B, C_i, H_i, W_i)``.

        Raises:
            ValueError: if the images have another shape, no pixels, or integers.
        """
        if not x.is_floating_point():
            raise ValueError(
                f"expected images of a floating-point dtype, got {x.dtype}: normalise them first"
            )
        if x.ndim != 4 or x.shape[1] != 3 or 0 in x.shape[2:]:
            raise ValueError(
                "expected images of the shape (B, 3, H, W), with at least one pixel, got "
                f"{tuple(x.shape)}"
            )
        if self.channels_last and x.device.type == "cpu":
            x = x.contiguous(memory_format=torch.channels_last)
        outs = enumerate(self.run_stages(self.stem(x)))
        return tuple(self.normalise(i, out) for i, out in outs if i in self.out_indices)


def _make_stage(
    index: int, parts: Parts, rates: Sequence[float], with_cp: bool | Sequence[int]
) -> Stage:
    modules = {str(j): parts.block(index, j, rate) for j, rate in enumerate(rates)}
    downsample = parts.downsample(index) if index else None
    if downsample is not None:
        modules = {"downsample": downsample, **modules}
    if isinstance(with_cp, bool):
        return Stage(modules, modules if with_cp else ())
    return Stage(modules, map(str, range(with_cp[index])))
