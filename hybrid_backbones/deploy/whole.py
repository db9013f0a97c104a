"""Export of trained models: images of 8 bits in, predictions or feature maps out."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from mmengine.config import Config
from torch import Tensor, nn

from ..inference.demo import build_trained, read_dataset_meta
from ..training.requirements import require_keys
from .export import export_onnx, require_new


class Normalisation(nn.Module):
    """Normalisation of a config's `data_preprocessor` for RGB images of 8 bits, ``(B, 3, H, W)``.

    Args:
        settings: the `data_preprocessor` of a config, in whose pipelines images are BGR.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, settings: dict[str, Any]):
        super().__init__()
        self.is_rgb = bool(settings.get("to_rgb") or settings.get("bgr_to_rgb"))
        for name, default in (("mean", 0.0), ("std", 1.0)):
            values = torch.tensor(settings.get(name) or [default] * 3, dtype=torch.float32)
            self.register_buffer(name, values[:, None, None])

    def forward(self, images: Tensor) -> Tensor:
        pixels = images.to(self.mean.dtype)
        return ((pixels if self.is_rgb else pixels.flip(1)) - self.mean) / self.std


class Backbone(nn.Module):
    """The feature maps of a model's backbone."""

    def __init__(self, model: Any, normalise: nn.Module):
        super().__init__()
        self.normalise = normalise
        self.backbone: nn.Module = model.backbone

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        return self.backbone(self.normalise(images))


class Classifier(nn.Module):
    """Logits and probabilities ``(B, classes)`` of a classifier of mmpretrain."""

    names: tuple[str, ...] = ("logits", "probabilities")

    def __init__(self, model: Any, normalise: nn.Module):
        super().__init__()
        self.normalise = normalise
        self.model: Any = model

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        logits = self.model.head(self.model.extract_feat(self.normalise(images)))
        return logits, logits.softmax(1)


class Segmentor(nn.Module):
    """Label map ``(B, H, W)`` of a segmentor of mmseg, in the size of the images."""

    names: tuple[str, ...] = ("labels",)

    def __init__(self, model: Any, normalise: nn.Module):
        super().__init__()
        self.normalise = normalise
        self.model: Any = model

    def forward(self, images: Tensor) -> tuple[Tensor]:
        logits = self.model.decode_head(self.model.extract_feat(self.normalise(images)))
        align = self.model.decode_head.align_corners
        logits = F.interpolate(logits, images.shape[2:], mode="bilinear", align_corners=align)
        return (logits.argmax(1),)


# by `default_scope` of the config
KINDS: dict[str, type[Classifier] | type[Segmentor]]
KINDS = dict(mmpretrain=Classifier, mmseg=Segmentor)


def export_trained(
    cfg: Config,
    checkpoint: str | Path,
    out: str | Path,
    size: int | Sequence[int] = 224,
    *,
    dynamic: bool = False,
    backbone_only: bool = False,
    fuse: bool = True,
    force: bool = False,
) -> dict[str, Any]:
    """Export the model of a config with its normalisation, for RGB images of 8 bits.

    Args:
        cfg: config of the model.
        checkpoint: checkpoint of the model.
        out, size, dynamic, fuse, force: as in :func:`export_onnx`.
        backbone_only: whether the file computes the feature maps only.

    Returns:
        report of :func:`export_onnx`, with the names of the classes, the normalisation and the
        SHA-256 hash of the checkpoint, which the file keeps as well.

    Raises:
        ValueError: as :func:`export_onnx`, or if the checkpoint does not fit or the model can only
            be exported without its heads.
    """
    require_keys(cfg, "default_scope", "model")
    require_new(Path(out), force=force)
    settings = cfg.model.get("data_preprocessor") or cfg.get("data_preprocessor") or {}
    if cfg.default_scope not in KINDS and not backbone_only:
        raise ValueError(
            "the heads of detectors are not exported: add --backbone-only for the feature maps"
        )
    model = build_trained(cfg, checkpoint, "cpu")
    normalise = Normalisation(settings)
    metadata: dict[str, Any] = dict(
        preprocessing=dict(
            input="RGB, uint8, (B, 3, H, W); normalised inside",
            mean=normalise.mean.flatten().tolist(),
            std=normalise.std.flatten().tolist(),
        ),
    )
    if Path(checkpoint).is_file():
        metadata["checkpoint_sha256"] = hashlib.sha256(Path(checkpoint).read_bytes()).hexdigest()
    whole: nn.Module
    names: tuple[str, ...] = ()
    if backbone_only:
        whole = Backbone(model, normalise)
    else:
        kind = KINDS[cfg.default_scope]
        whole, names = kind(model, normalise), kind.names
        metadata["classes"] = read_dataset_meta(cfg, checkpoint)["classes"]
    return export_onnx(
        whole,
        out,
        size,
        dynamic=dynamic,
        fuse=fuse,
        force=force,
        example=lambda *shape: torch.randint(256, (shape[0], 3, *shape[1:]), dtype=torch.uint8),
        output_names=names,
        metadata=metadata,
    )
