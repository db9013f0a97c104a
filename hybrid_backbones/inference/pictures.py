"""Input images and output figures of the demos: names, sizes and formats."""

import logging
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import mmcv
import numpy as np
from mmengine.logging import print_log

from ..training.requirements import require_writable_file

ENDINGS = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")
# in pixels: smallest figure with readable text, and longest side before scaling down
MIN_WIDTH, MIN_HEIGHT, MAX_SIDE = 512, 64, 4096
MAX_LISTED = 5


def plan(image: str | Path, out: str | Path | None, *others: str | Path) -> dict[Path, Path]:
    """Map each input image to the path of its output figure.

    Args:
        image: image file, or folder whose files are all images.
        out: figure to write, or folder of figures if `image` is a folder; by default
            ``prediction.png`` or ``predictions``. Existing figures are overwritten.
        *others: further input files, which must not be overwritten.

    Raises:
        ValueError: if there is no image, two would have one figure, or `out` cannot be written.
    """
    image = Path(image)
    if out == "":
        raise ValueError(
            "--out has no name: expected an image to write, or a folder for a folder of images; "
            "without the flag, they are prediction.png and predictions"
        )
    if image.is_dir():
        out = Path(out or "predictions")
        images = sorted(path for path in image.iterdir() if path.is_file())
        if not images:
            raise ValueError(f"no file in the folder {image}: expected images")
        if out.suffix.lower() in ENDINGS:
            raise ValueError(f"{image} is a folder: expected a folder as --out, too, got {out}")
        if out.resolve() == image.resolve():
            raise ValueError(f"--out {out} is the folder of the images: choose another folder")
        # keep the suffix of the image, since two images may differ in nothing else
        outs = {
            path: out / (path.name if path.suffix == ".png" else f"{path.name}.png")
            for path in images
        }
        sources = {path: image for image, path in outs.items()}
        if twice := [path for path in images if sources[outs[path]] != path]:
            other = sources[outs[twice[0]]]
            raise ValueError(
                f"the figures of {twice[0]} and {other} would have one name, {outs[other]}: rename "
                "one of the images"
            )
    elif image.is_file():
        outs = {image: Path(out or "prediction.png")}
    else:
        raise ValueError(f"no image at {image}: expected an image or a folder of images")
    inputs = {Path(path).resolve() for path in (*outs, *others)}
    for path in outs.values():
        if path.suffix.lower() not in ENDINGS:
            raise ValueError(f"--out must end with one of {', '.join(ENDINGS)}, got {path}")
        if path.resolve() in inputs:
            raise ValueError(f"--out {path} would overwrite an input file: choose another file")
    require_writable_file(next(iter(outs.values())))
    return outs


def load_each(load: Callable[[dict], dict], images: Iterable[Path]) -> Iterator[tuple[Path, dict]]:
    """Load images one by one and skip files that are not images.

    Args:
        load: loading transform of a pipeline.
        images: image files.

    Yields:
        file, and item with its image as ``img``.

    Raises:
        ValueError: if none of the files can be loaded.
    """
    errors, num_loaded = {}, 0
    for image in images:
        try:
            item = load(dict(img_path=str(image), img_id=0))
        except ValueError as error:
            errors[image.name] = error
            continue
        num_loaded += 1
        yield image, item
    if errors and not num_loaded:
        raise next(iter(errors.values()))
    if errors:
        names = [*list(errors)[:MAX_LISTED], *["..."] * (len(errors) > MAX_LISTED)]
        print_log(
            f"skipped {len(errors)} files that cannot be loaded: {', '.join(names)}",
            level=logging.WARNING,
        )


def pixels_of(item: dict) -> np.ndarray:
    """Copy the BGR image of an item to RGB, uint8."""
    return item["img"][..., ::-1].clip(0, 255).astype(np.uint8)


def picture_size(height: int, width: int) -> tuple[int, int]:
    """Return the drawn size of an image: an integer multiple if small, reduced if too large."""
    factor: float = -(-MIN_WIDTH // width)
    if factor * max(height, width) > MAX_SIDE:
        factor = MAX_SIDE / max(height, width)
        factor = int(factor) if factor >= 1 else factor
    return max(round(factor * height), 1), max(round(factor * width), 1)


def resize(pixels: np.ndarray, size: tuple[int, int], fill: int) -> np.ndarray:
    """Resize an image or a mask, and pad bottom and right with `fill` to the smallest figure."""
    height, width = size
    shrinks = height * width < pixels.shape[0] * pixels.shape[1]
    method = "area" if shrinks and pixels.ndim == 3 else "nearest"
    padded = np.full(
        (max(height, MIN_HEIGHT), max(width, MIN_WIDTH), *pixels.shape[2:]), fill, pixels.dtype
    )
    padded[:height, :width] = mmcv.imresize(pixels, (width, height), interpolation=method)
    return padded


def write(pixels: np.ndarray, out: Path) -> None:
    """Write an RGB figure to a file with one of the suffixes `ENDINGS`."""
    mmcv.imwrite(pixels[..., ::-1], str(out))
    print_log(f"saved to {out}")
