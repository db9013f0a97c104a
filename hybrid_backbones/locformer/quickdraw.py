"""Find, read and render QuickDraw's simplified drawings.

The published files (https://github.com/googlecreativelab/quickdraw-dataset, "simplified drawings")
hold one drawing per line: JSON with ``word``, ``recognized`` and ``drawing``, a list of strokes
``[[x, ...], [y, ...]]`` with coordinates 0 to 255. Files can exceed a hundred megabytes, so
:class:`DrawingFile` stores the byte offset of each line instead of the content.
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
# scale at which antialiased lines are drawn before downsampling
SUPERSAMPLING = 4
RECOGNIZED = re.compile(rb'"recognized"\s*:\s*(true|false)')
NO_STROKES = re.compile(rb'"drawing"\s*:\s*\[\s*\]')

# COCO categories that have another name in QuickDraw
WORDS = {
    "dining table": "table",
    "motorcycle": "motorbike",
    "remote": "remote control",
    "teddy bear": "teddy-bear",
    "tennis racket": "tennis racquet",
    "tv": "television",
}

# strokes of a drawing, each (2, number of points): a row of x and a row of y
Strokes = list[np.ndarray]


class DrawingFile:
    """Sequence of the drawings in one part of a file; each item is the strokes of a drawing.

    Drawings without strokes, which occur in the published files, are skipped.

    Args:
        path: ``.ndjson`` file of simplified drawings.
        part: 'train', 'valid' or 'test', a fixed random split into 80, 10 and 10 percent of the
            drawings, or 'all'.
        recognized_only: whether to skip drawings that the game did not recognise.

    Raises:
        ValueError: if the file is missing, has a damaged line, or too few drawings for three parts.
    """

    def __init__(self, path: str | Path, part: str = "all", *, recognized_only: bool = True):
        if part not in (*PARTS, "all"):
            raise ValueError(f"part must be one of {(*PARTS, 'all')}, got {part!r}")
        self.path = Path(path)
        kept = self._index(recognized_only)
        if part != "all":
            kept = kept[_split(len(kept), self.path)[part]]
        # line number, counted from 1, and byte offset of each drawing
        self.lines = kept

    def __len__(self) -> int:
        return len(self.lines)

    def __getitem__(self, index: int) -> Strokes:
        number, offset = self.lines[index].tolist()
        with self.path.open("rb") as file:
            file.seek(offset)
            return parse_drawing(file.readline(), f"{self.path}:{number}")

    def _index(self, recognized_only: bool) -> np.ndarray:
        lines, offset = [], 0
        try:
            with self.path.open("rb") as file:
                for number, line in enumerate(file, start=1):
                    if self._keeps(line.strip(), number, recognized_only):
                        lines.append((number, offset))
                    offset += len(line)
        except OSError as error:
            raise ValueError(
                f"cannot read drawings from {self.path} ({error}): download QuickDraw's simplified "
                "drawings of this word"
            ) from error
        if not lines:
            raise ValueError(f"{self.path} has no drawing that can be used: download it again")
        return np.array(lines)

    def _keeps(self, line: bytes, number: int, recognized_only: bool) -> bool:
        if not line:
            return False
        answer = RECOGNIZED.search(line)
        if not (line.startswith(b"{") and line.endswith(b"}") and answer):
            raise damaged(f"{self.path}:{number}", 'no JSON object with "recognized"')
        return not NO_STROKES.search(line) and (answer[1] == b"true" or not recognized_only)


def damaged(place: str, what: object) -> ValueError:
    """Create the error for a line that is not a simplified drawing."""
    return ValueError(
        f"{place} is damaged ({what}): expected a simplified drawing of QuickDraw; download the "
        "file again or remove the line"
    )


def parse_drawing(line: bytes | str, place: str) -> Strokes:
    """Parse one line to strokes, each (2, number of points).

    Args:
        line: line of an ``.ndjson`` file.
        place: file and line number, for error messages.

    Raises:
        ValueError: if the line is damaged or its drawing is empty.
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
    """Return the QuickDraw file of a COCO category, in `root` or its subfolder ``ndjson``.

    Raises:
        ValueError: if there is no such file.
    """
    name = f"{WORDS.get(category, category)}.ndjson"
    candidates = [Path(root) / "ndjson" / name, Path(root) / name]
    for path in candidates:
        if path.is_file():
            return path
    raise ValueError(
        f"no drawings of {category!r}: neither {candidates[0]} nor {candidates[1]} exists. Set "
        "SKETCH_ROOT to the folder of QuickDraw's simplified .ndjson files, add the missing file, "
        f"or drop the category with exclude=[{category!r}]"
    )


def render_drawing(
    strokes: Sequence[np.ndarray],
    size: int = CANVAS,
    *,
    line_width: int = 1,
    antialias: bool = False,
    fit: bool = False,
) -> np.ndarray:
    """Render strokes in white on black.

    The defaults give the published rendering, which crops to a canvas of 224 pixels although
    coordinates go to 255.

    Args:
        strokes: strokes, each (2, number of points), x above y; a single point becomes a dot.
        size: side of the canvas in pixels.
        line_width: width of the lines in pixels of the canvas.
        antialias: whether to smooth the edges of the lines.
        fit: whether to scale and centre the drawing to fill the canvas, keeping its aspect ratio.

    Returns:
        image, uint8 (size, size).

    Raises:
        ValueError: if there are no strokes.
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
        # Pillow draws a line of zero length one pixel wide, whatever the width
        radius, centre = (width - 1) / 2, stroke.mean(axis=1)
        pen.ellipse([*(centre - radius), *(centre + radius)], 0)
        return
    points = [tuple(point) for point in stroke.T.tolist()]
    # only wide lines have gaps at corners; rounded joints would change the published narrow ones
    pen.line(points * (1 + (len(points) == 1)), 0, width, joint="curve" if width > 1 else None)


def _fit(strokes: Sequence[np.ndarray], size: int, margin: int) -> Strokes:
    points = np.concatenate(strokes, axis=1)
    low, high = points.min(axis=1, keepdims=True), points.max(axis=1, keepdims=True)
    # at least 1, so that a dot is not scaled up
    scale = (size - 1 - 2 * margin) / max((high - low).max(), 1)
    return [(stroke - (low + high) / 2) * scale + (size - 1) / 2 for stroke in strokes]


def _split(count: int, path: Path) -> dict[str, np.ndarray]:
    """Split indices into three parts, each with at least one drawing."""
    tenth = max(1, count // 10)
    if count < 3:
        raise ValueError(
            f"{path} has {count} drawings: expected at least 3, one for each of {PARTS}"
        )
    # seeded by the file name: the same on every machine, but different for each file
    order = Generator(PCG64(zlib.crc32(path.name.encode()))).permutation(count)
    cuts = np.split(order, [count - 2 * tenth, count - tenth])
    return {part: np.sort(cut) for part, cut in zip(PARTS, cuts, strict=True)}
