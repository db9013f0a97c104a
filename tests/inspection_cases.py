"""Images of noise and what damages them, for tests of the inspection of data sets."""

import struct
import zlib

import numpy as np
from PIL import Image

HEIGHT, WIDTH = 20, 30
# tag of EXIF
ORIENTATION = 0x0112


def noise(shape=(HEIGHT, WIDTH, 3), dtype=np.uint8):
    return np.random.default_rng(0).integers(0, 256, shape).astype(dtype)


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def rotate(path):
    picture = Image.fromarray(noise((WIDTH, HEIGHT, 3)))
    exif = picture.getexif()
    exif[ORIENTATION] = 6
    picture.save(path, exif=exif)


def write_png(path, width, bits, color, rows):
    """Write a PNG file of any depth, which Pillow cannot.

    Args:
        path: the file.
        width: in pixels.
        bits: bits of a channel.
        color: 0 for grey, 2 for colours.
        rows: packed pixels of each row.
    """

    def chunk(kind, data):
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", width, len(rows), bits, color, 0, 0, 0)
    body = b"".join(b"\0" + bytes(row) for row in rows)
    content = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(body)) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + content)
