"""Image files as 8-bit pictures: what cannot be decoded right is an error that names the file."""

import logging
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO

import numpy as np
from mmengine.logging import print_log
from PIL import Image, ImageOps

# what Pillow raises for damaged files
DAMAGE = (OSError, SyntaxError, ValueError, RuntimeError, TypeError, struct.error)
# a longer strip is resized to gigabytes (short side to 256) or to nothing (long side to 1333)
MAX_ASPECT = 100
# the first file of 16 bits, which was logged
_scaled: list[str] = []


@contextmanager
def _naming(name: str) -> Iterator[None]:
    try:
        yield
    except Image.DecompressionBombError as error:
        raise ValueError(
            f"{name} is too large ({str(error).split(',')[0]}): scale it down or leave it out"
        ) from error
    except DAMAGE as error:
        raise ValueError(
            f"{name} is truncated or not an image ({error}): replace it or leave it out"
        ) from error


def decode(content: bytes, name: str) -> Image.Image:
    """Decode an image file with Pillow, as it is stored. An animation gives its first frame.

    Args:
        content: of the file.
        name: what errors call it, such as "image 1.png".

    Raises:
        ValueError: the file is damaged or not an image, or has more pixels than Pillow's limit,
            found in the header before any memory is allocated.
    """
    with _naming(name), Image.open(BytesIO(content)) as picture:
        picture.load()
    return picture


def decode_picture(content: bytes, name: str) -> Image.Image:
    """Decode an image file to 8 bits per channel, upright as its EXIF orientation says.

    Grey values of 16 bits are divided by 256, as Pillow and OpenCV do with 16-bit colours, and the
    log names the first such file.

    Args:
        content, name: see :func:`decode`.

    Raises:
        ValueError: :func:`decode` refuses the file, it has 32-bit pixels, or its sides differ by
            more than a factor of `MAX_ASPECT`.
    """
    picture = decode(content, name)
    with _naming(name):
        ImageOps.exif_transpose(picture, in_place=True)
    width, height = picture.size
    if max(picture.size) > MAX_ASPECT * min(picture.size):
        raise ValueError(
            f"{name} is a strip of {width}×{height} pixels: expected sides that differ by at most "
            f"a factor of {MAX_ASPECT}; crop it or leave it out"
        )
    # Pillow widens 16-bit PNM, and before version 10.3 16-bit PNG, to mode I
    if picture.mode.startswith("I;16") or (picture.mode == "I" and picture.format != "TIFF"):
        return _scale_down(picture, name)
    if picture.mode in ("I", "F"):
        raise ValueError(
            f"{name} has 32-bit pixels, whose range is unknown: convert it to 8 bits per channel"
        )
    return picture


def _scale_down(picture: Image.Image, name: str) -> Image.Image:
    if not _scaled:
        _scaled.append(name)
        print_log(
            f"{name} has 16 bits per pixel: such images are divided by 256 to 8 bits",
            logger="current",
            level=logging.WARNING,
        )
    return Image.fromarray((np.asarray(picture) >> 8).astype(np.uint8))
