"""Published results are measured as published, and the page has what came out."""

import os
import re
from pathlib import Path

import pytest
import torch
from published_models import CONFIGS, build_model, publish, randomise
from tool_runs import run_warm

from hybrid_backbones.benchmark import reproduce as module
from hybrid_backbones.benchmark.reproduce import evaluations, read_page, reproduce, to_row
from hybrid_backbones.benchmark.zoo import read_weights
from hybrid_backbones.checkpoints import PUBLISHED

SHARED = Path(__file__).resolve().parent.parent.parent.parent / "shared" / "realdata"
PICTURE = CONFIGS.parent / "docs/leaderboard/accuracy_macs.png"
FIGURE = r"-?[\d.]+|-?nan"


def plan(name):
    return [(one.config.stem, one.tta, one.published) for one in evaluations(name, CONFIGS)]


def test_each_published_file_is_named_by_the_config_that_it_fits():
    for name, record in PUBLISHED.items():
        assert name in read_weights(CONFIGS / f"{record.config}.py"), name
        first = evaluations(name, CONFIGS)[0]
        assert (first.config.stem, first.tta) == (record.config, False)


def test_each_published_figure_is_read():
    for name, record in PUBLISHED.items():
        found = [figure for _, _, figures in plan(name) for figure in figures.values()]
        for figure in re.findall(r"\d+\.\d+", record.result):
            assert float(figure) in found, (name, record.result)


def test_one_file_is_evaluated_in_three_ways_and_at_many_scales():
    assert plan("fpn_uniformer_b") == [
        ("fpn_uniformer_b", False, {"mIoU": 48.0}),
        ("fpn_uniformer_b_h32", False, {"mIoU": 47.7}),
        ("fpn_uniformer_b_w32", False, {"mIoU": 47.0}),
    ]
    assert plan("upernet_uniformer_s") == [
        ("upernet_uniformer_s", False, {"mIoU": 47.6}),
        ("upernet_uniformer_s", True, {"mIoU": 48.5}),
        ("upernet_uniformer_s_h32", False, {"mIoU": 47.0}),
        ("upernet_uniformer_s_h32", True, {"mIoU": 48.5}),
        ("upernet_uniformer_s_w32", False, {"mIoU": 46.6}),
        ("upernet_uniformer_s_w32", True, {"mIoU": 48.4}),
    ]
    assert plan("maskrcnn_uniformer_s")[0][2] == {"box AP": 45.6, "mask AP": 41.6}
    assert plan("uniformer_small_paddle") == [("imagenet_uniformer_s", False, {})]


def test_the_page_is_empty_and_says_so(repository):
    page = (repository / "docs/reproduced.md").read_text()
    assert page == module.INTRODUCTION + module.NOTHING
    assert page == read_page(repository / "docs/none.md")


def test_a_row_has_the_result_its_difference_and_the_hash():
    (one,) = evaluations("maskrcnn_uniformer_s", CONFIGS)
    metrics = {"coco/bbox_mAP": 0.4581, "coco/segm_mAP": 0.4155, "coco/bbox_mAP_50": 0.7}
    cells = to_row(one, metrics, 90, "ab12", None, {}).split(" | ")
    assert cells[:2] == ["| `maskrcnn_uniformer_s`", "`maskrcnn_uniformer_s`"]
    assert cells[3:5] == ["box AP 45.6, mask AP 41.6", "box AP 45.81, mask AP 41.55"]
    assert cells[5:7] == ["+0.21, -0.05", "1.5 min"]
    assert cells[-1] == "`ab12` |"
    assert len(cells) == module.HEADER.splitlines()[0].count("|") - 1
    assert cells[2] == "one scale"
    limited = to_row(one, metrics, 90, "ab12", 3, {"model.test_cfg.rcnn.max_per_img": 5})
    assert "| one scale, first 3 images, `model.test_cfg.rcnn.max_per_img=5` |" in limited


def test_a_dry_run_names_the_file_the_command_and_the_result(tmp_path):
    lines = reproduce(
        ["uniformer_xxs_160_in1k"], configs=CONFIGS, page=tmp_path / "page.md", dry_run=True
    )
    where, command, result = lines
    assert where.startswith("uniformer_xxs_160_in1k: https://drive.google.com/")
    assert "hb test imagenet_uniformer_xxs uniformer_xxs_160_in1k" in command
    assert "pipeline.1.scale=182" in command
    assert "pipeline.2.crop_size=160" in command
    assert result == "  published: top-1 79.1"
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("names", "settings", "says"),
    [
        (["fpn_uniformer_xz"], {}, "did you mean the published fpn_uniformer_x"),
        (["fpn_uniformer_s"] * 2, dict(file=Path("x.pth")), "--file is one checkpoint, got 2"),
        (["fpn_uniformer_s"], dict(limit=0), "--limit must be a positive"),
        (["fpn_uniformer_s"], dict(page=CONFIGS / "fpn_r50.py"), r"is no page .* --page"),
        (["fpn_uniformer_s"], dict(page=PICTURE), r"is no page .* --page"),
        (["fpn_uniformer_s"], {}, "no data at .* Set ADE_ROOT"),
        (
            ["fpn_uniformer_s"],
            dict(options={"test_dataloader.dataset.data_root": "/elsewhere"}),
            "no data at /elsewhere",
        ),
    ],
    ids=["name", "file", "limit", "page", "picture", "data", "data of the options"],
)
def test_mistakes_are_found_before_anything_is_downloaded(
    tmp_path, monkeypatch, names, settings, says
):
    monkeypatch.setattr(module, "fetch", lambda name: pytest.fail("downloads"))
    monkeypatch.setenv("ADE_ROOT", str(tmp_path / "none"))
    settings = dict(configs=CONFIGS, page=tmp_path / "page.md") | settings
    with pytest.raises(ValueError, match=says):
        list(reproduce(names, **settings))


def test_a_file_of_another_hash_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "require_data", lambda *_: None)
    (tmp_path / "mine.pth").write_bytes(b"1")
    with pytest.raises(
        ValueError, match=r"mine\.pth is not uniformer_small_in1k: expected 86314461"
    ):
        list(
            reproduce(
                ["uniformer_small_in1k"],
                configs=CONFIGS,
                page=tmp_path / "page.md",
                file=tmp_path / "mine.pth",
            )
        )
    assert not (tmp_path / "page.md").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "variable", "folder", "result"),
    [
        pytest.param(
            *("maskrcnn_uniformer_xxs", "COCO_ROOT", "coco"),
            rf"box AP ({FIGURE}), mask AP ({FIGURE})",
            marks=pytest.mark.exhaustive,
        ),
        ("fpn_uniformer_xxs", "ADE_ROOT", "ade", rf"mIoU ({FIGURE})"),
    ],
)
def test_stand_ins_are_evaluated_on_real_images(name, variable, folder, result, tmp_path):
    root = Path(os.environ.get(variable, SHARED / folder))
    if not root.is_dir():
        pytest.skip(f"no real data: neither {variable} is set nor {SHARED / folder} there")
    weights = dict(state_dict=publish(randomise(build_model(name))), meta=dict(epoch=12))
    torch.save(weights, tmp_path / "kept.pth")
    options = ["test_dataloader.dataset.pipeline.1.scale=(320,192)"]
    options += ["test_dataloader.num_workers=0", "test_dataloader.persistent_workers=False"]
    if folder == "coco":
        options += ["model.test_cfg.rcnn.score_thr=0.0", "model.test_cfg.rcnn.max_per_img=5"]
    command = ("tools/reproduce.py", name, "--file", tmp_path / "kept.pth", "--limit", 2)
    command += ("--work-dir", tmp_path / "logs")
    page = tmp_path / "page.md"
    for rows in (1, 2):
        code, out, err = run_warm(
            *command, "--page", page, "--cfg-options", *options, **{variable: str(root)}
        )
        assert code == 0, err
        lines = page.read_text().splitlines()
        assert module.NOTHING not in page.read_text()
        assert len([line for line in lines if line.startswith(f"| `{name}` | `{name}`")]) == rows
        assert lines[-1] in out
        assert re.search(rf"one scale, first 2 images, `.* \| {result} \|", lines[-1])
