"""Pictures of validation and testing in which small images are enlarged, for mmdet."""

from typing import Any

import numpy as np
from mmdet.registry import VISUALIZERS
from mmdet.structures import DetDataSample
from mmdet.structures.mask import BitmapMasks, PolygonMasks
from mmdet.visualization import DetLocalVisualizer
from mmengine.structures import InstanceData

from .pictures import picture_size, resize


@VISUALIZERS.register_module()
class EnlargedDetVisualizer(DetLocalVisualizer):
    """mmdet's visualizer, which enlarges images until names and scores in them can be read."""

    def add_datasample(
        self,
        name: str,
        image: np.ndarray,
        data_sample: DetDataSample | None = None,
        *args: Any,
        **kwargs: Any,
    ) -> None:
        """Draw an image as mmdet does, with its boxes and masks enlarged alike."""
        size = picture_size(*image.shape[:2])
        if data_sample is not None:
            data_sample = data_sample.cpu().clone()
            for key in ("gt_instances", "pred_instances"):
                if key in data_sample:
                    setattr(data_sample, key, _enlarge(data_sample.get(key), image, size))
        super().add_datasample(name, resize(image, size, 255), data_sample, *args, **kwargs)


def _enlarge(objects: InstanceData, image: np.ndarray, size: tuple[int, int]) -> InstanceData:
    """Scale the boxes and masks of objects in an image to a size (height, width) of it."""
    scaled: dict[str, Any] = dict(objects.items())
    boxes = scaled["bboxes"]
    # tensors, or mmdet's boxes around one
    boxes = getattr(boxes, "tensor", boxes)
    height, width = image.shape[:2]
    scaled["bboxes"] = boxes * boxes.new_tensor([size[1] / width, size[0] / height] * 2)
    masks = scaled.get("masks")
    if masks is not None:
        # mmdet's own, or arrays or tensors
        each = masks.to_ndarray() if isinstance(masks, BitmapMasks | PolygonMasks) else masks
        larger = [resize(np.asarray(mask, np.uint8), size, 0) for mask in each]
        scaled["masks"] = np.array(larger, bool) if larger else np.zeros((0, *size), bool)
    return InstanceData(**scaled)
