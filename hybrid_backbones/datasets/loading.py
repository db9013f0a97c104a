"""Image loading whose errors name the faulty file.

The hosts' inferencers and tools look in a config for the name or the class of mmcv's
`LoadImageFromFile`, and then replace, drop or keep this step. So configs name that transform and
choose the strict loading of this module as its decoder, `imdecode_backend="strict"`.
"""

import numpy as np
from mmcv.transforms import BaseTransform, LoadImageFromFile
from mmengine import fileio
from mmengine.registry import TRANSFORMS

from .pictures import decode_picture, to_rgb

# value of `imdecode_backend`
STRICT = "strict"


@TRANSFORMS.register_module()
class LoadImageStrict(BaseTransform):
    """Transform that loads an image as mmcv does with Pillow, which refuses truncated files.

    OpenCV would fill the missing part of a truncated file with grey. Both rotate images upright by
    their EXIF orientation, so annotations must refer to the upright image.

    Args:
        backend_args: arguments of mmengine's file backend.

    Raises:
        ValueError: names a file that is missing, that :func:`~.pictures.decode_picture` refuses, or
            whose size differs from the annotations.
    """

    def __init__(self, backend_args: dict | None = None):
        self.backend_args = backend_args

    def transform(self, results: dict) -> dict:
        """Add ``img``, uint8 (H, W, 3) in BGR, ``img_shape`` and ``ori_shape``."""
        path = results["img_path"]
        try:
            content = fileio.get(path, backend_args=self.backend_args)
        except OSError as error:
            raise ValueError(
                f"image {path} cannot be read ({error}): complete the data set or leave it out"
            ) from error
        image = to_rgb(decode_picture(content, f"image {path}"))[..., ::-1]
        height, width = image.shape[:2]
        stated = results.get("width", width), results.get("height", height)
        if stated != (width, height):
            turned = ", upright as its EXIF orientation says" if stated == (height, width) else ""
            raise ValueError(
                f"image {path} has {width}×{height} pixels{turned}, but the annotation file says "
                f"{stated[0]}×{stated[1]}: correct it, or use the image that was annotated"
            )
        results["img"] = image
        results["img_shape"] = results["ori_shape"] = image.shape[:2]
        return results


_load_by_mmcv = LoadImageFromFile.transform


def load_image(self: LoadImageFromFile, results: dict) -> dict | None:
    """Load an image as mmcv's transform does, or with the strict decoder by `LoadImageStrict`.

    Raises:
        ValueError: if `LoadImageStrict` raises it, or settings do not fit the strict decoder.
    """
    if self.imdecode_backend != STRICT:
        return _load_by_mmcv(self, results)
    if self.color_type != "color" or self.ignore_empty or self.file_client_args:
        raise ValueError(
            "LoadImageFromFile with imdecode_backend='strict' takes to_float32 and backend_args "
            "only: leave out color_type, ignore_empty and file_client_args, or choose another "
            "decoder"
        )
    results = LoadImageStrict(self.backend_args).transform(results)
    if self.to_float32:
        results["img"] = results["img"].astype(np.float32)
    return results


# a subclass would not do: the hosts compare classes, and mmpretrain registers mmcv's once more
LoadImageFromFile.transform = load_image
