"""Decoding of image files to 8 bits, with errors that name the faulty file."""

import logging
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from mmap import mmap

import numpy as np
from PIL import ExifTags, Image, ImageOps, TiffImagePlugin, UnidentifiedImageError

# what Pillow raises for damaged files
DAMAGE = (
    *(OSError, SyntaxError, ValueError, RuntimeError, TypeError, AttributeError, LookupError),
    *(EOFError, struct.error),
)
# a more elongated image would be resized to gigabytes (short side 256) or nothing (long side 1333)
MAX_ASPECT = 100
# label of the pixels that are ignored in label maps
IGNORED = 255
# 1 when a 16-bit file has been logged; shared with the workers, which are forked anew each epoch
_was_logged = mmap(-1, 1)


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
            f"{name} is truncated or not an image ({reason_of(error)}): replace it or leave it out"
        ) from error


def reason_of(error: BaseException) -> str:
    """Return why Pillow could not decode a file."""
    # whose message has an address in memory instead of a name
    is_unknown = isinstance(error, UnidentifiedImageError)
    return "in no format that Pillow reads" if is_unknown else str(error)


def decode(content: bytes, name: str) -> Image.Image:
    """Decode an image file with Pillow, as it is stored; of an animation, the first frame.

    Args:
        content: bytes of the file.
        name: name of the file in error messages, such as "image 1.png".

    Raises:
        ValueError: if the file is damaged or not an image, or its header states more pixels than
            Pillow's limit (checked before any memory is allocated).
    """
    with _naming(name), Image.open(BytesIO(content)) as picture:
        picture.load()
    return picture


def decode_picture(content: bytes, name: str) -> Image.Image:
    """Decode an image file to 8 bits per channel, rotated upright by its EXIF orientation.

    16-bit grey values are divided by 256, as Pillow and OpenCV do for 16-bit colours; the first
    such file of a run is logged.

    Args:
        content, name: see :func:`decode`.

    Raises:
        ValueError: if :func:`decode` refuses the file, it has 32-bit pixels, or its sides differ by
            more than a factor of `MAX_ASPECT`.
    """
    picture = turn_upright(decode(content, name), name)
    return _scale_down(picture, name) if has_16_bits(picture) else picture


def is_rotated(picture: Image.Image, name: str) -> bool:
    """Return whether the EXIF data of a picture say that it is stored rotated or mirrored.

    Raises:
        ValueError: if the EXIF data are damaged, as :func:`decode_picture` does.
    """
    with _naming(name):
        return picture.getexif().get(ExifTags.Base.Orientation, 1) in range(2, 9)


def has_16_bits(picture: Image.Image) -> bool:
    """Return whether a picture has one channel of 16 bits."""
    # Pillow widens 16-bit PNM, and before version 10.3 16-bit PNG, to mode I
    return picture.mode.startswith("I;16") or (picture.mode == "I" and picture.format != "TIFF")


def stored_bits(content: bytes, picture: Image.Image) -> int:
    """Return the bits of a channel in a file, which Pillow widens or narrows to 8.

    Args:
        content: bytes of the file.
        picture: what :func:`decode` made of them.
    """
    if picture.mode == "1":
        return 1
    if picture.format == "PNG":
        # the depth is in the header
        return content[24]
    # only TIFF has tags
    return max(getattr(picture, "tag_v2", {}).get(TiffImagePlugin.BITSPERSAMPLE, (8,)))


def turn_upright(picture: Image.Image, name: str) -> Image.Image:
    """Rotate a picture upright by its EXIF orientation, and check its shape and depth.

    Raises:
        ValueError: for 32-bit pixels and strips, as :func:`decode_picture` does.
    """
    with _naming(name):
        ImageOps.exif_transpose(picture, in_place=True)
    width, height = picture.size
    if max(picture.size) > MAX_ASPECT * min(picture.size):
        raise ValueError(
            f"{name} is a strip of {width}×{height} pixels: expected sides that differ by at most "
            f"a factor of {MAX_ASPECT}; crop it or leave it out"
        )
    if picture.mode in ("I", "F") and not has_16_bits(picture):
        raise ValueError(
            f"{name} has 32-bit pixels, whose range is unknown: convert it to 8 bits per channel"
        )
    return picture


def _scale_down(picture: Image.Image, name: str) -> Image.Image:
    if not _was_logged[0]:
        _was_logged[0] = 1
        _warn(f"{name} has 16 bits per pixel: values of such images are divided by 256, to 8 bits")
    return Image.fromarray((np.asarray(picture) >> 8).astype(np.uint8))


def _warn(message: str) -> None:
    """Log a warning by the logger of mmengine, which exported files run without."""
    try:
        from mmengine.logging import print_log
    except ImportError:
        logging.getLogger(__name__).warning(message)
        return
    print_log(message, logger="current", level=logging.WARNING)


def to_rgb(picture: Image.Image) -> np.ndarray:
    """Return RGB pixels as mmcv does: without alpha, but grey with alpha on its own grey."""
    if picture.mode == "LA":
        paper = Image.new("RGB", picture.size, (124, 117, 104))
        paper.paste(picture.convert("RGBA"), mask=picture.getchannel("A"))
        picture = paper
    return np.asarray(picture.convert("RGB"))
