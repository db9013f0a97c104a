"""Embedded mini set of textured shapes, drawn locally, so that nothing is downloaded.

One generator serves three tasks: scenes of overlapping shapes have COCO instance annotations and
ADE-style label maps; images of a single shape are sorted into class folders. Outline and hue
determine the class, so minutes of training suffice; texture, shade, size and rotation are random.
Each image has its own seed and all arithmetic is on integers, so pixels are equal on all machines.

Folders are named as in the real datasets, so a config only changes its root::

    coco/{train2017,val2017}/*.png           coco/annotations/instances_{train2017,val2017}.json
    ade/images/{training,validation}/*.png   ade/annotations/{training,validation}/*.png
    imagenet/{train,val}/<class>/*.png
"""

import json
import math
import os
import shutil
from contextlib import suppress
from pathlib import Path

import numpy as np
from numpy.random import PCG64, Generator
from PIL import Image
from pycocotools import mask as coco_mask

from .drafts import draft_of, drawing

# increase with every change of the drawings; a set of another version on disk is replaced
VERSION = "1"
MARKER = ".hybrid-backbones-mini"

# (COCO's folder, ADE20K's folder, number of scenes) and (ImageNet's folder, pictures per class)
SCENES = (("train2017", "training", 256), ("val2017", "validation", 48))
SINGLES = (("train", 160), ("val", 10))
# in pixels: image sizes (height, width), and (smallest, largest) sides of shapes
SCENE_SIZES = ((128, 128), (128, 128), (96, 128), (128, 96), (128, 160))
SCENE_SHAPES = (14, 80)
SINGLE_SIZE = (64, 64)
SINGLE_SHAPES = (44, 62)
MAX_SHAPES = 5
# percentage of a shape that later shapes may cover
MAX_HIDDEN = 35
NUM_TRIES = 20

# fixed-point numbers, rounded so that machines with different cosines agree
ONE = 4096
COS = [round(ONE * math.cos(math.radians(angle))) for angle in range(360)]
SIN = [COS[angle - 90] for angle in range(360)]
# outlines are sampled at SUB × SUB points per pixel, for anti-aliased edges
SUB = 4


def _rotate(y: np.ndarray, x: np.ndarray, angle: int) -> tuple[np.ndarray, np.ndarray]:
    return (y * COS[angle] - x * SIN[angle]) // ONE, (y * SIN[angle] + x * COS[angle]) // ONE


def _star(y: np.ndarray, x: np.ndarray) -> np.ndarray:
    # a point is in a pentagram if it is on the inner side of at least four of its five lines
    inner = [y * COS[angle] + x * SIN[angle] < 309 * ONE for angle in range(0, 360, 72)]
    return np.sum(inner, axis=0) >= 4


# tests whether a point is inside; coordinates are thousandths of the circumscribed circle's radius.
# The order is alphabetical, so that class folders sorted by name give the same labels
OUTLINES = {
    "cross": lambda y, x: (np.minimum(abs(y), abs(x)) < 300) & (np.maximum(abs(y), abs(x)) < 950),
    "disc": lambda y, x: y**2 + x**2 < 900**2,
    "ring": lambda y, x: (y**2 + x**2 > 500**2) & (y**2 + x**2 < 960**2),
    "square": lambda y, x: np.maximum(abs(y), abs(x)) < 707,
    "star": _star,
    "triangle": lambda y, x: (y < 500) & (1732 * abs(x) - 1000 * y < 1000**2),
}
CLASSES = tuple(OUTLINES)
HUES = ((1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 1, 0), (1, 0, 1), (0, 1, 1))  # bright channels
# the background first, for segmentation; detection and classification use PALETTE[1:]
PALETTE = (
    (120, 120, 120),
    (230, 25, 75),
    (60, 180, 75),
    (0, 130, 200),
    (255, 225, 25),
    (145, 30, 180),
    (245, 130, 48),
)


def _clouds(rng: Generator, y: np.ndarray, x: np.ndarray, width: int) -> np.ndarray:
    # bilinear interpolation between random values
    row, down = np.divmod(y - y.min(), 2 * width)
    column, right = np.divmod(x - x.min(), 2 * width)
    knots = rng.integers(256, size=(row.max() + 2, column.max() + 2))
    upper = knots[row, column] * (2 * width - right) + knots[row, column + 1] * right
    lower = knots[row + 1, column] * (2 * width - right) + knots[row + 1, column + 1] * right
    return (upper * (2 * width - down) + lower * down) // (4 * width**2)


# share of the first of two colours, 0 to 255; coordinates and width are in the same unit
TEXTURES = (
    lambda rng, y, x, width: y // width % 2 * 255,  # stripes
    lambda rng, y, x, width: (y // width + x // width) % 2 * 255,  # checks
    lambda rng, y, x, width: (  # dots
        ((y % (2 * width) - width) ** 2 + (x % (2 * width) - width) ** 2 < width**2 // 2) * 255
    ),
    lambda rng, y, x, width: (y - y.min()) * 255 // (y.max() - y.min()),  # a gradient
    _clouds,
)


def _muted_colours(rng: Generator) -> np.ndarray:
    """Return two similar greyish RGB colours, (2, 3)."""
    base = rng.integers(70, 170) + rng.integers(-12, 13, size=3)
    return np.stack([base + 9, base - 9])


def _vivid_colours(rng: Generator, label: int) -> np.ndarray:
    """Return two shades of a saturated RGB colour with the hue of the class, (2, 3)."""
    bright, dark = rng.integers([[180], [0]], [[256], [90]], size=(2, 3))
    colour = np.where(HUES[label], bright, dark)
    return np.stack([colour, colour * rng.integers(70, 88) // 100])


def _paint(rng: Generator, height: int, width: int, colours: np.ndarray) -> np.ndarray:
    """Return a random texture of two RGB colours, (height, width, 3)."""
    # coordinates in sixteenths of a pixel
    y, x = _rotate(16 * np.arange(height)[:, None], 16 * np.arange(width), int(rng.integers(360)))
    texture = TEXTURES[rng.integers(len(TEXTURES))]
    share = texture(rng, y, x, 16 * int(rng.integers(3, 8)))[..., None]
    return (colours[0] * share + colours[1] * (255 - share)) // 255


def _cover(rng: Generator, name: str, size: int) -> np.ndarray:
    """Return the number of sample points per pixel in a randomly rotated shape, (size, size)."""
    points = np.arange(1 - size * SUB, size * SUB, 2) * 1000 // (size * SUB)
    inside = OUTLINES[name](*_rotate(points[:, None], points, int(rng.integers(360))))
    return inside.reshape(size, SUB, size, SUB).sum(axis=(1, 3))


def _find_place(
    rng: Generator, owner: np.ndarray, areas: list[int], solid: np.ndarray
) -> tuple[slice, slice] | None:
    """Return a random window for a new shape that hides no other too much, or None."""
    (height, width), size = owner.shape, len(solid)
    visible = np.bincount(owner.ravel(), minlength=len(areas))
    for _ in range(NUM_TRIES):
        top, left = rng.integers([height - size + 1, width - size + 1])
        window = slice(top, top + size), slice(left, left + size)
        remaining = visible - np.bincount(owner[window][solid], minlength=len(areas))
        if np.all(100 * remaining >= (100 - MAX_HIDDEN) * np.array(areas)):
            return window
    return None


def draw_scene(
    rng: Generator, height: int, width: int, labels: list[int], *, shapes: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray, list[int]]:
    """Draw one shape per label, each on top of the previous ones, on a textured background.

    A shape that would hide too much of another one is skipped.

    Args:
        labels: class indices into `CLASSES`.
        shapes: smallest and largest side of a shape in pixels; small ones are more frequent.

    Returns:
        image: uint8 RGB (height, width, 3).
        masks: visible part of each shape, bool (N, height, width).
        labels: labels of these N shapes.
    """
    image = _paint(rng, height, width, _muted_colours(rng))
    owner = np.zeros((height, width), dtype=np.int64)  # number of the topmost shape, from 1
    areas, placed = [0], []  # area 0 for the background, which may be hidden completely
    for label in labels:
        size = rng.integers(shapes[0], shapes[1] + 1, size=2).min()
        fill = _paint(rng, size, size, _vivid_colours(rng, label))
        cover = _cover(rng, CLASSES[label], size)
        solid = 2 * cover >= SUB**2
        window = _find_place(rng, owner, areas, solid)
        if window is None:
            continue
        placed.append(label)
        areas.append(solid.sum())
        owner[window][solid] = len(placed)
        image[window] += (fill - image[window]) * cover[..., None] // SUB**2
    masks = owner == np.arange(1, len(placed) + 1)[:, None, None]
    return image.astype(np.uint8), masks, placed


def _annotation(mask: np.ndarray, label: int) -> dict:
    """Return a mask's COCO annotation; run lengths can encode holes and separate pieces."""
    encoded = coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8))
    return {
        "category_id": label + 1,
        "bbox": coco_mask.toBbox(encoded).tolist(),
        "area": int(coco_mask.area(encoded)),
        "segmentation": {"size": encoded["size"], "counts": encoded["counts"].decode()},
        "iscrowd": 0,
    }


def _write_png(path: Path, image: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path)


def _write_scenes(root: Path, seed: int, coco: str, ade: str, num_scenes: int) -> None:
    images, annotations = list[dict](), list[dict]()
    for image_id in range(1, num_scenes + 1):
        rng = Generator(PCG64([seed, image_id]))
        height, width = SCENE_SIZES[rng.integers(len(SCENE_SIZES))]
        labels = rng.integers(len(CLASSES), size=rng.integers(1, MAX_SHAPES + 1)).tolist()
        image, masks, labels = draw_scene(rng, height, width, labels, shapes=SCENE_SHAPES)
        # ADE20K's labels: 0 is unlabelled (unused here), 1 the background, then the shapes
        label_map = 1 + np.einsum("nhw,n->hw", masks, np.array(labels, dtype=np.uint8) + 1)

        name = f"{image_id:012d}.png"
        _write_png(root / "coco" / coco / name, image)
        _write_png(root / "ade/images" / ade / name, image)
        _write_png(root / "ade/annotations" / ade / name, label_map)
        images.append({"id": image_id, "file_name": name, "height": height, "width": width})
        for mask, label in zip(masks, labels, strict=True):
            ids = {"id": len(annotations) + 1, "image_id": image_id}
            annotations.append(ids | _annotation(mask, label))

    contents = {
        "info": {"description": "mini set of hybrid_backbones", "version": VERSION},
        "licenses": [],
        "categories": [{"id": i, "name": name} for i, name in enumerate(CLASSES, start=1)],
        "images": images,
        "annotations": annotations,
    }
    folder = root / "coco/annotations"
    folder.mkdir(exist_ok=True)
    (folder / f"instances_{coco}.json").write_text(json.dumps(contents))


def _write_singles(root: Path, seed: int, folder: str, num_per_class: int) -> None:
    for index in range(num_per_class * len(CLASSES)):
        rng = Generator(PCG64([seed, index]))
        label = index % len(CLASSES)
        image, _, _ = draw_scene(rng, *SINGLE_SIZE, [label], shapes=SINGLE_SHAPES)
        _write_png(root / "imagenet" / folder / CLASSES[label] / f"{index:04d}.png", image)


def _find_version(root: Path) -> str | None:
    """Return the version of the set in a folder, or None if the folder is missing or empty."""
    try:
        names = os.listdir(root)
        if MARKER in names:
            return (root / MARKER).read_text()
    except FileNotFoundError:  # also if another process is moving an older set away
        return None
    except NotADirectoryError:
        names = ["a file"]
    if not names:
        return None
    raise ValueError(
        f"cannot draw the mini set into {root}: expected a new or empty folder, found "
        f"{', '.join(sorted(names)[:5])}. Choose another folder or empty this one yourself."
    )


def _publish(draft: Path, root: Path) -> None:
    """Move a complete set to its place, unless another process was faster."""
    try:
        if _find_version(root) not in (None, VERSION):
            # another process may move the older set away at the same time
            with suppress(FileNotFoundError):
                root.rename(draft.with_name("retired"))
        draft.rename(root)  # atomic; fails if `root` contains files
    except OSError:
        if _find_version(root) != VERSION:
            raise


def draw_mini(root: str | Path) -> Path:
    """Draw the mini set into a folder, unless it exists there, and return the folder.

    The complete set appears atomically, so several processes may call this at the same time. A set
    of another version is replaced.

    Raises:
        ValueError: if the folder contains anything but a mini set; it stays unchanged.
    """
    root = Path(root).resolve()
    if _find_version(root) == VERSION:
        return root
    root.parent.mkdir(parents=True, exist_ok=True)
    with drawing(root.parent, root.name):
        draft = draft_of(root) / "draft"
        try:
            for seed, scenes in enumerate(SCENES):
                _write_scenes(draft, seed, *scenes)
            for seed, singles in enumerate(SINGLES, start=len(SCENES)):
                _write_singles(draft, seed, *singles)
            (draft / MARKER).write_text(VERSION)
            _publish(draft, root)
        finally:
            shutil.rmtree(draft.parent, ignore_errors=True)
    return root
