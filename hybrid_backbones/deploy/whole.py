"""Export of trained models: images of 8 bits in, predictions or feature maps out."""

import logging
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from mmengine.config import Config
from mmengine.logging import print_log
from torch import Tensor, nn

from ..checkpoints.fetch import fetch, hash_file
from ..inference.demo import build_trained, read_dataset_meta
from ..inference.labels import class_logits
from ..training.requirements import require_keys
from .accuracy import all_have_size, measure_accuracy
from .calibration import read_folder
from .detectors import Anchors, Detector
from .export import export_onnx, read_size, require_new
from .formats import require_options
from .host import require_same_prediction
from .locformer import SketchSearch, require_search, search_options


class Normalisation(nn.Module):
    """Normalisation of a config's `data_preprocessor` for RGB images of 8 bits, ``(B, 3, H, W)``.

    Args:
        settings: the `data_preprocessor` of a config, in whose pipelines images are BGR.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, settings: dict[str, Any]):
        super().__init__()
        # each of the frameworks' names turns the channels
        self.is_rgb = any(map(settings.get, ("to_rgb", "bgr_to_rgb", "rgb_to_bgr")))
        for name, default in (("mean", 0.0), ("std", 1.0)):
            values = torch.tensor(settings.get(name) or [default] * 3, dtype=torch.float32)
            self.register_buffer(name, values[:, None, None])

    def forward(self, images: Tensor) -> Tensor:
        pixels = images.to(self.mean.dtype)
        return ((pixels if self.is_rgb else pixels.flip(1)) - self.mean) / self.std


class Backbone(nn.Module):
    """The feature maps of a model's backbone."""

    task = "backbone"
    # of the outputs; none are those of `export_onnx`
    names: tuple[str, ...] = ()
    # whether a dynamic file takes one image at a time
    single = False

    def __init__(self, model: Any, normalise: nn.Module):
        super().__init__()
        self.normalise = normalise
        self.backbone: nn.Module = model.backbone

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        return self.backbone(self.normalise(images))


class Classifier(nn.Module):
    """Logits and probabilities ``(B, classes)`` of a classifier of mmpretrain."""

    task = "classify"
    names: tuple[str, ...] = ("logits", "probabilities")
    single = False

    def __init__(self, model: Any, normalise: nn.Module):
        super().__init__()
        self.normalise = normalise
        self.model: Any = model
        # only classifiers need mmpretrain
        from mmpretrain.models import ClsHead

        # heads of several labels or tasks have no probabilities that sum to 1
        if not isinstance(model.head, ClsHead):
            raise ValueError(
                f"{type(model.head).__name__} is not exported: add --backbone-only for the feature "
                "maps"
            )

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        logits = self.model.head(self.model.extract_feat(self.normalise(images)))
        return logits, logits.softmax(1)


class Segmentor(nn.Module):
    """Label map ``(B, H, W)`` of a segmentor of mmseg, in the size of the images.

    Args:
        model: segmentor.
        normalise: normalisation of the images.
        argmax: whether labels are chosen; otherwise the output are logits ``(B, classes, H, W)``.
    """

    task = "segment"
    names: tuple[str, ...] = ("labels",)
    single = False

    def __init__(self, model: Any, normalise: nn.Module, *, argmax: bool = True):
        super().__init__()
        self.normalise = normalise
        self.model: Any = model
        self.argmax = argmax
        if not argmax:
            self.names = ("label_logits",)
        # only segmentors need mmseg
        from mmseg.models.decode_heads.decode_head import BaseDecodeHead

        from .resampling import follow_sizes

        if not isinstance(model.decode_head, BaseDecodeHead):
            raise ValueError(
                f"{type(model.decode_head).__name__} is not exported: add --backbone-only for the "
                "feature maps"
            )
        if not model.test_cfg:
            raise ValueError(
                "model.test_cfg is not set, without which mmseg predicts nothing: add "
                "--cfg-options model.test_cfg.mode=whole"
            )
        if model.test_cfg.get("mode") == "slide":
            raise ValueError(
                "test_cfg.mode=slide is not exported, whose windows overlap: add --cfg-options "
                "model.test_cfg.mode=whole, and measure with it what whole images change"
            )
        if getattr(model.data_preprocessor, "test_cfg", None):
            raise ValueError(
                "data_preprocessor.test_cfg is not exported, which pads images: add --cfg-options "
                "model.data_preprocessor.test_cfg=None"
            )
        follow_sizes(model.decode_head)

    def forward(self, images: Tensor) -> tuple[Tensor]:
        head = self.model.decode_head
        logits = class_logits(head, head(self.model.extract_feat(self.normalise(images))))
        logits = F.interpolate(
            logits, images.shape[2:], mode="bilinear", align_corners=head.align_corners
        )
        return (logits.argmax(1) if self.argmax else logits,)


# by `default_scope` of the config
KINDS: dict[str, type[Backbone] | type[Classifier] | type[Segmentor] | type[Detector]]
KINDS = dict(mmpretrain=Classifier, mmseg=Segmentor, mmdet=Detector)


def export_trained(
    cfg: Config,
    checkpoint: str | Path,
    out: str | Path,
    size: int | Sequence[int] = 224,
    *,
    dynamic: bool = False,
    backbone_only: bool = False,
    resize: bool = False,
    postprocess: bool = True,
    fuse: bool = True,
    precision: str = "float32",
    calibration: str | Path | None = None,
    evaluate: bool = False,
    force: bool = False,
    **options: Any,
) -> dict[str, Any]:
    """Export the model of a config with its normalisation, for RGB images of 8 bits.

    Args:
        cfg: config of the model.
        checkpoint: checkpoint of the model.
        out, size, dynamic, fuse, precision, force: as in :func:`export_onnx`.
        backbone_only: whether the file computes the feature maps only.
        resize: whether the file resizes images as the test pipeline of the config does; it then
            takes any size, and `size` is that of the images for the comparison.
        calibration: folder of images for int8.
        evaluate: whether the report has the accuracy on the test set, if the file takes its images.
        postprocess: whether the file of a detector selects objects; otherwise it gives all boxes
            and scores of its first head, :class:`Anchors`.
        **options: further options of :func:`export_onnx`.

    Returns:
        report of :func:`export_onnx`, with the names of the classes, the normalisation and the
        SHA-256 hash of the checkpoint, which the file keeps as well.

    Raises:
        ValueError: as :func:`export_onnx`, or if the checkpoint does not fit, the model can only be
            exported without its heads, or the file would not predict what its framework does.
    """
    require_keys(cfg, "default_scope", "model", *(["test_dataloader"] if resize else []))
    require_new(Path(out), force=force)
    # also before `resize` imports its packages
    require_options(Path(out), aot=options.get("aot", False), precision=precision, resizes=resize)
    size = read_size(size)
    settings = cfg.model.get("data_preprocessor") or cfg.get("data_preprocessor") or {}
    if cfg.default_scope not in KINDS and not backbone_only:
        raise ValueError(
            f"default_scope must be one of {', '.join(KINDS)}, got {cfg.default_scope}: add "
            "--backbone-only for the feature maps"
        )
    searches_by_sketch = "sketch_encoder" in cfg.model
    if searches_by_sketch:
        require_search(backbone_only=backbone_only, postprocess=postprocess, precision=precision)
    if not postprocess and (cfg.default_scope != "mmdet" or backbone_only):
        raise ValueError("--no-postprocess is for whole detectors: leave it out")
    resizing = _resizing(cfg) if resize else None
    images: list[Tensor] = []
    if calibration is not None:
        images = read_folder(calibration, None if dynamic or resize else size)
    if evaluate and not dynamic and not all_have_size(cfg, size):
        evaluate = False
        print_log(
            "the accuracy is not measured, since images of the test set have other sizes than "
            "--size: add --dynamic",
            "current",
            logging.WARNING,
        )
    model = build_trained(cfg, checkpoint, "cpu")
    normalise = Normalisation(settings)
    kind: Any = Backbone if backbone_only else KINDS[cfg.default_scope]
    if searches_by_sketch:
        # several sketches, so that a graph for any number does not take their number for 1
        options |= search_options(cfg, 2 if dynamic else None)
        kind = SketchSearch
    if not postprocess:
        kind = Anchors
    whole = kind(model, normalise)
    if isinstance(whole, Anchors | Detector):
        options["example"] = whole.example
    options.setdefault("example", _noise)
    if kind in KINDS.values():
        require_same_prediction(model, whole, options["example"](1, *size))
    if resizing and isinstance(whole, Segmentor):
        whole = Segmentor(model, normalise, argmax=False)
    metadata: dict[str, Any] = dict(
        task=kind.task,
        preprocessing=dict(
            input="RGB, uint8, (B, 3, H, W); normalised inside",
            mean=normalise.mean.flatten().tolist(),
            std=normalise.std.flatten().tolist(),
            resize=resizing.steps if resizing else None,
        ),
        checkpoint_sha256=hash_file(fetch(checkpoint)),
    )
    if getattr(whole, "mask_threshold", None) is not None:
        metadata["mask_threshold"] = whole.mask_threshold
    if not backbone_only:
        meta = read_dataset_meta(cfg, checkpoint)
        metadata["classes"] = meta["classes"]
        # of pictures of predictions
        metadata["palette"] = [[int(value) for value in colour] for colour in meta["palette"]]
    return export_onnx(
        whole,
        out,
        size,
        dynamic=dynamic,
        fuse=fuse,
        force=force,
        single=kind.single,
        output_names=whole.names,
        metadata=metadata,
        resizing=resizing,
        precision=precision,
        calibration=images,
        evaluate=partial(measure_accuracy, cfg, kind.task) if evaluate else None,
        **options,
    )


def _resizing(cfg: Config) -> Any:
    # needs the packages of the extra `deploy`
    from .resize import Resizing

    return Resizing(cfg)


def _noise(batch: int, height: int, width: int) -> Tensor:
    return torch.randint(256, (batch, 3, height, width), dtype=torch.uint8)
