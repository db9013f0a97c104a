"""The model zoo is the code's: counts, published figures, and the page that shows both."""

import re

import pytest
from mmengine.config import Config

from hybrid_backbones.benchmark.costs import count_costs
from hybrid_backbones.benchmark.zoo import (
    GROUPS,
    REASONS,
    VERIFIED,
    Row,
    find_configs,
    measure_config,
    read_published,
    read_weights,
    write_zoo,
)
from hybrid_backbones.benchmark.zoo_table import read_zoo

# each backbone once, small ones, and several kinds of heads
FEW = [
    *("imagenet_acmix_r26", "imagenet_acmix_swin_t", "imagenet_biformer_t"),
    *("imagenet_mixformer_b0", "imagenet_swiftformer_xs", "imagenet_uniformer_s"),
    *("imagenet_uniformer_xxs", "imagenet_xvolution_r34", "maskrcnn_uniformer_xxs"),
    *("fpn_uniformer_xxs", "fpn_r50", "retinanet_swiftformer_l1", "upernet_mixformer_b1"),
    *("dino_swiftformer_xs", "locformer_swin_t", "locformer_swin_t_5sketch"),
]


@pytest.fixture(scope="module")
def rows():
    """The saved rows, which the tests below compare with the configs and with the page."""
    return read_zoo().rows


@pytest.mark.exhaustive
def test_the_page_is_up_to_date(repository):
    measured = [measure_config(path) for path in find_configs(repository / "configs")]
    page = (repository / "docs" / "model_zoo.md").read_text()
    assert page == write_zoo(measured), "run `python tools/model_zoo.py` and commit the page"


@pytest.mark.parametrize("name", FEW)
def test_what_is_counted_today_is_on_the_page(name, rows, repository):
    (row,) = (row for row in rows if row.config == name)
    measured = measure_config(repository / f"configs/{name}.py")
    assert write_zoo([measured]) == write_zoo([row]), "run `python tools/model_zoo.py`"


def test_every_config_has_its_published_result_and_weights_on_the_page(rows, repository):
    paths = find_configs(repository / "configs")
    assert [row.config for row in rows] == [path.stem for path in paths]
    for row, path in zip(rows, paths, strict=True):
        assert row.published == read_published(path)
        assert list(row.weights) == read_weights(path)


def test_the_saved_rows_are_those_of_the_page(repository):
    page = (repository / "docs" / "model_zoo.md").read_text()
    assert page == write_zoo(read_zoo().rows), "run `python tools/model_zoo.py`, commit both files"


def test_counts_agree_with_the_published_ones_or_the_page_says_why(rows):
    assert {row.config for row in rows if row.deviations} == REASONS.keys()
    assert sum(row.published_macs is not None for row in rows) > 40


def test_a_head_with_queries_costs_what_was_published_of_it(repository):
    # DINO-4scale with ResNet-50, Zhang et al. 2023, table 1
    cfg = Config.fromfile(repository / "configs/_base_/models/dino_r50.py")
    cfg.default_scope = "mmdet"
    params, macs = count_costs(cfg, (800, 1280))
    assert params == pytest.approx(47e6, rel=0.02)
    assert macs == pytest.approx(279e9, rel=0.02)


def test_a_model_that_was_counted_can_be_built_again(repository):
    cfg = Config.fromfile(repository / "configs/deformable_detr_swiftformer_xs.py")
    before = cfg.to_dict()
    first, second = (count_costs(cfg, (64, 96)) for _ in range(2))
    assert first == second
    assert cfg.to_dict() == before


def test_each_sketch_of_a_query_is_encoded(rows):
    macs = {row.config: row.macs for row in rows}
    # of its trunk, ResNet-50, He et al. 2016, at 224×224: 3.8 billion, with the strided 3×3 4.1
    four = macs["locformer_swin_t_5sketch"] - macs["locformer_swin_t"]
    assert 4 * 3.8 < four < 4 * 6


def test_every_config_is_on_the_page(rows):
    page = write_zoo(rows)
    # weights in another column may have the name of their config
    assert all(page.count(f"\n| `{row.config}` |") == 1 for row in rows)
    groups = [[p for p in GROUPS if re.fullmatch(rf"{p}_.*", row.config)] for row in rows]
    assert all(len(group) == 1 for group in groups)
    assert {group[0] for group in groups} == set(GROUPS)


def test_what_is_called_verified_has_golden_files(repository):
    stems = [stem for stems in VERIFIED.values() for stem in stems]
    assert all((repository / f"tests/golden/{stem}.json").is_file() for stem in stems)


@pytest.mark.parametrize(
    ("ours", "published", "deviations"),
    [
        ((10.0, 2.0), ("10.1", "2.03"), {}),
        ((21.5451, 2.0), ("22", None), {}),
        ((10.0, 2.0), ("9.0", None), {"parameters": 10 / 9}),
    ],
    ids=["within", "rounded", "beyond"],
)
def test_two_percent_are_tolerated(ours, published, deviations):
    row = Row("x", "ResNet", 50, (1, 1), ours[0], published[0], ours[1], published[1], "", [])
    assert row.deviations == pytest.approx(deviations)


def test_published_results_are_read_over_several_lines(tmp_path):
    path = tmp_path / "x.py"
    path.write_text(
        '"""X.\n\nPublished: 1 with 2M parameters\n           and more\nNote:      no\n"""'
    )
    assert read_published(path) == "1 with 2M parameters and more"
    path.write_text('"""X."""')
    with pytest.raises(ValueError, match="Published"):
        read_published(path)
