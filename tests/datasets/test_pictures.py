"""Laws of image files: the host's pixels, 8 bits, upright; or one line that names the file."""

import multiprocessing
import struct
import zlib
from contextlib import suppress
from io import BytesIO
from mmap import mmap

import cv2
import mmcv
import numpy as np
import pytest
from mmcv.transforms import Compose
from mmengine.config import Config
from mmengine.registry import TRANSFORMS, DefaultScope
from PIL import Image

import hybrid_backbones.training  # noqa: F401
from hybrid_backbones.datasets import pictures
from hybrid_backbones.locformer.demo import read_picture
from hybrid_backbones.locformer.quickdraw import render_drawing

NOISE = np.random.default_rng(0).integers(0, 256, (7, 5, 3), dtype=np.uint8)
DEEP = np.random.default_rng(1).integers(0, 65536, (7, 5), dtype=np.uint16)
COLOUR = Image.fromarray(NOISE)
ALPHA = Image.fromarray(NOISE[..., 0])
ORIENTATION = 0x112


def with_alpha(picture):
    picture.putalpha(ALPHA)
    return picture


def turned(orientation):
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    return lambda path: COLOUR.save(path, exif=exif)


def png_of_size(width, height):
    """Return a file whose header says a size, and that has no pixels."""

    def chunk(name, content):
        return (
            struct.pack(">I", len(content))
            + name
            + content
            + struct.pack(">I", zlib.crc32(name + content))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b""))
        + chunk(b"IEND", b"")
    )


# name of the file: how it is made
KINDS = {
    "bits.png": lambda path: ALPHA.convert("1").save(path),
    "grey.jpg": lambda path: ALPHA.save(path),
    "grey_with_alpha.png": lambda path: with_alpha(COLOUR.convert("L")).save(path),
    "palette.png": lambda path: COLOUR.quantize(9).save(path),
    "clear_palette.png": lambda path: COLOUR.quantize(9).save(path, transparency=2),
    "half_clear_palette.png": lambda path: COLOUR.quantize(4).save(
        path, transparency=bytes((0, 99, 200, 255))
    ),
    "colour.png": lambda path: COLOUR.save(path),
    "colour_with_alpha.png": lambda path: with_alpha(COLOUR.copy()).save(path),
    "colour_16_bits.png": lambda path: cv2.imwrite(str(path), np.dstack([DEEP] * 3)),
    "print.jpg": lambda path: COLOUR.convert("CMYK").save(path),
    "print.tif": lambda path: COLOUR.convert("CMYK").save(path),
    "lab.tif": lambda path: COLOUR.convert("LAB").save(path),
    "animated.gif": lambda path: COLOUR.save(
        path, save_all=True, append_images=[Image.new("RGB", COLOUR.size)]
    ),
    **{f"turned_{n}.png": turned(n) for n in range(1, 9)},
}
DEEP_KINDS = {
    "deep.png": lambda path: cv2.imwrite(str(path), DEEP),
    "deep.tif": lambda path: cv2.imwrite(str(path), DEEP),
    "deep.pgm": lambda path: cv2.imwrite(str(path), DEEP),
}
# name of the file: how it is made, and what the one line says besides the name
REFUSED = {
    "float.tif": (
        lambda path: Image.fromarray(NOISE[..., 0].astype(np.float32)).save(path),
        "32-bit",
    ),
    "integers.tif": (
        lambda path: Image.fromarray(NOISE[..., 0].astype(np.int32)).save(path),
        "32-bit",
    ),
    "large.png": (
        lambda path: path.write_bytes(png_of_size(20000, 20000)),
        "400000000 pixels.*limit of 178956970.*scale it down",
    ),
    "tall.png": (lambda path: Image.new("RGB", (1, 5000)).save(path), "1×5000 pixels.*crop it"),
    "wide.png": (lambda path: Image.new("RGB", (5000, 1)).save(path), "5000×1 pixels.*crop it"),
    "cut.png": (
        lambda path: (COLOUR.save(path), path.write_bytes(path.read_bytes()[:90])),
        "truncated",
    ),
    "text.png": (lambda path: path.write_text("no image"), "not an image"),
    "empty.png": (lambda path: path.touch(), "not an image"),
    "folder.png": (lambda path: path.mkdir(), "cannot (be )?read"),
    "missing.png": (lambda path: None, "cannot (be )?read"),
}


def load(path, **known):
    return TRANSFORMS.build(dict(type="LoadImageStrict"))(dict(img_path=str(path), **known))["img"]


@pytest.mark.parametrize("name", KINDS)
def test_pixels_of_8_bits_are_the_hosts(tmp_path, name):
    KINDS[name](tmp_path / name)
    expected = mmcv.imread(str(tmp_path / name), backend="pillow")
    np.testing.assert_array_equal(load(tmp_path / name), expected)
    assert expected.any()


@pytest.mark.parametrize("name", DEEP_KINDS)
def test_16_bits_are_scaled_to_8(tmp_path, name):
    DEEP_KINDS[name](tmp_path / name)
    image = load(tmp_path / name)
    np.testing.assert_array_equal(image, np.dstack([DEEP // 256] * 3))
    np.testing.assert_array_equal(image, mmcv.imread(str(tmp_path / name), backend="cv2"))


def test_the_first_file_of_16_bits_is_logged_and_no_other(tmp_path, monkeypatch, logged):
    monkeypatch.setattr(pictures, "_was_logged", mmap(-1, 1))
    for name in ("a.png", "b.png"):
        cv2.imwrite(str(tmp_path / name), DEEP)
        load(tmp_path / name)
    (line,) = logged
    assert "a.png has 16 bits" in line


def test_a_file_of_16_bits_that_a_worker_has_logged_is_not_logged_again(
    tmp_path, monkeypatch, logged
):
    monkeypatch.setattr(pictures, "_was_logged", mmap(-1, 1))
    cv2.imwrite(str(tmp_path / "a.png"), DEEP)
    worker = multiprocessing.get_context("fork").Process(target=load, args=(tmp_path / "a.png",))
    worker.start()
    worker.join(60)
    assert worker.exitcode == 0
    load(tmp_path / "a.png")
    assert logged == []


@pytest.mark.parametrize("reader", [load, read_picture], ids=["image", "sketch"])
@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_decoded_right_is_refused_in_one_line(tmp_path, name, reader):
    make, says = REFUSED[name]
    make(tmp_path / name)
    with pytest.raises(ValueError, match=says) as refusal:
        reader(tmp_path / name)
    assert str(tmp_path / name) in str(refusal.value)
    assert "\n" not in str(refusal.value)


def content_of(form):
    if form == "QOI":  # which older versions of Pillow read, but do not write
        pixels = b"".join(b"\xfe" + pixel.tobytes() for pixel in NOISE.reshape(-1, 3))
        return b"qoif" + struct.pack(">IIBB", *COLOUR.size, 3, 0) + pixels + bytes(7) + b"\1"
    exif = Image.Exif()
    exif.update({ORIENTATION: 6, 0x11A: 72.0, 0x128: 2})
    stream = BytesIO()
    COLOUR.save(stream, form, exif=exif)
    return stream.getvalue()


@pytest.mark.parametrize("form", ["JPEG", "PNG", "TIFF", "GIF", "BMP", "PPM", "QOI"])
def test_a_file_with_a_damaged_byte_or_cut_there_is_decoded_or_named(form):
    whole = content_of(form)
    assert sorted(pictures.decode_picture(whole, "image").size) == [5, 7]
    for place in range(min(len(whole), 300)):
        damaged = (whole[:place] + bytes([byte]) + whole[place + 1 :] for byte in (0, 2, 255))
        for content in (*damaged, whole[:place]):
            with suppress(ValueError):
                assert pictures.decode_picture(content, "image").size


def test_an_image_of_another_size_than_annotated_is_named(tmp_path):
    turned(6)(tmp_path / "1.jpg")
    assert load(tmp_path / "1.jpg", width=7, height=5).shape == (5, 7, 3)
    with pytest.raises(ValueError, match=r"1\.jpg has 7×5.*EXIF.*annotation file says 5×7"):
        load(tmp_path / "1.jpg", width=5, height=7)
    with pytest.raises(ValueError, match=r"1\.jpg has 7×5 pixels, but.* says 640×480"):
        load(tmp_path / "1.jpg", width=640, height=480)


@pytest.mark.parametrize("size", [(1, 1), (1, 100), (100, 1)], ids=str)
@pytest.mark.parametrize(
    ("data", "scope"),
    [
        ("imagenet", "mmpretrain"),
        ("imagenet_strong", "mmpretrain"),
        ("coco_detection", "mmdet"),
        ("coco_instance_ms", "mmdet"),
        ("ade20k", "mmseg"),
        ("ade20k_aligned", "mmseg"),
    ],
)
def test_the_longest_strip_passes_through_every_pipeline(tmp_path, repository, data, scope, size):
    Image.new("RGB", size, "white").save(tmp_path / "1.png")
    cfg = Config.fromfile(repository / f"configs/_base_/datasets/{data}.py")
    steps = cfg.test_dataloader.dataset.pipeline
    with DefaultScope.overwrite_default_scope(scope):
        pipeline = Compose([step for step in steps if "Annotations" not in step["type"]])
        inputs = pipeline(dict(img_path=str(tmp_path / "1.png"), img_id=0))["inputs"]
    assert 0 < inputs.numel() < 10 * 1333 * 800


SKETCH = render_drawing([np.array([[20, 200, 200], [20, 20, 180]])])
INK = Image.fromarray(SKETCH)
PAPER = Image.fromarray(255 - SKETCH)


def on_clear_paper(mode):
    picture = Image.new(mode, PAPER.size, "black")
    picture.putalpha(INK)
    return picture


def turned_away(orientation, back):
    """Return how a sketch is saved that its EXIF orientation turns upright."""
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    return lambda path: PAPER.transpose(back).save(path, exif=exif)


@pytest.mark.parametrize(
    "make",
    [
        lambda path: PAPER.convert("1").save(path),
        lambda path: PAPER.save(path),
        lambda path: PAPER.quantize(2).save(path),
        lambda path: on_clear_paper("L").save(path),
        lambda path: on_clear_paper("RGB").save(path),
        lambda path: on_clear_paper("RGB").quantize(2).save(path),
        lambda path: PAPER.convert("CMYK").save(path, "TIFF"),
        lambda path: cv2.imwrite(str(path), np.asarray(PAPER).astype(np.uint16) * 257),
        # a thin sheet: dark strokes that saturation would make as white as the paper
        lambda path: cv2.imwrite(str(path), np.where(SKETCH > 0, 300, 65535).astype(np.uint16)),
        lambda path: PAPER.save(path, "GIF", save_all=True, append_images=[INK]),
        turned_away(3, Image.Transpose.ROTATE_180),
        turned_away(6, Image.Transpose.ROTATE_90),
        turned_away(8, Image.Transpose.ROTATE_270),
    ],
    ids=[
        *("bits", "grey", "palette", "grey_alpha", "alpha", "clear_palette", "print", "deep"),
        *("faint_deep", "animated", "upside_down", "turned_left", "turned_right"),
    ],
)
def test_a_sketch_is_the_same_in_whatever_file(tmp_path, make):
    make(tmp_path / "sketch.png")
    np.testing.assert_array_equal(read_picture(tmp_path / "sketch.png"), SKETCH)
