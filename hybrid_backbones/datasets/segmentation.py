"""Segmentation datasets that check label maps, on which mmseg would fail with unclear errors."""

import numpy as np
from mmcv.transforms import BaseTransform
from mmengine import fileio
from mmengine.registry import DATASETS, TRANSFORMS
from mmseg.datasets import ADE20KDataset, BaseSegDataset
from PIL import Image

from .pictures import IGNORED, decode, stored_bits

# Pillow's modes of one channel with 8 bits or fewer
LABEL_MODES = ("L", "P", "1")


@DATASETS.register_module()
class CheckedSegDataset(BaseSegDataset):
    """Segmentation dataset of mmseg that also passes the number of classes to the label check.

    Raises:
        ValueError: if there are no images.
    """

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        # mmseg's script confusion_matrix looks for the classes here
        self.METAINFO = self.metainfo

    def load_data_list(self) -> list[dict]:
        """Return the paths and ``num_classes`` of each image."""
        data_list = super().load_data_list()
        if not data_list:
            raise ValueError(
                f"no images (*{self.img_suffix}) in {self.data_prefix['img_path']}: complete the "
                "data set, or set img_suffix to yours"
            )
        num_classes = len(self.metainfo["classes"])
        return [dict(info, num_classes=num_classes) for info in data_list]


@DATASETS.register_module()
class CheckedADE20KDataset(CheckedSegDataset, ADE20KDataset):
    """mmseg's ADE20K dataset of 150 classes, with checked label maps."""


@TRANSFORMS.register_module()
class LoadAnnotationsStrict(BaseTransform):
    """Transform that loads a label map as mmseg's LoadAnnotations does, and checks it.

    Requires the loaded image and a dataset that provides ``num_classes``, such as
    :class:`CheckedSegDataset`. Images without a label map, as in prediction, pass unchanged.

    Args:
        backend_args: arguments of mmengine's file backend.

    Raises:
        ValueError: names a label map that is missing, truncated, not of 8-bit labels, of another
            size than the image, or contains labels without a class.
    """

    def __init__(self, backend_args: dict | None = None):
        self.backend_args = backend_args

    def transform(self, results: dict) -> dict:
        """Add ``gt_seg_map``, uint8 (H, W)."""
        if "seg_map_path" in results:
            labels = self._read(results["seg_map_path"], *results["ori_shape"])
            results["gt_seg_map"] = _to_classes(labels, results)
            results["seg_fields"].append("gt_seg_map")
        return results

    def _read(self, path: str, height: int, width: int) -> np.ndarray:
        try:
            content = fileio.get(path, backend_args=self.backend_args)
        except OSError as error:
            raise ValueError(
                f"label map {path} cannot be read ({error}): complete the data set"
            ) from error
        picture = decode(content, f"label map {path}")
        if picture.mode not in LABEL_MODES:
            raise ValueError(
                f"label map {path} has mode {picture.mode}: expected one channel of 8 bits with "
                "the class index of each pixel"
            )
        if picture.size != (width, height):
            raise ValueError(
                f"label map {path} has {picture.width}×{picture.height} pixels, but its image "
                f"{width}×{height}, rotated upright by its EXIF orientation: scale the map, or use "
                "the image that was annotated"
            )
        return read_labels(content, picture)


def read_labels(content: bytes, picture: Image.Image) -> np.ndarray:
    """Return the labels of a map as they are in the file, uint8 (H, W).

    Pillow spreads greys of fewer than 8 bits over 0 to 255, as for a picture; mmseg takes these for
    labels.

    Args:
        content: bytes of the file.
        picture: what :func:`~.pictures.decode` made of them, of one of `LABEL_MODES`.
    """
    if picture.mode == "P":
        return np.asarray(picture)
    largest = 2 ** stored_bits(content, picture) - 1
    return np.asarray(picture.convert("L")) // np.uint8(255 // largest)


def class_of_label(info: dict) -> np.ndarray:
    """Return the class index of each label of 8 bits, uint8 (256,).

    Labels without a class have values that are no class index; ignored ones have `IGNORED`.

    Args:
        info: what a segmentation dataset says of an image.
    """
    classes: np.ndarray = np.arange(256, dtype=np.uint8)
    for old, new in (info["label_map"] or {}).items():
        classes[old] = new
    if info["reduce_zero_label"]:
        # labels 0 and 255 are ignored
        classes = np.array([IGNORED, *classes[:-2], IGNORED], dtype=np.uint8)
    return classes


def labels_without_class(labels: np.ndarray, classes: np.ndarray, num_classes: int) -> list[int]:
    """Return the labels of a label map that are neither ignored nor of a class.

    Args:
        labels: labels of the pixels.
        classes: class index of each label, of :func:`class_of_label`.
        num_classes: number of classes.
    """
    unknown = (classes >= num_classes) & (classes != IGNORED)
    return np.unique(labels[unknown[labels]]).tolist() if unknown[labels].any() else []


def _to_classes(labels: np.ndarray, results: dict) -> np.ndarray:
    """Convert the labels in a file to class indices."""
    classes = class_of_label(results)
    if found := labels_without_class(labels, classes, results["num_classes"]):
        raise ValueError(
            f"label map {results['seg_map_path']} has labels {found[:5]}, outside the "
            f"{results['num_classes']} classes: correct it, or set metainfo.classes of the data set"
        )
    return classes[labels]
