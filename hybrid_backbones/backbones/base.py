"""Base class of all backbones: one control flow and one set of arguments."""

from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, ClassVar

import torch
from mmengine.model import BaseModule
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

OUT_NORMS = ("each", "final", "none")


def read_arch(arch: str | Mapping[str, Any], variants: Mapping[str, dict]) -> dict[str, Any]:
    """Return the settings of a variant, given by name or as a dict with the same keys.

    Raises:
        ValueError: if the name is unknown, a key is missing or unknown, or a setting per stage
            does not have four positive values.
    """
    if isinstance(arch, str):
        if arch not in variants:
            raise ValueError(f"arch must be one of {sorted(variants)} or a dict, got {arch!r}")
        return dict(variants[arch])
    keys = next(iter(variants.values())).keys()
    if not isinstance(arch, Mapping) or arch.keys() != keys:
        raise ValueError(f"arch as a dict must have the keys {sorted(keys)}, got {arch!r}")
    for key, sizes in arch.items():
        if isinstance(sizes, list | tuple) and (len(sizes) != 4 or min(sizes) < 1):
            raise ValueError(f"{key} of arch must be four positive numbers, got {sizes}")
    return dict(arch)


def drop_path_rates(rate: float, depths: Sequence[int]) -> list[list[float]]:
    """Return the stochastic depth rate of each block, one list per stage.

    The rates rise linearly from 0 in the first block to `rate` in the last.

    Raises:
        ValueError: if `rate` lies outside [0, 1].
    """
    if not 0 <= rate <= 1:
        raise ValueError(f"drop_path_rate must be from 0 to 1, got {rate}")
    # on the CPU even if the network is built on the meta device, which holds no values
    rates = iter(torch.linspace(0, rate, sum(depths), device="cpu").tolist())
    return [[next(rates) for _ in range(depth)] for depth in depths]


class Stage(nn.Sequential):
    """Stage of a backbone: its downsampling, named `downsample`, then its blocks, named 0, 1, ...

    Args:
        parts: modules by name, in the order in which they run.
        recomputed: names of the parts whose activations are recomputed in the backward pass
            instead of stored (gradient checkpointing).
    """

    def __init__(self, parts: Mapping[str, nn.Module], recomputed: Iterable[str] = ()):
        super().__init__(OrderedDict(parts))
        self.recomputed = frozenset(recomputed)

    def forward(self, x: Any, before_blocks: Callable[[Any], Any] | None = None) -> Any:
        """Map the output of the previous stage to the output of this one.

        Args:
            x: feature map ``(B, C, H, W)``, or another type that the blocks of the network share.
            before_blocks: function applied to the input of the first block.
        """
        recomputes = self.training and torch.is_grad_enabled()
        for name, part in self.named_children():
            if name == "0" and before_blocks is not None:
                x = before_blocks(x)
            x = _recompute(part, x) if recomputes and name in self.recomputed else part(x)
        return x


class StagedNetwork(BaseModule):
    """Network of a stem and four stages of decreasing resolution.

    A subclass defines `stem`, `stages` (four, built by `make_stage`) and `channels`, calls
    `add_norms` if outputs are normalised, and ends its constructor with ``self.train()``, which
    applies `frozen_stages`. A forward hook on a stage receives the output before the norm.

    Args:
        out_indices: ascending indices, from 0 to 3, of the stages whose feature maps are returned.
        frozen_stages: -1 freezes nothing, 0 the stem, n the stem and the first n stages; frozen
            parts get no gradients and stay in evaluation mode.
        norm_eval: whether all batch normalisation stays in evaluation mode during training.
        with_cp: whether blocks use gradient checkpointing, which recomputes their activations in
            the backward pass; or, for each of the four stages, how many leading blocks use it.
        init_cfg: initialisation, as in :class:`mmengine.model.BaseModule`;
            ``dict(type='Published', checkpoint=...)`` loads a published checkpoint.
        pretrained: accepted as None only, which stock configs of the hosts pass to their ResNets.

    Raises:
        ValueError: if an argument has another value.
    """

    strides = (4, 8, 16, 32)
    # whether inputs on a CPU are converted to channels-last, which speeds up some networks there
    channels_last: ClassVar[bool] = False
    # number of channels of each of the four stages
    channels: tuple[int, ...]
    # (pattern, replacement) pairs from published entry names to ours, applied in turn by `re.sub`
    rename_rules: ClassVar[Sequence[tuple[str, str]]] = ()
    # prefixes of the entries of an ImageClassifier outside its backbone
    classifier_parts: ClassVar[tuple[str, ...]] = ("head.", "neck.")
    # patterns of published entries with index tables or masks, which are computed here
    computed_entries: ClassVar[Sequence[str]] = ()
    # patterns of entries that no published classifier has, which keep their initialisation
    fresh_entries: ClassVar[Sequence[str]] = (r"^norms\.",)

    def __init__(
        self,
        *,
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
                f"expected pretrained=None, got {pretrained!r}: to load weights, set "
                "init_cfg=dict(type='Published', checkpoint=...)"
            )
        out_indices = tuple(out_indices)
        if not out_indices or not set(out_indices) <= set(range(4)):
            raise ValueError(f"out_indices must be some of 0, 1, 2, 3, got {out_indices}")
        if list(out_indices) != sorted(set(out_indices)):
            raise ValueError(f"out_indices must ascend without repetition, got {out_indices}")
        if frozen_stages not in range(-1, 5):
            raise ValueError(f"frozen_stages must be from -1 to 4, got {frozen_stages}")
        if not isinstance(with_cp, bool) and (len(with_cp) != 4 or min(with_cp) < 0):
            raise ValueError(f"with_cp must be a bool or four numbers of blocks, got {with_cp}")
        self.out_indices = out_indices
        self.frozen_stages = frozen_stages
        self.norm_eval = norm_eval
        self.with_cp = with_cp
        # the key is the index of the stage
        self.norms = nn.ModuleDict()

    def make_stage(
        self, index: int, blocks: Iterable[nn.Module], downsample: nn.Module | None = None
    ) -> Stage:
        """Build stage `index` from its blocks and its downsampling."""
        parts = {} if downsample is None else dict(downsample=downsample)
        parts |= {str(j): block for j, block in enumerate(blocks)}
        if isinstance(self.with_cp, bool):
            return Stage(parts, parts if self.with_cp else ())
        return Stage(parts, map(str, range(self.with_cp[index])))

    def add_norms(
        self,
        out_norm: str,
        make_each: Callable[[int], nn.Module],
        make_final: Callable[[int], nn.Module],
    ) -> None:
        """Build the normalisation of the outputs.

        Args:
            out_norm: ``'each'`` normalises every output, for dense prediction; ``'final'`` only the
                last stage, as the published classifier does; ``'none'`` no output.
            make_each: function from the number of channels to the norm of one output.
            make_final: function from the number of channels to the norm of the last stage.

        Raises:
            ValueError: if `out_norm` is unknown, or 'final' without the last stage as an output.
        """
        if out_norm not in OUT_NORMS:
            raise ValueError(f"out_norm must be one of {OUT_NORMS}, got {out_norm!r}")
        if out_norm == "final" and 3 not in self.out_indices:
            raise ValueError(f"out_norm='final' needs 3 among out_indices, got {self.out_indices}")
        if out_norm == "each":
            self.norms.update({str(i): make_each(self.channels[i]) for i in self.out_indices})
        elif out_norm == "final":
            self.final_norm = make_final(self.channels[3])

    @property
    def out_channels(self) -> tuple[int, ...]:
        """Number of channels of each returned feature map."""
        return tuple(self.channels[i] for i in self.out_indices)

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

    def normalise(self, stage: int, x: Any) -> Any:
        """Apply the output norm of a stage, if it has one."""
        if str(stage) in self.norms:
            return self.norms[str(stage)](x)
        return self.final_norm(x) if stage == 3 and hasattr(self, "final_norm") else x

    def is_droppable(self, entry: str) -> bool:
        """Return whether a renamed published entry belongs to a part that this model omits.

        These parts are the classifier with its norm, and the norms of stages without one here.
        """
        if entry.startswith((*self.classifier_parts, "final_norm.")):
            return True
        return entry.startswith("norms.") and entry.split(".")[1] not in self.norms

    def train(self, mode: bool = True) -> "StagedNetwork":
        """Set the training mode; frozen parts stay in evaluation mode."""
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
        frozen = range(self.frozen_stages)
        norms = [self.norms[str(i)] for i in frozen if str(i) in self.norms]
        if self.frozen_stages == 4 and hasattr(self, "final_norm"):
            norms.append(self.final_norm)
        return [*self._stem_modules(), *self.stages[: self.frozen_stages], *norms]

    def _stem_modules(self) -> list[nn.Module]:
        return [self.stem]


class HierarchicalBackbone(StagedNetwork):
    """Backbone that maps images to feature maps; see :class:`StagedNetwork`."""

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Map images ``(B, 3, H, W)`` to the maps of `out_indices`, ``(B, C_i, H_i, W_i)``."""
        if self.channels_last and x.device.type == "cpu":
            x = x.contiguous(memory_format=torch.channels_last)
        outs = enumerate(self.run_stages(self.stem(x)))
        return tuple(self.normalise(i, out) for i, out in outs if i in self.out_indices)


def _recompute(part: nn.Module, x: Any) -> Any:
    """Run a part of a stage with gradient checkpointing."""
    return checkpoint(
        part,
        x,
        use_reentrant=False,
        context_fn=lambda: (nullcontext(), _keep_running_statistics(part)),
    )


@contextmanager
def _keep_running_statistics(block: nn.Module):
    """Leave the running statistics unchanged during recomputation, which sees a batch again."""
    norms = [m for m in block.modules() if isinstance(m, _BatchNorm) and m.training]
    momenta = [norm.momentum for norm in norms]
    counts = [norm.num_batches_tracked.clone() for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, momentum, count in zip(norms, momenta, counts, strict=True):
            norm.momentum = momentum
            norm.num_batches_tracked.copy_(count)
