"""Plots of measured tables: every operator has a panel, and names cover nothing."""

import json

import pytest

from hybrid_backbones.benchmark.overview import PAPERS
from hybrid_backbones.benchmark.plots import BASELINE, MARKS, draw


@pytest.fixture
def drawn(repository, tmp_path):
    """Draw a table of docs/benchmarks; return it and the figure."""

    def draw_table(name):
        table = json.loads((repository / f"docs/benchmarks/{name}.json").read_text())
        figure = draw(table["rows"], table, tmp_path / f"{name}.png")
        assert (tmp_path / f"{name}.png").stat().st_size
        return table, figure

    return draw_table


def test_growth_has_a_panel_for_each_operator_beside_a_convolution(drawn):
    table, figure = drawn("cpu_growth")
    panels = {axes.get_title(): axes for axes in figure.axes}
    assert panels.keys() == {row["operator"] for row in table["rows"]} - {BASELINE}
    for operator, axes in panels.items():
        kinds = {row["implementation"] for row in table["rows"] if row["operator"] == operator}
        dashed = [line for line in axes.lines if line.get_linestyle() == "--"]
        assert len(dashed) == ("reference" in kinds)
        assert len(axes.lines) == len(kinds) + 1
        # all in the same limits, so that panels can be compared
        assert axes.get_ylim() == figure.axes[0].get_ylim()


@pytest.mark.parametrize("name", ["cpu_backbones", "cpu_compiled"])
def test_names_of_backbones_cover_nothing(drawn, name):
    table, figure = drawn(name)
    figure.draw_without_rendering()
    (axes,) = figure.axes
    assert f"{table['device_name']}, 2 CPU threads, float32, batch 1" in axes.get_title()
    boxes = [text.get_window_extent() for text in axes.texts if text.get_text()]
    assert len(boxes) == len([row for row in table["rows"] if "error" not in row])
    assert not any(
        one.padded(1).overlaps(other) for i, one in enumerate(boxes) for other in boxes[:i]
    )


def test_every_network_has_a_mark_of_its_own():
    assert MARKS.keys() == {*PAPERS, "ResNet", "Swin"}
    assert len({colour for colour, _ in MARKS.values()}) == len(MARKS)


def test_a_table_of_the_baseline_alone_is_drawn(drawn, repository, tmp_path):
    table, _ = drawn("cpu_growth")
    setting = dict(device_name="a GPU", threads=1, dtype="bfloat16", batch=2)
    alone = [row for row in table["rows"] if row["operator"] == BASELINE]
    figure = draw(alone, setting, tmp_path / "one.png")
    assert "a GPU, 1 CPU threads, bfloat16, batch 2" in figure.get_suptitle()
    assert [axes.get_title() for axes in figure.axes] == [BASELINE]
