"""Compare backbones: what is drawn is what the zoo page and the benchmark tables say."""

import json
import re

import pytest
from selenium.webdriver.common.action_chains import ActionChains

from hybrid_backbones.benchmark.zoo_table import add_measured, read_zoo
from hybrid_backbones.playground import compare

CLASSIFICATION = "Classification on ImageNet-1k"
LATENCY = "latency (ms)"
# millions of parameters behind the last feature map: MixFormer's has a hidden layer
MAX_CLASSIFIER = 3


@pytest.fixture(scope="module")
def zoo():
    return read_zoo()


@pytest.fixture(scope="module")
def page(repository):
    """The lines of the zoo page, by config."""
    lines = (repository / "docs/model_zoo.md").read_text().splitlines()
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]
    return {row[0].strip("`"): row for row in cells if len(row) == 10 and row[0].startswith("`")}


def test_every_point_has_the_figures_of_the_zoo_page(zoo, page):
    seen = set()
    for task in compare.tasks_of(zoo):
        families = compare.families_of(zoo, task)
        for y in compare.axes_of(zoo, task):
            if y not in compare.METRICS:
                continue
            for point in compare.chart(zoo, task, families, compare.FLOPS, y).points:
                row = page[point["config"]]
                assert float(row[1]) == pytest.approx(point[compare.PARAMS], abs=0.0501)
                assert float(row[3]) == pytest.approx(point["x"], rel=0.006)
                assert f"{y} {point['y']}" in row[6].replace(f"{point['y']}0", str(point["y"]))
                assert f"[{point['family']}]" in row[8]
                assert point["counted at"] == row[5]
                assert point["parameters published (M)"] == number(row[2])
                assert point["FLOPs published (G)"] == number(row[4])
                seen.add(point["config"])
    with_result = {
        name for name, row in page.items() if re.search(r"(top-1|AP|mIoU) \d\d\.\d", row[6])
    }
    assert seen == with_result - {"locformer_swin_t_open_world"}


def number(cell):
    return None if cell == "-" else float(cell)


def test_measured_figures_are_those_of_the_benchmark_table(zoo, repository):
    table = json.loads((repository / "docs/benchmarks/cpu_backbones.json").read_text())
    bare = [row._replace(forward_ms=None, train_memory_mib=None) for row in zoo.rows]
    assert add_measured(bare, table) == zoo
    measured = {one["backbone"]: one for one in table["rows"]}
    found = [row for row in zoo.rows if row.forward_ms]
    assert len(found) > 20
    for row in found:
        one = measured[f"{row.backbone}-{row.arch}"]
        assert row.forward_ms == one["forward_ms"]["median"]
        # the same network, without its classifier
        assert 0 < row.params - one["params"] / 1e6 < MAX_CLASSIFIER


def test_what_was_measured_goes_with_results_at_its_size(zoo):
    families = compare.families_of(zoo, CLASSIFICATION)
    points = compare.chart(zoo, CLASSIFICATION, families, LATENCY, "top-1").points
    by_name = {point["config"]: point for point in points}
    # published at 128 and at 224
    assert by_name["imagenet_uniformer_xxs"]["y"] == 80.6
    assert by_name["imagenet_uniformer_xxs"][compare.FLOPS] is None
    assert by_name["imagenet_uniformer_xs"]["y"] == 82.0
    counted = compare.chart(zoo, CLASSIFICATION, families, compare.FLOPS, "top-1").points
    (small,) = (point for point in counted if point["config"] == "imagenet_uniformer_xxs")
    assert (small["y"], small[LATENCY]) == (76.8, None)


def test_results_that_are_differences_or_memories_are_not_drawn(zoo):
    assert not [
        row.config for row in zoo.rows if "our memory" in row.published and row.result("top-1")
    ]
    assert all(40 < value < 90 for row in zoo.rows if (value := row.result("top-1")))


def test_families_select_the_points(zoo):
    points = compare.chart(zoo, CLASSIFICATION, ["BiFormer"], compare.FLOPS, "top-1").points
    assert {point["family"] for point in points} == {"BiFormer"}


@pytest.mark.parametrize(
    ("families", "x", "y", "sentence"),
    [
        ([], compare.FLOPS, "top-1", "Choose at least one family"),
        (["X-volution"], compare.FLOPS, "top-1", "No config has both figures"),
        (["BiFormer"], compare.FLOPS, "mIoU", "has no mIoU: choose one of top-1"),
    ],
    ids=["no family", "no result", "another task's"],
)
def test_a_choice_without_points_is_a_sentence(zoo, families, x, y, sentence):
    with pytest.raises(ValueError, match=sentence):
        compare.chart(zoo, CLASSIFICATION, families, x, y)


def date_of(zoo):
    return zoo.setting["date"].partition("T")[0]


def test_the_page_says_what_was_published_counted_and_measured(zoo):
    words = compare.describe(zoo, LATENCY, "top-1")
    for part in ("published by the authors", zoo.setting["device_name"], date_of(zoo), "2 CPU"):
        assert part in words


def test_each_family_has_a_colour_of_its_own():
    assert len({*compare.COLOURS.values()}) == len(compare.COLOURS)


@pytest.mark.slow
def test_axes_and_families_are_chosen_on_the_page(visit, zoo):
    visit.open_tab("Compare backbones")
    marks = "#compare-plot canvas, #compare-plot svg"
    plot = visit.until(lambda: visit.find(marks))
    families = compare.families_of(zoo, CLASSIFICATION)
    all_points = compare.chart(zoo, CLASSIFICATION, families, compare.FLOPS, "top-1").points
    visit.wait_for_text("compare-words", f"{len(all_points)} configs")
    visit.screenshot("compare")
    visit.choose("compare-x", LATENCY)
    points = compare.chart(zoo, CLASSIFICATION, families, LATENCY, "top-1").points
    words = visit.wait_for_text("compare-words", f"{len(points)} configs")
    assert f"measured here on {date_of(zoo)}" in words
    visit.screenshot("compare-latency")
    visit.choose("compare-task", "UperNet on ADE20K")
    words = visit.wait_for_text("compare-words", "mIoU")
    assert "FLOPs (G): counted here" in words
    table = visit.text("compare-table")
    assert "upernet_biformer_s" in table
    assert "imagenet" not in table
    plot = visit.until(lambda: visit.find(marks))
    ActionChains(visit.browser).move_to_element(plot).perform()
    for family in compare.families_of(zoo, "UperNet on ADE20K"):
        boxes = visit.browser.find_elements("css selector", "#compare-families label")
        next(box for box in boxes if box.text == family).click()
    assert visit.sentence() == "Choose at least one family of backbones."
