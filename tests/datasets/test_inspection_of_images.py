"""Laws of the inspection of image files: each planted fault is found, no other."""

import struct

import cv2
import numpy as np
import pytest
from inspection_cases import HEIGHT, ORIENTATION, WIDTH, cut, noise, rotate, write_png
from PIL import Image

from hybrid_backbones.datasets.inspection import images
from hybrid_backbones.datasets.inspection.images import inspect_image

pytestmark = pytest.mark.upstream


def damage_exif(path):
    """Save with EXIF data that Pillow cannot read; of a JPEG file it would ignore them."""
    Image.fromarray(noise()).save(path, exif=b"Exif\0\0damaged")


# name: what is done to the file of an image, and the kind of problem that it is
FILES = {
    "missing": (lambda path: path.unlink(), images.MISSING),
    "cut": (cut, images.UNREADABLE),
    "text": (lambda path: path.write_text("no image"), images.UNREADABLE),
    "folder": (lambda path: (path.unlink(), path.mkdir()), images.UNOPENED),
    "rotated": (rotate, images.ROTATED),
    "damaged EXIF": (damage_exif, images.UNREADABLE),
    "16 bits of grey": (
        lambda path: Image.fromarray(noise((HEIGHT, WIDTH), np.uint16)).save(path),
        images.DEEP,
    ),
    "16 bits of colours": (
        lambda path: write_png(path, WIDTH, 16, 2, [bytes(6 * WIDTH)] * HEIGHT),
        images.DEEP,
    ),
    "32 bits": (
        lambda path: Image.fromarray(noise((HEIGHT, WIDTH), np.float32)).save(path, "TIFF"),
        images.REFUSED,
    ),
    "strip": (
        lambda path: Image.fromarray(noise((1, 1000, 3))).save(path),
        images.REFUSED,
    ),
    "another size": (lambda path: Image.fromarray(noise((9, 9, 3))).save(path), images.RESIZED),
}


@pytest.mark.parametrize("name", FILES)
def test_a_faulty_image_is_found_and_named(tmp_path, name):
    damage, kind = FILES[name]
    path = tmp_path / "2.png"
    Image.fromarray(noise()).save(path)
    assert not inspect_image(path, (WIDTH, HEIGHT)).problems
    damage(path)
    ((found, example),) = inspect_image(path, (WIDTH, HEIGHT)).problems
    assert found == kind
    assert str(path) in example


def test_a_picture_that_cannot_be_turned_is_named_with_the_reason(tmp_path):
    picture = Image.fromarray(noise())
    exif = picture.getexif()
    # a number where the name of the software is text
    exif.update({ORIENTATION: 6, 0x0131: "name"})
    data = exif.tobytes().replace(
        struct.pack(">HHI", 0x0131, 2, 5), struct.pack(">HHI", 0x0131, 11, 1)
    )
    picture.save(tmp_path / "2.png", exif=data)
    kinds = [kind for kind, _ in inspect_image(tmp_path / "2.png").problems]
    assert kinds == [images.ROTATED, images.UNREADABLE]


def test_the_reason_of_an_unknown_format_has_no_address_in_memory(tmp_path):
    (tmp_path / "2.png").write_text("no image")
    (problem,) = inspect_image(tmp_path / "2.png").problems
    assert problem[1] == f"{tmp_path / '2.png'} (in no format that Pillow reads)"


def test_a_tiff_of_16_bit_colours_is_deep(tmp_path):
    cv2.imwrite(str(tmp_path / "deep.tif"), noise(dtype=np.uint16))
    report = inspect_image(tmp_path / "deep.tif")
    assert report.problems == [(images.DEEP, str(tmp_path / "deep.tif"))]
    assert report.size == (WIDTH, HEIGHT)


def test_a_file_that_is_missing_has_no_size(tmp_path):
    report = inspect_image(tmp_path / "none.png")
    assert report.problems == [(images.MISSING, str(tmp_path / "none.png"))]
    assert report.size is None
