"""Detectors of mmdet in a form that can be exported: one image to boxes, labels, scores and masks.

The heads and their settings are the host's; :mod:`.candidates` has what lies between them. In
addition to the shape letters of :mod:`hybrid_backbones.ops`, ``A`` is the number of anchors, ``P``
that of proposals, ``N`` that of objects, and ``L`` that of classes.
"""

import logging
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from mmdet.models.roi_heads import CascadeRoIHead, StandardRoIHead
from mmdet.models.roi_heads.roi_extractors import SingleRoIExtractor
from mmengine.logging import print_log
from torch import Tensor, nn
from torchvision.ops import roi_align

from ..layers import pad_to_multiple
from ..mini.shapes import CLASSES, MAX_SHAPES, draw_scene
from .candidates import EMPTY, Candidates, Proposals, decode, select_objects
from .eager import run_model

# number of images that are drawn for a comparison, and of objects in the one that is taken
NUM_TRIES, ENOUGH = 4, 5


class Extractor(nn.Module):
    """RoIAlign on the level that suits the size of each box.

    Args:
        extractor: extractor of mmdet, which gives settings and levels.
    """

    def __init__(self, extractor: Any):
        super().__init__()
        if type(extractor) is not SingleRoIExtractor:
            raise ValueError(
                f"{type(extractor).__name__} is not exported: add --no-postprocess for the anchors"
            )
        self.extractor: Any = extractor

    def forward(self, maps: tuple[Tensor, ...], boxes: Tensor) -> Tensor:
        """Return the features ``(n, C, K, K)`` of boxes ``(n, 4)``."""
        layers = self.extractor.roi_layers
        rois = F.pad(boxes, (1, 0))  # all of image 0
        levels = self.extractor.map_roi_levels(rois, len(layers))
        features = []
        for number, layer in enumerate(layers):
            here = (levels == number)[:, None]
            # boxes of other levels have no size, and cost nothing
            pooled = roi_align(
                maps[number],
                torch.where(here, rois, 0),
                layer.output_size,
                layer.spatial_scale,
                layer.sampling_ratio,
                layer.aligned,
            )
            features.append(torch.where(here[:, :, None, None], pooled, 0))
        return torch.stack(features).sum(0)


class SecondStage(nn.Module):
    """The box and mask heads of a Faster, Mask or Cascade Mask R-CNN.

    Args:
        roi_head: head of mmdet.
    """

    def __init__(self, roi_head: Any):
        super().__init__()
        if type(roi_head) not in (StandardRoIHead, CascadeRoIHead) or roi_head.with_shared_head:
            raise ValueError(
                f"{type(roi_head).__name__} is not exported: add --no-postprocess for the anchors"
            )
        self.settings = roi_head.test_cfg
        self.boxes: Any = self._stages(roi_head, "bbox")
        self._require_softmax()
        self.masks: Any = self._stages(roi_head, "mask") if roi_head.with_mask else None

    def _require_softmax(self) -> None:
        """Check that no loss has scores of its own."""
        for _, head in self.boxes:
            if getattr(head, "custom_activation", False):
                raise ValueError(
                    f"scores of {type(head.loss_cls).__name__} are not exported, which are no "
                    "softmax: add --no-postprocess for the anchors"
                )

    @staticmethod
    def _stages(roi_head: Any, kind: str) -> nn.ModuleList:
        """Return pairs of extractor and head."""
        parts = [getattr(roi_head, f"{kind}_{part}") for part in ("roi_extractor", "head")]
        stages = zip(*(x if isinstance(x, nn.ModuleList) else [x] for x in parts), strict=True)
        return nn.ModuleList(nn.ModuleList([Extractor(one), head]) for one, head in stages)

    def forward(
        self, maps: tuple[Tensor, ...], boxes: Tensor, proposal_scores: Tensor, size: tuple
    ) -> tuple[Tensor, ...]:
        """Return boxes ``(N, 4)``, classes, scores ``(N,)`` and masks ``(N, K, K)`` if there are.

        Args:
            maps: levels of the pyramid.
            boxes: proposals, ``(P, 4)``.
            proposal_scores: their scores, ``(P,)``, -inf for empty places.
            size: height and width of the image, in pixels.
        """
        total: Any = 0
        for number, (extract, head) in enumerate(self.boxes):
            logits, deltas = head(extract(maps, boxes))
            total = total + logits
            if number < len(self.boxes) - 1:
                if not head.reg_class_agnostic:
                    deltas = _of_class(deltas.unflatten(1, (-1, 4)), logits[:, :-1].argmax(1))
                boxes = decode(head.bbox_coder, boxes, deltas, size)
        scores = (total / len(self.boxes)).softmax(1)[:, :-1]  # (P, L)
        boxes = decode(head.bbox_coder, boxes, deltas, size).unflatten(1, (-1, 4))
        boxes = boxes.expand(-1, scores.shape[1], -1)
        valid = (scores > self.settings.score_thr) & (proposal_scores[:, None] > EMPTY)
        classes = torch.arange(scores.shape[1], device=scores.device).expand_as(scores)
        objects = select_objects(
            boxes.flatten(0, 1),
            torch.where(valid, scores, EMPTY).flatten(),
            classes.flatten(),
            self.settings,
        )
        if self.masks is None:
            return objects
        return (*objects, self._masks(maps, *objects[:2]))

    def _masks(self, maps: tuple[Tensor, ...], boxes: Tensor, classes: Tensor) -> Tensor:
        """Return the probabilities inside each box, averaged over the stages, ``(N, K, K)``."""
        total: Any = 0
        for extract, head in self.masks:
            total = total + head(extract(maps, boxes)).sigmoid()
        mean = total / len(self.masks)
        return mean[:, 0] if head.class_agnostic else _of_class(mean, classes)


def _of_class(x: Tensor, classes: Tensor) -> Tensor:
    """Select from ``(n, L, ...)`` the class of each row, ``(n, ...)``."""
    index = classes.reshape(-1, *[1] * (x.ndim - 1)).expand(-1, 1, *x.shape[2:])
    return x.gather(1, index).squeeze(1)


class _Detector(nn.Module):
    """What detectors share: normalised and padded images, the pyramid, and its first head."""

    task = "detect"
    # also a dynamic file takes one image at a time
    single = True

    def __init__(self, model: Any, normalise: nn.Module):
        super().__init__()
        self.normalise = normalise
        self.model: Any = model
        # of all images, as the host's preprocessor pads them
        self.divisor: int = model.data_preprocessor.pad_size_divisor
        self.has_two_stages: bool = getattr(model, "with_rpn", False)
        self.head: Any = model.rpn_head if self.has_two_stages else model.bbox_head

    def maps(self, images: Tensor) -> tuple[Tensor, ...]:
        """Return the levels of the pyramid."""
        return self.model.extract_feat(pad_to_multiple(self.normalise(images), self.divisor))

    @torch.no_grad()
    def example(self, batch: int, height: int, width: int) -> Tensor:
        """Draw the image of a comparison, ``(1, 3, H, W)``: of some, that with the most objects."""
        rng = np.random.default_rng(0)
        side = min(height, width)
        # of an image of one pixel, one pixel
        shapes = min(max(side // 8, 2), side), min(max(side // 2, 2), side)
        most, chosen = -1, torch.empty(0)
        for _ in range(NUM_TRIES):
            labels = rng.integers(len(CLASSES), size=MAX_SHAPES).tolist()
            pixels, *_ = draw_scene(rng, height, width, labels, shapes=shapes)
            image = torch.from_numpy(pixels).permute(2, 0, 1)[None].contiguous()
            number = len(run_model(self, (image,))[0])
            if number > most:
                most, chosen = number, image
            if number >= ENOUGH:
                break
        if not most:
            print_log(
                f"nothing was detected in drawn images of {height}x{width} pixels: there are no "
                "objects to compare",
                "current",
                logging.WARNING,
            )
        return chosen


class Anchors(_Detector):
    """What the first head of a detector computes before NMS, for one image ``(1, 3, H, W)``.

    Outputs: `anchor_boxes` ``(A, 4)``, the boxes predicted from all anchors of all levels, x1, y1,
    x2, y2 in pixels, and `anchor_scores` ``(A, L)``. L is the number of classes of a RetinaNet, and
    1 of a region proposal network, whose second stage needs NMS.
    """

    names: tuple[str, ...] = ("anchor_boxes", "anchor_scores")

    def __init__(self, model: Any, normalise: nn.Module):
        super().__init__(model, normalise)
        self.candidates = Candidates(self.head)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        return self.candidates(self.maps(images), images.shape[2:])


class Detector(_Detector):
    """Objects of one image ``(1, 3, H, W)``, best first, by a detector of mmdet.

    Outputs: boxes ``(N, 4)``, x1, y1, x2, y2 in pixels; labels ``(N,)``, scores ``(N,)``; of a
    detector with masks also masks ``(N, K, K)``, probabilities inside each box. Only objects whose
    score exceeds the threshold of the config are given, at most its `max_per_img`.
    """

    names: tuple[str, ...] = ("boxes", "labels", "scores")

    def __init__(self, model: Any, normalise: nn.Module):
        super().__init__(model, normalise)
        self.second: SecondStage | None = None
        # lowest probability of a pixel of a mask
        self.mask_threshold: float | None = None
        self.first = Proposals(self.head) if self.has_two_stages else Candidates(self.head)
        if self.has_two_stages:
            self.second = SecondStage(model.roi_head)
            if self.second.masks is not None:
                self.names = (*self.names, "masks")
                self.mask_threshold = self.second.settings.mask_thr_binary

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        maps, size = self.maps(images), (images.shape[2], images.shape[3])
        if self.second is not None:
            return self.second(maps, *self.first(maps, size), size)
        boxes, scores, classes, _ = self.first.select(maps, size)
        return select_objects(boxes, scores, classes, self.head.test_cfg)
