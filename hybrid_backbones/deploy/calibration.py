"""Images of a folder, on which files in 8 bits are calibrated."""

from collections.abc import Sequence
from pathlib import Path

import mmcv
import torch
from torch import Tensor

from ..inference.pictures import ENDINGS
from .runtime import read_image

# number of images for calibration
MIN_IMAGES, MAX_IMAGES = 8, 128


def read_folder(folder: str | Path, size: int | Sequence[int] | None) -> list[Tensor]:
    """Read the images of a folder and its subfolders for calibration.

    Args:
        folder: folder of images.
        size: height and width to which the images are resized, or None for their own.

    Returns:
        batches of one image, (1, 3, H, W), RGB, uint8, in the order of their names.

    Raises:
        ValueError: if there is no such folder, it has fewer than `MIN_IMAGES` images, or one is
            damaged.
    """
    # the path of an empty name is the current folder
    if not str(folder) or not Path(folder).is_dir():
        raise ValueError(f"no folder {str(folder)!r}: expected one of images for calibration")
    paths = sorted(x for x in Path(folder).rglob("*") if x.suffix.lower() in ENDINGS)
    if len(paths) < MIN_IMAGES:
        raise ValueError(
            f"{len(paths)} images in {folder}: calibration needs at least {MIN_IMAGES}, such as "
            "images of the training set"
        )
    batches = []
    # evenly spread over the subfolders, which may be classes
    for path in paths[:: -(-len(paths) // MAX_IMAGES)]:
        pixels = read_image(path)
        if size is not None:
            height, width = (size, size) if isinstance(size, int) else size
            pixels = mmcv.imresize(pixels, (width, height))
        batches.append(torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None].contiguous())
    return batches
