"""Generate sketches of the mini set's shapes as noisy outlines.

The files have the format of QuickDraw's simplified drawings, one per class, beside the images of
the mini set::

    sketches/ndjson/<class>.ndjson

Sketches are upright, as people draw them; only the shapes in the images are rotated. Every drawing
has its own seed and uses integer arithmetic only, so all machines generate the same files.
"""

import json
import os
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.random import PCG64, Generator

from ..mini.drafts import draft_of, drawing
from ..mini.shapes import CLASSES, COS, ONE, SIN

# increment with every change of the sketches, so that files of another version are replaced
VERSION = "1"
MARKER = ".hybrid-backbones-sketches"
NUM_DRAWINGS = 120

# lengths in thousandths of the circumscribed circle's radius, as in shapes.OUTLINES
STEP = 120  # distance between points
WOBBLE = 35  # amplitude of the noise that displaces points, before smoothing
LEAN = 12  # largest rotation of the shape, in degrees
SQUEEZE = 15  # largest reduction of height or width, in percent
OVERSHOOT = 3  # largest number of points by which a closed line overlaps its start


def _circle(radius: int) -> list[tuple[int, int]]:
    return [(radius * COS[a] // ONE, radius * SIN[a] // ONE) for a in range(0, 360, 10)]


def _star() -> list[tuple[int, int]]:
    # tips lie on the circle, inner corners at the crossings of the pentagram's lines
    radii = [1000, 382] * 5
    angles = range(270, 630, 36)
    return [
        (r * COS[a % 360] // ONE, r * SIN[a % 360] // ONE)
        for r, a in zip(radii, angles, strict=True)
    ]


def _mirrored(quarter: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Complete a shape from the corners (x, y) of one quarter by rotations of 90 degrees."""
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
    """Sample points along a closed line from a random corner, with overshoot; (2, N)."""
    start = rng.integers(len(corners))
    loop = np.array(corners[start:] + corners[:start] + corners[start : start + 1])
    points = []
    for a, b in pairwise(loop):
        steps = max(int(abs(b - a).max()) // STEP, 1)
        points += [a + (b - a) * i // steps for i in range(steps)]
    points += points[: 1 + rng.integers(OVERSHOOT + 1)]
    return np.array(points).T


def _wobble(rng: Generator, points: np.ndarray) -> np.ndarray:
    """Displace points by noise that is smoothed over neighbours; (2, N)."""
    noise = rng.integers(-WOBBLE, WOBBLE + 1, size=(2, points.shape[1] + 2))
    return points + (noise[:, :-2] + noise[:, 1:-1] + noise[:, 2:]) // 2


def draw_sketch(rng: Generator, name: str) -> list[list[list[int]]]:
    """Generate a sketch in QuickDraw's simplified form: strokes [[x, ...], [y, ...]], 0 to 255.

    Args:
        rng: random number generator.
        name: class of the shape, one of `shapes.CLASSES`.
    """
    angle = int(rng.integers(-LEAN, LEAN + 1)) % 360
    squeeze = rng.integers(100 - SQUEEZE, 101, size=(2, 1))
    strokes = []
    for corners in CONTOURS[name]:
        x, y = _wobble(rng, _walk(rng, corners)) * squeeze // 100
        turned = np.stack([x * COS[angle] - y * SIN[angle], x * SIN[angle] + y * COS[angle]])
        # some lines are split into two strokes that share a point
        cut = int(rng.integers(1, turned.shape[1] - 1))
        strokes += [turned[:, : cut + 1], turned[:, cut:]] if rng.integers(3) == 0 else [turned]
    points = np.concatenate(strokes, axis=1)
    low = points.min(axis=1, keepdims=True)
    extent = (points - low).max()
    return [((stroke - low) * 255 // extent).tolist() for stroke in strokes]


def draw_shape_sketches(root: str | Path) -> Path:
    """Generate all sketches in the mini set's folder, unless they exist; return their folder.

    Files are written atomically and have a fixed content, so concurrent processes may call this.
    """
    folder = Path(root).resolve() / "sketches"
    marker = folder / MARKER
    if marker.is_file() and marker.read_text() == VERSION:
        return folder
    (folder / "ndjson").mkdir(parents=True, exist_ok=True)
    files = [f"{name}.ndjson" for name in CLASSES]
    with drawing(folder / "ndjson", *files), drawing(folder, MARKER):
        for label, file in enumerate(files):
            lines = [_line(label, index) for index in range(NUM_DRAWINGS)]
            _write(folder / "ndjson" / file, "".join(lines))
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
    draft = draft_of(path)
    draft.write_text(text)
    os.replace(draft, path)
