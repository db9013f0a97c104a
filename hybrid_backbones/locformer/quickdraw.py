"""QuickDraw's simplified drawings: find them, read them, render them.

The published files (https://github.com/googlecreativelab/quickdraw-dataset, "simplified drawings")
hold one drawing per line: JSON with ``word``, ``recognized`` and ``drawing``, a list of strokes
``[[x, ...], [y, ...]]`` with coordinates 0 to 255. A file of a hundred megabytes is never read as a
whole: :class:`DrawingFile` knows where each line begins.
"""

import json
import re
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.random import PCG64, Generator
from PIL import Image, ImageDraw

PARTS = ("train", "valid", "test")
# side of the published canvas in pixels
CANVAS = 224
# antialiased lines are drawn so many times larger first
SUPERSAMPLING = 4
RECOGNIZED = re.compile(rb'"recognized"\s*:\s*(true|false)')
NO_STROKES = re.compile(rb'"drawing"\s*:\s*\[\s*\]')

# COCO's names where QuickDraw's file of the same thing has another one
WORDS = {
    "dining table": "table",
    "motorcycle": "motorbike",
    "remote": "remote control",
    "teddy bear": "teddy-bear",
    "tennis racket": "tennis racquet",
    "tv": "television",
}

# strokes of a drawing, each (2, number of points): its x above its y
Strokes = list[np.ndarray]


class DrawingFile:
    """One part of the drawings of a file: its length is their number, an item is the strokes.

    Drawings without strokes, of which the published files have some, are passed over.

    Args:
        path: an ``.ndjson`` file of simplified drawings.
        part: 'train', 'valid' and 'test' are 80, 10 and 10 percent of the drawings, drawn at random
            but always the same; 'all' is all.
        recognized_only: pass over drawings that the game did not recognise.

    Raises:
        ValueError: the file is missing, has a damaged line, or too few drawings for three parts.
    """

    def __init__(self, path: str | Path, part: str = "all", *, recognized_only: bool = True):
        if part not in (*PARTS, "all"):
            raise ValueError(f"part of the drawings is one of {(*PARTS, 'all')}, got {part!r}")
        self.path = Path(path)
        kept = self._index(recognized_only)
        if part != "all":
            kept = kept[_split(len(kept), self.path)[part]]
        # number of the line, counted from 1, and where it begins, in bytes
        self.places = kept

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: int) -> Strokes:
        number, offset = self.places[index].tolist()
        with self.path.open("rb") as file:
            file.seek(offset)
            return parse_drawing(file.readline(), f"{self.path}:{number}")

    def _index(self, recognized_only: bool) -> np.ndarray:
        places, offset = [], 0
        try:
            with self.path.open("rb") as file:
                for number, line in enumerate(file, start=1):
                    if self._keeps(line.strip(), number, recognized_only):
                        places.append((number, offset))
                    offset += len(line)
        except OSError as error:
            raise ValueError(
                f"cannot read drawings from {self.path} ({error}): fetch QuickDraw's simplified "
                "drawings of this word"
            ) from error
        if not places:
            raise ValueError(f"{self.path} has no drawing of use: fetch it again")
        return np.array(places)

    def _keeps(self, line: bytes, number: int, recognized_only: bool) -> bool:
        if not line:
            return False
        answer = RECOGNIZED.search(line)
        if not (line.startswith(b"{") and line.endswith(b"}") and answer):
            raise damaged(f"{self.path}:{number}", 'no JSON object with "recognized"')
        return not NO_STROKES.search(line) and (answer[1] == b"true" or not recognized_only)


def damaged(place: str, what: object) -> ValueError:
    """Return the error for a line that is not a simplified drawing."""
    return ValueError(
        f"{place} is damaged ({what}): expected a simplified drawing of QuickDraw; fetch the file "
        "again or remove the line"
    )


def parse_drawing(line: bytes | str, place: str) -> Strokes:
    """Return the strokes of one line, each (2, number of points).

    Args:
        place: file and line, for the error.

    Raises:
        ValueError: the line is damaged or its drawing empty.
    """
    try:
        drawing = json.loads(line)["drawing"]
        # raw drawings have a third row, the time
        strokes = [np.array([x, y], dtype=np.float64) for x, y in drawing]
    except (ValueError, KeyError, TypeError) as error:
        raise damaged(place, f"{type(error).__name__}: {error}") from error
    if any(stroke.ndim != 2 or not np.isfinite(stroke).all() for stroke in strokes):
        raise damaged(place, "a stroke is not two rows of numbers")
    strokes = [stroke for stroke in strokes if stroke.size]
    if not strokes:
        raise ValueError(f"{place} is an empty drawing: choose another one")
    return strokes


def find_drawings(root: str | Path, category: str) -> Path:
    """Return the file of a category: in `root` or its folder ``ndjson``, by QuickDraw's word.

    Raises:
        ValueError: there is none.
    """
    name = f"{WORDS.get(category, category)}.ndjson"
    candidates = [Path(root) / "ndjson" / name, Path(root) / name]
    for path in candidates:
        if path.is_file():
            return path
    raise ValueError(
        f"no drawings of {category!r}: neither {candidates[0]} nor {candidates[1]} is there. Set "
        "SKETCH_ROOT to the folder of QuickDraw's simplified .ndjson files, complete it, or leave "
        f"the category out with exclude=[{category!r}]"
    )


def render_drawing(
    strokes: Sequence[np.ndarray],
    size: int = CANVAS,
    *,
    line_width: int = 1,
    antialias: bool = False,
    fit: bool = False,
) -> np.ndarray:
    """Draw strokes in white on black.

    The default is the published rendering: what lies outside of a canvas of 224 pixels is cut off,
    though coordinates go to 255.

    Args:
        strokes: each (2, number of points), x above y; a single point becomes a dot.
        size: side of the canvas in pixels.
        line_width: in pixels of the canvas.
        antialias: smooth the lines' edges.
        fit: scale and centre the drawing, in its own proportions, so that it fills the canvas.

    Returns:
        uint8 (size, size).

    Raises:
        ValueError: there are no strokes.
    """
    if not len(strokes):
        raise ValueError("an empty drawing cannot be rendered: expected at least one stroke")
    if fit:
        strokes = _fit(strokes, size, margin=(line_width + 1) // 2)
    zoom = SUPERSAMPLING if antialias else 1
    canvas = Image.new("L", (zoom * size, zoom * size), 255)
    pen = ImageDraw.Draw(canvas)
    for stroke in strokes:
        _draw_stroke(pen, zoom * np.asarray(stroke), zoom * line_width)
    if antialias:
        canvas = canvas.resize((size, size), Image.Resampling.BOX)
    return 255 - np.asarray(canvas)


def _draw_stroke(pen: ImageDraw.ImageDraw, stroke: np.ndarray, width: int) -> None:
    if width > 1 and np.ptp(stroke, axis=1).max() < 1:
        # Pillow draws a line without length one pixel wide, whatever its width
        radius, centre = (width - 1) / 2, stroke.mean(axis=1)
        pen.ellipse([*(centre - radius), *(centre + radius)], 0)
        return
    points = [tuple(point) for point in stroke.T.tolist()]
    # joints leave gaps between wide lines only, and would change the published narrow ones
    pen.line(points * (1 + (len(points) == 1)), 0, width, joint="curve" if width > 1 else None)


def _fit(strokes: Sequence[np.ndarray], size: int, margin: int) -> Strokes:
    points = np.concatenate(strokes, axis=1)
    low, high = points.min(axis=1, keepdims=True), points.max(axis=1, keepdims=True)
    # a dot stays a dot
    scale = (size - 1 - 2 * margin) / max((high - low).max(), 1)
    return [(stroke - (low + high) / 2) * scale + (size - 1) / 2 for stroke in strokes]


def _split(count: int, path: Path) -> dict[str, np.ndarray]:
    """Deal indices to the three parts; of few drawings each part gets one."""
    tenth = max(1, count // 10)
    if count < 3:
        raise ValueError(
            f"{path} has {count} drawings: expected at least 3, one for each of {PARTS}"
        )
    # by the name: the same on every machine, and another order in each file
    order = Generator(PCG64(zlib.crc32(path.name.encode()))).permutation(count)
    cuts = np.split(order, [count - 2 * tenth, count - tenth])
    return {part: np.sort(cut) for part, cut in zip(PARTS, cuts, strict=True)}
