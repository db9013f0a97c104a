"""Laws of the mini set's sketches: what is drawn, and how it reaches the disk."""

import hashlib

import numpy as np
import pytest
from numpy.random import PCG64, Generator

from hybrid_backbones.locformer import shape_sketches
from hybrid_backbones.locformer.quickdraw import DrawingFile, find_drawings
from hybrid_backbones.locformer.shape_sketches import CONTOURS, draw_shape_sketches, draw_sketch
from hybrid_backbones.mini.shapes import CLASSES, OUTLINES

# of version 1, over names and contents
DIGEST = "4a8d32cfda48473d390f8e0640d5fe874de6f1fd894c9ac0fa177819639967d0"

each_class = pytest.mark.parametrize("name", CLASSES)


@pytest.fixture(scope="module")
def sketches(tmp_path_factory):
    return draw_shape_sketches(tmp_path_factory.mktemp("mini"))


def read(folder):
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*.ndjson")}


def test_every_machine_draws_the_same(sketches):
    total = hashlib.sha256()
    for name, content in sorted(read(sketches).items()):
        total.update(name.encode() + content)
    assert total.hexdigest() == DIGEST


def test_there_is_a_quickdraw_file_for_each_class(sketches):
    assert set(read(sketches)) == {f"ndjson/{name}.ndjson" for name in CLASSES}
    for name in CLASSES:
        file = DrawingFile(find_drawings(sketches, name))
        assert len(file) == shape_sketches.NUM_DRAWINGS
        for i in range(len(file)):
            points = np.concatenate(file[i], axis=1)
            assert points.min(axis=1).tolist() == [0, 0]
            assert points.max() == 255


@each_class
def test_the_lines_are_the_shapes_outlines(name):
    for contour in CONTOURS[name]:
        # people put a star on its feet, the mini set on its head
        corners = np.array(contour) * (-1 if name == "star" else 1)
        middles = (corners + np.roll(corners, -1, axis=0)) / 2
        # a step to either side of each edge, one is inside and one is not
        along = np.roll(corners, -1, axis=0) - corners
        across = 30 * np.stack([along[:, 1], -along[:, 0]], axis=1) / np.hypot(*along.T)[:, None]
        left, right = (
            np.asarray(OUTLINES[name](*(middles + side * across).T[::-1].astype(int)))
            for side in (1, -1)
        )
        assert np.all(left != right)


@each_class
def test_all_lines_of_a_shape_are_drawn(name):
    # the border of the mask has as many pieces as there are lines
    areas = 0.0
    for contour in CONTOURS[name]:
        x, y = np.array(contour).T
        area = abs(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))) / 2
        areas = abs(areas - area)
    points = np.arange(-1000, 1000, 4)
    inside = OUTLINES[name](points[:, None], points)
    assert areas == pytest.approx(16 * inside.sum(), rel=0.02)


@each_class
def test_hands_differ(name):
    drawings = [draw_sketch(Generator(PCG64(seed)), name) for seed in range(20)]
    assert len({str(one) for one in drawings}) == 20
    assert {len(one) for one in drawings} == {len(CONTOURS[name]) + n for n in (0, 1)} | (
        {4} if name == "ring" else set()
    )


def test_a_drawing_does_not_depend_on_those_before_it(sketches):
    file = DrawingFile(find_drawings(sketches, CLASSES[3]))
    alone = draw_sketch(Generator(PCG64([3, 9])), CLASSES[3])
    assert [stroke.tolist() for stroke in file[9]] == alone


def test_sketches_that_are_there_are_not_drawn_again(sketches):
    before = {path: path.stat().st_mtime_ns for path in sketches.rglob("*")}
    assert draw_shape_sketches(str(sketches.parent)) == sketches
    assert {path: path.stat().st_mtime_ns for path in sketches.rglob("*")} == before


def test_sketches_of_another_version_are_replaced(tmp_path, monkeypatch):
    monkeypatch.setattr(shape_sketches, "NUM_DRAWINGS", 2)
    folder = draw_shape_sketches(tmp_path)
    (folder / shape_sketches.MARKER).write_text("0")
    (folder / "ndjson" / "disc.ndjson").write_text("old")
    whole = read(draw_shape_sketches(tmp_path))
    assert whole["ndjson/disc.ndjson"] != b"old"
    assert (folder / shape_sketches.MARKER).read_text() == shape_sketches.VERSION


def test_an_interrupted_drawing_is_taken_up(tmp_path, monkeypatch):
    monkeypatch.setattr(shape_sketches, "NUM_DRAWINGS", 2)
    whole = read(draw_shape_sketches(tmp_path / "whole"))

    def stop(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(shape_sketches.os, "replace", stop)
        with pytest.raises(KeyboardInterrupt):
            draw_shape_sketches(tmp_path / "cut")
    assert not read(tmp_path / "cut").keys() & whole.keys()
    assert list((tmp_path / "cut").rglob("*.ndjson-*"))
    assert read(draw_shape_sketches(tmp_path / "cut")) == whole
    assert not list((tmp_path / "cut").rglob("*.ndjson-*"))
