"""Pictures that users upload, decoded as the tools do, and the field of the page for them."""

from abc import ABCMeta
from pathlib import Path
from typing import Any, NamedTuple

import gradio as gr
import mmcv
import numpy as np
from gradio.component_meta import ComponentMeta
from PIL import Image

from ..datasets.pictures import decode_picture, to_rgb
from ..mini.shapes import draw_mini

# longest side in pixels; larger pictures are scaled down
MAX_SIDE = 1600
# pictures of the mini set to begin with: scenes, and single shapes of two classes
SCENES, SHAPES = ("02", "10", "13", "18"), ("ring", "star")


class Picture(NamedTuple):
    """An uploaded picture, upright and not larger than `MAX_SIDE`."""

    pixels: np.ndarray  # (H, W, 3), RGB, uint8
    note: str  # says that it was scaled down, or is empty

    def item(self) -> dict[str, Any]:
        """Return what the first step of a test pipeline would return, with BGR pixels."""
        size = self.pixels.shape[:2]
        bgr = np.ascontiguousarray(self.pixels[..., ::-1])
        return dict(img=bgr, img_path="upload", img_id=0, img_shape=size, ori_shape=size)


def read_upload(path: str | Path | None) -> Picture:
    """Read an uploaded file.

    Raises:
        ValueError: if there is none, or it is no picture; the message is one sentence.
    """
    if not path:
        raise ValueError("Choose a picture first: upload one, or click on a sample.")
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise ValueError("The picture is no longer here: upload it again.") from error
    if not content:
        raise ValueError("The picture is an empty file: choose another.")
    pixels = to_rgb(_decode(content))
    height, width = pixels.shape[:2]
    scale = min(MAX_SIDE / max(height, width), 1.0)
    if scale == 1.0:
        return Picture(np.ascontiguousarray(pixels), "")
    small = max(round(scale * width), 1), max(round(scale * height), 1)
    note = f"Scaled down from {width}×{height} to {small[0]}×{small[1]} pixels."
    return Picture(mmcv.imresize(pixels, small, interpolation="area"), note)


def _decode(content: bytes) -> Image.Image:
    try:
        return decode_picture(content, "the picture")
    except ValueError as error:
        if isinstance(error.__cause__, Image.UnidentifiedImageError):
            raise ValueError("This file is no picture that can be read: choose another.") from error
        raise


class NoStub(ComponentMeta):
    """Metaclass of components that, unlike Gradio's, writes no stub file into the package."""

    def __new__(mcs, name: str, bases: tuple[type, ...], namespace: dict[str, Any]) -> type:
        """Make the class, which inherits its events."""
        return ABCMeta.__new__(mcs, name, bases, namespace)


class Upload(gr.Image, metaclass=NoStub):
    """Gradio's field for a picture, which hands over the file as it was uploaded."""

    # the browser draws it as its base class
    is_template = True

    def preprocess(self, payload: Any) -> str | None:
        """Return the path of the upload; Gradio's would decode it, and not name what is wrong."""
        return None if payload is None else payload.path

    async def async_move_resource_to_block_cache(
        self, url_or_file_path: str | Path | None
    ) -> str | None:
        """Keep a file; an address, from which Gradio would download, is refused."""
        if "://" in str(url_or_file_path):
            raise gr.Error("Only files can be uploaded, no addresses.", print_exception=False)
        return await super().async_move_resource_to_block_cache(url_or_file_path)


def sample_pictures() -> list[Path]:
    """Return pictures of the mini set, which is drawn if it does not exist."""
    root = draw_mini("data/mini")
    scenes = [root / f"coco/val2017/{number:0>12}.png" for number in SCENES]
    return scenes + [min((root / "imagenet/val" / name).iterdir()) for name in SHAPES]


def picture_field(label: str, name: str, height: int | None = None) -> Upload:
    """Lay out a field for a picture, with samples of the mini set below it.

    Handlers get the path of the file as it was uploaded, for :func:`read_upload`.

    Args:
        label: title of the field.
        name: name of the field in the page's code.
        height: height in pixels; None enlarges small pictures.
    """
    field = Upload(
        label=label,
        sources=["upload", "clipboard"],
        height=height,
        elem_id=name,
        elem_classes=[] if height else "hb-image",
    )
    gr.Examples(
        [[str(path)] for path in sample_pictures()],
        inputs=field,
        label="Samples",
        cache_examples=False,
        api_visibility="private",
        elem_id=f"{name}-samples",
    )
    return field


def result_field(label: str, name: str) -> gr.Image:
    """Lay out a picture that the page draws, which can be enlarged and saved.

    Args:
        label: title, which is not shown, as it would cover the picture.
        name: name of the field in the page's code.
    """
    return gr.Image(
        label=label,
        show_label=False,
        interactive=False,
        format="png",
        # not Gradio's third one, which uploads it to a public page
        buttons=["fullscreen", "download"],
        elem_id=name,
    )
