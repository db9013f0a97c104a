"""The README is true: its figures are the code's, its examples run, its files exist."""

import re
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS

README = (Path(__file__).resolve().parent.parent / "README.md").read_text()


def zoo_rows():
    """Find the rows of the zoo: config and parameters in millions."""
    return re.findall(r"^\| `?(imagenet_\w+)`? \|[^|]*\| ([\d.]+) \|", README, re.MULTILINE)


def test_the_zoo_lists_every_classifier(repository):
    configs = {path.stem for path in (repository / "configs").glob("imagenet_acmix*.py")}
    assert {name for name, _ in zoo_rows()} >= configs


@pytest.mark.parametrize(("name", "millions"), zoo_rows())
def test_the_zoo_has_the_parameter_counts_of_the_code(repository, name, millions):
    cfg = Config.fromfile(repository / "configs" / f"{name}.py")
    backbone = MODELS.build(dict(cfg.model.backbone, _scope_="mmpretrain"))
    count = sum(parameter.numel() for parameter in backbone.parameters())
    assert f"{count / 1e6:.1f}" == millions


def test_the_first_example_prints_four_shapes(capsys):
    example = re.search(r"```python\n(import torch.*?)```", README, re.DOTALL)[1]
    exec(compile(example, "README.md", "exec"), {})
    assert len(capsys.readouterr().out.splitlines()) == 4


def test_the_swap_into_a_stock_config_builds_and_runs(tmp_path):
    example = re.search(r"```python\n(custom_imports.*?)```", README, re.DOTALL)[1]
    path = tmp_path / "mine.py"
    path.write_text("_base_ = 'mmdet::retinanet/retinanet_r50_fpn_1x_coco.py'\n" + example)
    model = MODELS.build(dict(Config.fromfile(path).model, _scope_="mmdet")).eval()
    with torch.no_grad():
        outs = model.extract_feat(torch.zeros(1, 3, 64, 96))
    assert [tuple(out.shape[2:]) for out in outs][:2] == [(8, 12), (4, 6)]


def test_every_file_that_is_linked_exists(repository):
    links = re.findall(r"\]\(((?!http)[^)#]+)\)", README)
    assert links
    assert [link for link in links if not (repository / link).exists()] == []
