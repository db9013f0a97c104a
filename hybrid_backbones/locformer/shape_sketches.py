"""Sketches of the mini set's shapes: their outlines, drawn by an unsteady hand.

The files are QuickDraw's simplified drawings, one per class, beside the pictures of the mini set::

    sketches/ndjson/<class>.ndjson

As people do, the hand draws a shape upright: only the mini set's pictures are turned. Every drawing
has its own seed and all arithmetic is on integers: every machine draws the same lines.
"""

import json
import os
import uuid
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.random import PCG64, Generator

from ..mini.shapes import CLASSES, COS, ONE, SIN

# raise it with every change of what is drawn: files of another version are then replaced
VERSION = "1"
MARKER = ".hybrid-backbones-sketches"
NUM_DRAWINGS = 120

# thousandths of the radius of a circle around the shape, as in shapes.OUTLINES
STEP = 120  # from point to point
WOBBLE = 35  # largest displacement of a point
LEAN = 12  # largest turn of the whole, in degrees
SQUEEZE = 15  # largest loss of height or width, in percent
OVERSHOOT = 3  # largest number of points that the end of a line runs past its start


def _circle(radius: int) -> list[tuple[int, int]]:
    return [(radius * COS[a] // ONE, radius * SIN[a] // ONE) for a in range(0, 360, 10)]


def _star() -> list[tuple[int, int]]:
    # tips lie on the circle; the inner corners where the pentagram's lines cross
    radii = [1000, 382] * 5
    angles = range(270, 630, 36)
    return [
        (r * COS[a % 360] // ONE, r * SIN[a % 360] // ONE)
        for r, a in zip(radii, angles, strict=True)
    ]


def _mirrored(quarter: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Turn the corners (x, y) of a quarter three times by a right angle."""
    corners = []
    for _ in range(4):
        corners += quarter
        quarter = [(-y, x) for x, y in quarter]
    return corners


# corners (x, y) of each closed line of a shape; y points downwards
CONTOURS = {
    "cross": [_mirrored([(300, -300), (950, -300), (950, 300)])],
    "disc": [_circle(900)],
    "ring": [_circle(960), _circle(500)],
    "square": [_mirrored([(707, -707)])],
    "star": [_star()],
    "triangle": [[(0, -1000), (866, 500), (-866, 500)]],
}


def _walk(rng: Generator, corners: list[tuple[int, int]]) -> np.ndarray:
    """Go once around a closed line from a random corner, and a little further; (2, N)."""
    start = rng.integers(len(corners))
    corners = np.array(corners[start:] + corners[:start] + corners[start : start + 1])
    points = []
    for a, b in pairwise(corners):
        steps = max(int(abs(b - a).max()) // STEP, 1)
        points += [a + (b - a) * i // steps for i in range(steps)]
    points += points[: 1 + rng.integers(OVERSHOOT + 1)]
    return np.array(points).T


def _wobble(rng: Generator, points: np.ndarray) -> np.ndarray:
    """Displace points so that neighbours move alike, as a hand does; (2, N)."""
    noise = rng.integers(-WOBBLE, WOBBLE + 1, size=(2, points.shape[1] + 2))
    return points + (noise[:, :-2] + noise[:, 1:-1] + noise[:, 2:]) // 2


def draw_sketch(rng: Generator, name: str) -> list[list[list[int]]]:
    """Draw a shape as QuickDraw simplifies it: strokes [[x, ...], [y, ...]] from 0 to 255.

    Args:
        name: one of `shapes.CLASSES`.
    """
    angle = int(rng.integers(-LEAN, LEAN + 1)) % 360
    squeeze = rng.integers(100 - SQUEEZE, 101, size=(2, 1))
    strokes = []
    for corners in CONTOURS[name]:
        x, y = _wobble(rng, _walk(rng, corners)) * squeeze // 100
        turned = np.stack([x * COS[angle] - y * SIN[angle], x * SIN[angle] + y * COS[angle]])
        # a hand that lifts the pen goes on where it stopped
        cut = int(rng.integers(1, turned.shape[1] - 1))
        strokes += [turned[:, : cut + 1], turned[:, cut:]] if rng.integers(3) == 0 else [turned]
    points = np.concatenate(strokes, axis=1)
    low = points.min(axis=1, keepdims=True)
    extent = (points - low).max()
    return [((stroke - low) * 255 // extent).tolist() for stroke in strokes]


def draw_shape_sketches(root: str | Path) -> Path:
    """Draw the sketches of all shapes into a mini set, unless they are there already.

    Each file appears at once and always with the same content, so processes that want the sketches
    at the same time may all call this.

    Args:
        root: folder of the mini set.

    Returns:
        the folder of the sketches.
    """
    folder = Path(root).resolve() / "sketches"
    marker = folder / MARKER
    if marker.is_file() and marker.read_text() == VERSION:
        return folder
    (folder / "ndjson").mkdir(parents=True, exist_ok=True)
    for label, name in enumerate(CLASSES):
        lines = [_line(label, index) for index in range(NUM_DRAWINGS)]
        _write(folder / "ndjson" / f"{name}.ndjson", "".join(lines))
    _write(marker, VERSION)
    return folder


def _line(label: int, index: int) -> str:
    drawing = dict(
        word=CLASSES[label],
        recognized=True,
        key_id=f"{label}{index:04d}",
        drawing=draw_sketch(Generator(PCG64([label, index])), CLASSES[label]),
    )
    return json.dumps(drawing, separators=(",", ":")) + "\n"


def _write(path: Path, text: str) -> None:
    draft = path.with_name(f".{path.name}-{uuid.uuid4().hex}")
    draft.write_text(text)
    os.replace(draft, path)
