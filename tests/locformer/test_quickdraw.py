"""Laws of QuickDraw's drawings: which are read, how they are dealt, what is rendered."""

import json
import os
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from hybrid_backbones.locformer.quickdraw import (
    PARTS,
    DrawingFile,
    find_drawings,
    parse_drawing,
    render_drawing,
)

SHARED = Path(__file__).resolve().parents[3] / "shared/realdata/sketches"
SQUARE = [[[10, 100, 100, 10, 10], [20, 20, 110, 110, 20]]]


def line(drawing=SQUARE, recognized=True, **more):
    return json.dumps(dict(word="cat", recognized=recognized, drawing=drawing, **more))


def write(path, lines):
    path.write_text("".join(f"{one}\n" for one in lines))
    return path


def horizontal(y):
    """Return a drawing that tells which one it is."""
    return [[[0, 50], [y, y]]]


def heights(file):
    return [int(file[i][0][1, 0]) for i in range(len(file))]


def strokes(drawing):
    return [np.array(stroke) for stroke in drawing]


def test_every_line_comes_back_whatever_its_length(tmp_path):
    drawings = [[[list(range(n)), list(range(n))]] for n in (2, 50, 3, 200)]
    file = DrawingFile(write(tmp_path / "cat.ndjson", map(line, drawings)))
    assert len(file) == 4
    for i, drawing in enumerate(drawings):
        assert np.array_equal(file[i], drawing)


def test_unrecognised_drawings_are_passed_over_unless_wanted(tmp_path):
    lines = [line(horizontal(y), recognized=y % 2 == 0) for y in range(6)]
    path = write(tmp_path / "cat.ndjson", lines)
    assert heights(DrawingFile(path)) == [0, 2, 4]
    assert heights(DrawingFile(path, recognized_only=False)) == list(range(6))


def test_drawings_without_strokes_and_blank_lines_are_passed_over(tmp_path):
    path = write(tmp_path / "cat.ndjson", [line([]), line(horizontal(1)), "", line(horizontal(3))])
    assert heights(DrawingFile(path)) == [1, 3]


@pytest.mark.parametrize("count", [3, 17, 100])
def test_the_parts_are_all_drawings_each_once(tmp_path, count):
    path = write(tmp_path / "cat.ndjson", [line(horizontal(y)) for y in range(count)])
    parts = [heights(DrawingFile(path, part)) for part in PARTS]
    assert sorted(chain(*parts)) == list(range(count))
    tenth = max(count // 10, 1)
    assert [len(part) for part in parts] == [count - 2 * tenth, tenth, tenth]
    assert parts == [heights(DrawingFile(path, part)) for part in PARTS]


def test_the_parts_are_mixed_and_differ_between_files(tmp_path):
    lines = [line(horizontal(y)) for y in range(100)]
    cat, dog = (
        heights(DrawingFile(write(tmp_path / name, lines), "valid"))
        for name in ("cat.ndjson", "dog.ndjson")
    )
    assert cat != dog
    assert cat not in (list(range(80, 90)), list(range(90, 100)), list(range(10)))


def test_parts_of_recognised_drawings_have_no_other(tmp_path):
    lines = [line(horizontal(y), recognized=y < 30) for y in range(60)]
    path = write(tmp_path / "cat.ndjson", lines)
    assert sorted(chain(*(heights(DrawingFile(path, part)) for part in PARTS))) == list(range(30))


@pytest.mark.parametrize("part", PARTS)
def test_two_drawings_are_too_few_for_three_parts(tmp_path, part):
    path = write(tmp_path / "cat.ndjson", [line()] * 2)
    with pytest.raises(ValueError, match=r"cat\.ndjson has 2 drawings"):
        DrawingFile(path, part)
    assert len(DrawingFile(path)) == 2


def test_an_unknown_part_is_refused(tmp_path):
    with pytest.raises(ValueError, match="'val'"):
        DrawingFile(write(tmp_path / "cat.ndjson", [line()]), "val")


@pytest.mark.parametrize(
    "broken",
    ["{", line()[:-9], "[1, 2]", '{"word": "cat", "drawing": []}', "\x00\x01"],
    ids=["begun", "cut_off", "list", "without_recognized", "binary"],
)
def test_a_damaged_line_is_named_when_the_file_is_opened(tmp_path, broken):
    path = write(tmp_path / "cat.ndjson", [line(), broken, line()])
    with pytest.raises(ValueError, match=r"cat\.ndjson:2 is damaged.*remove the line"):
        DrawingFile(path)


@pytest.mark.parametrize(
    "drawing",
    [7, [7], [[[1, 2], [3]]], [[["a"], ["b"]]], [[[1, None], [2, 3]]], [[[1], [2], [3], [4]]]],
    ids=["number", "numbers", "uneven", "letters", "null", "four_rows"],
)
def test_damaged_strokes_are_named_when_they_are_read(tmp_path, drawing):
    file = DrawingFile(write(tmp_path / "cat.ndjson", [line(), line(drawing)]))
    with pytest.raises(ValueError, match=r"cat\.ndjson:2 is damaged"):
        file[1]


@pytest.mark.parametrize("drawing", [[], [[[], []]]], ids=["no_stroke", "no_point"])
def test_an_empty_drawing_is_named(drawing):
    with pytest.raises(ValueError, match=r"cat\.ndjson:7 is an empty drawing"):
        parse_drawing(line(drawing), "cat.ndjson:7")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"cat\.ndjson"):
        DrawingFile(tmp_path / "cat.ndjson")


@pytest.mark.parametrize("lines", [[], [line([])], [line(recognized=False)]])
def test_a_file_without_drawings_is_named(tmp_path, lines):
    with pytest.raises(ValueError, match=r"cat\.ndjson has no drawing"):
        DrawingFile(write(tmp_path / "cat.ndjson", lines))


@pytest.mark.parametrize("folder", [".", "ndjson"])
def test_files_are_found_by_quickdraws_words(tmp_path, folder):
    (tmp_path / folder).mkdir(exist_ok=True)
    for word in ("cat", "teddy-bear"):
        (tmp_path / folder / f"{word}.ndjson").touch()
    assert find_drawings(tmp_path, "cat") == tmp_path / folder / "cat.ndjson"
    assert find_drawings(tmp_path, "teddy bear") == tmp_path / folder / "teddy-bear.ndjson"
    with pytest.raises(ValueError, match=r"'unicorn'.*SKETCH_ROOT.*exclude"):
        find_drawings(tmp_path, "unicorn")


def test_the_default_is_the_published_rendering():
    drawing = [*SQUARE, [[0, 255], [0, 255]], [[200, 240, 255], [5, 100, 7]]]
    canvas = Image.new("RGB", (224, 224), (255, 255, 255))
    pen = ImageDraw.Draw(canvas)
    # as published: segment by segment
    for x, y in drawing:
        for i in range(len(x) - 1):
            pen.line((x[i], y[i], x[i + 1], y[i + 1]), fill=(0, 0, 0), width=1)
    expected = 255 - np.asarray(canvas)[..., 0]
    assert np.array_equal(render_drawing(strokes(drawing)), expected)


def test_what_lies_past_the_canvas_is_cut_off():
    assert not render_drawing(strokes([[[230, 255], [0, 255]]])).any()


def test_a_single_point_is_a_dot():
    image = render_drawing(strokes([[[7], [9]]]))
    assert np.argwhere(image).tolist() == [[9, 7]]


@pytest.mark.parametrize("fit", [False, True], ids=["placed", "fitted"])
@pytest.mark.parametrize("antialias", [False, True], ids=["plain", "smooth"])
@pytest.mark.parametrize("width", [1, 2, 3, 6])
@pytest.mark.parametrize("count", [1, 3])
def test_a_dot_is_as_wide_as_lines_however_often_its_point_comes(count, width, antialias, fit):
    dot = strokes([[[17] * count, [9] * count]])
    image = render_drawing(dot, 33, line_width=width, antialias=antialias, fit=fit)
    # on few pixels a disc is a plus or a square
    assert 0.5 * width**2 <= image.sum() / 255 <= width**2
    assert np.argwhere(image).mean(axis=0) == pytest.approx((16, 16) if fit else (9, 17), abs=1)


def test_wider_lines_cover_more():
    ink = [np.count_nonzero(render_drawing(strokes(SQUARE), line_width=w)) for w in (1, 3, 6)]
    assert ink == sorted(set(ink))


@pytest.mark.parametrize("width", [1, 3])
def test_antialiasing_smooths_lines_of_the_right_width(width):
    slope = strokes([[[10, 200], [20, 110]]])
    assert set(np.unique(render_drawing(slope, line_width=width))) == {0, 255}
    smooth = render_drawing(slope, line_width=width, antialias=True)
    assert len(np.unique(smooth)) > 5
    assert smooth.sum() / 255 == pytest.approx(width * np.hypot(190, 90), rel=0.15)


@pytest.mark.parametrize("size", [32, 96, 224])
@pytest.mark.parametrize("width", [1, 4])
def test_a_fitted_drawing_fills_the_canvas_in_its_proportions(size, width):
    tall = strokes([[[100, 150], [50, 50]], [[150, 100], [250, 250]]])
    rows, columns = np.nonzero(render_drawing(tall, size, line_width=width, fit=True))
    assert rows.min() in range(4)
    assert size - 1 - rows.max() in range(4)
    assert columns.min() == pytest.approx(size - 1 - columns.max(), abs=1)
    assert (columns.max() - columns.min()) / (rows.max() - rows.min()) == pytest.approx(
        1 / 4, abs=3 / size + width / size
    )


@pytest.mark.parametrize("antialias", [False, True])
def test_a_fitted_dot_is_in_the_middle(antialias):
    image = render_drawing(strokes([[[3], [250]]]), 33, line_width=2, antialias=antialias, fit=True)
    assert np.argwhere(image).mean(axis=0) == pytest.approx(16, abs=1)


def test_an_empty_drawing_cannot_be_rendered():
    with pytest.raises(ValueError, match="empty"):
        render_drawing([])


@pytest.mark.parametrize("word", ["cat", "hot dog", "teddy-bear"])
def test_real_drawings_are_read_and_rendered(word):
    root = Path(os.environ.get("SKETCH_ROOT", SHARED))
    if not root.is_dir():
        pytest.skip(f"no real data: neither SKETCH_ROOT is set nor {SHARED} there")
    path = find_drawings(root, word)
    for file in (DrawingFile(path), DrawingFile(path, recognized_only=False)):
        for i in range(min(len(file), 25)):
            assert render_drawing(file[i]).any()
            assert all(s.min() >= 0 and s.max() <= 255 for s in file[i])
