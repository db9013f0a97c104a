"""Panels of pictures: their scales."""

import numpy as np
import pytest
from matplotlib.figure import Figure

from hybrid_backbones.explain.panels import Heat, Matrix, Picture, draw_figure, save_figure


def scale_of(panel):
    """Draw a panel, and return the numbers on its scale."""
    axes = Figure().subplots()
    panel.draw(axes)
    (scale,) = axes.child_axes
    return scale.get_yticks()


@pytest.mark.parametrize("values", [[[1, 2], [np.nan, 3]], [[0, 1], [1, 0]]])
def test_what_is_counted_has_whole_numbers_on_its_scale(values):
    heat = Heat("routes", np.ones((8, 8, 3)), np.array(values), "rank", (8, 8))
    assert (scale_of(heat) % 1 == 0).all()


def test_what_is_measured_has_fractions_on_its_scale():
    assert (scale_of(Matrix("kernel", np.array([[0.5, -1.0]]), "weight")) % 1 != 0).any()


def test_names_with_dollars_are_no_formulas(tmp_path):
    name, pixels = "IMG$1_$2.png", np.ones((4, 6, 3))
    panel = Picture(name, pixels, (4, 6), boxes=[((1, 1, 2, 2), "lime", name)])
    written = save_figure(draw_figure([panel], name), tmp_path / "drawn")
    assert all(path.stat().st_size for path in written)
