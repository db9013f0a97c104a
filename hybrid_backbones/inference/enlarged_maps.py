"""Pictures of validation and testing in which small images are enlarged, for mmseg."""

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from mmengine.structures import PixelData
from mmseg.registry import VISUALIZERS
from mmseg.structures import SegDataSample
from mmseg.visualization import SegLocalVisualizer

from .pictures import picture_size, resize


@VISUALIZERS.register_module()
class EnlargedSegVisualizer(SegLocalVisualizer):
    """mmseg's visualizer, which enlarges images until names in them can be read."""

    def add_datasample(
        self,
        name: str,
        image: np.ndarray,
        data_sample: SegDataSample | None = None,
        *args: Any,
        **kwargs: Any,
    ) -> None:
        """Draw an image as mmseg does, with its label maps enlarged alike."""
        size = picture_size(*image.shape[:2])
        if data_sample is not None:
            data_sample = data_sample.cpu().clone()
            for key in ("gt_sem_seg", "pred_sem_seg"):
                if key in data_sample:
                    # a tensor, or an array
                    labels = torch.as_tensor(data_sample.get(key).data)
                    larger = F.interpolate(labels[None].float(), size)[0].to(labels.dtype)
                    setattr(data_sample, key, PixelData(data=larger))
        super().add_datasample(name, resize(image, size, 255), data_sample, *args, **kwargs)

    def _get_center_loc(self, mask: np.ndarray) -> np.ndarray:
        """Return the place (x, y) of a name in its mask as mmseg does, which is slow there.

        It is the middle of the mask's first row with the largest number of pixels.
        """
        row = (mask == 1).sum(1).argmax()
        columns = np.flatnonzero(mask[row] == 1)
        return np.array([columns[len(columns) // 2], row])
