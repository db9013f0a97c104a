"""Sketch encoder and data preprocessor of LocFormer (see `detector.py`)."""

import torch
from mmdet.models.data_preprocessors import DetDataPreprocessor
from mmdet.registry import MODELS
from mmengine.model import BaseModule
from torch import Tensor, nn

# ImageNet's statistics in RGB
SKETCH_MEAN = (123.675, 116.28, 103.53)
SKETCH_STD = (58.395, 57.12, 57.375)


@MODELS.register_module()
class SketchDetDataPreprocessor(DetDataPreprocessor):
    """Data preprocessor that batches images as mmdet does and stacks their sketches.

    Sketches are white strokes on black, from 0 to 255; they are normalised by ImageNet's statistics
    in RGB, independently of the settings for images.

    Args:
        **kwargs: settings of mmdet's DetDataPreprocessor for the images.
    """

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        for name, values in (("sketch_mean", SKETCH_MEAN), ("sketch_std", SKETCH_STD)):
            buffer = torch.tensor(values).view(3, 1, 1)
            self.register_buffer(name, buffer, persistent=False)

    def forward(self, data: dict, training: bool = False) -> dict:
        """Batch and normalise images and sketches.

        Args:
            data: dict of lists with one element per item: `inputs`, images ``(3, H, W)``;
                `sketches`, ``(Q, 3, H', W')``; and `data_samples`.
            training: whether to apply batch augmentations, as in mmdet.

        Returns:
            dict of `inputs`, ``(B, 3, H, W)``, `sketches`, ``(B, Q, 3, H', W')``, and
            `data_samples`.

        Raises:
            ValueError: if sketches differ in number or in size.
        """
        sketches = self.cast_data(list(data["sketches"]))
        shapes = {tuple(x.shape) for x in sketches}
        if len(shapes) != 1 or len(next(iter(shapes))) != 4:
            raise ValueError(
                "all sketches of a batch must have the same shape (number, 3, height, width), "
                f"got {sorted(shapes)}"
            )
        sketches = (torch.stack(sketches).float() - self.sketch_mean) / self.sketch_std
        images = {key: data[key] for key in data if key != "sketches"}
        return dict(super().forward(images, training), sketches=sketches)


@MODELS.register_module()
class SketchEncoder(BaseModule):
    """Sketch encoder: ``proj(norm(trunk(x)))``, the projected last feature map of a ResNet.

    Args:
        trunk: config of a backbone that returns one feature map of stride 32.
        in_channels: number of channels of that map; must be a multiple of 32.
        out_channels: number of output channels.
        init_cfg: as in :class:`mmengine.model.BaseModule`.
    """

    def __init__(
        self,
        trunk: dict,
        *,
        in_channels: int = 2048,
        out_channels: int = 256,
        init_cfg: dict | None = None,
    ):
        super().__init__(init_cfg=init_cfg)
        self.trunk = MODELS.build(trunk)
        self.norm = nn.GroupNorm(32, in_channels)
        self.proj = nn.Conv2d(in_channels, out_channels, 1)

    def forward(self, sketches: Tensor) -> Tensor:
        """Map ``(B, Q, 3, H, W)`` to ``(B, Q, out_channels, H/32, W/32)``, rounding up."""
        (features,) = self.trunk(sketches.flatten(0, 1))
        return self.proj(self.norm(features)).unflatten(0, sketches.shape[:2])
