"""The README is true: its figures are the code's, its examples run, its files exist."""

import re
from pathlib import Path

import pytest
import torch
from doc_blocks import blocks, execute
from mmengine.config import Config
from mmengine.registry import MODELS

from hybrid_backbones import backbones
from hybrid_backbones.checkpoints.commands import list_published

README = (Path(__file__).resolve().parent.parent / "README.md").read_text()
# files of the repository, by address
REPOSITORY = "hybrid-backbones/hybrid-backbones"
HOSTED = rf"(?:github\.com/{REPOSITORY}/blob|raw\.githubusercontent\.com/{REPOSITORY})/main"
OURS = rf"\]\(https://{HOSTED}/([^)#]+)"


def test_every_backbone_is_in_the_first_table():
    rows = set(re.findall(r"^\| `(\w+)` \| [^|]+ \| \[[^|]+arxiv", README, re.MULTILINE))
    assert rows == set(backbones.__all__) - {"HierarchicalBackbone"}


def test_the_first_example_prints_four_shapes(capsys):
    example = re.search(r"```python\n(import torch.*?)```", README, re.DOTALL)[1]
    exec(compile(example, "README.md", "exec"), {})
    assert len(capsys.readouterr().out.splitlines()) == 4


@pytest.mark.parametrize(
    ("said", "layer"), [('type="BiFormer"', "BiLevelRoutingAttention"), ('type="ACmix"', "ACmix")]
)
def test_a_swap_into_a_stock_config_builds_and_runs(said, layer, tmp_path):
    (example,) = (block.code for block in blocks(README, "python") if said in block.code)
    path = tmp_path / "mine.py"
    path.write_text("_base_ = 'mmdet::retinanet/retinanet_r50_fpn_1x_coco.py'\n" + example)
    model = MODELS.build(dict(Config.fromfile(path).model, _scope_="mmdet")).eval()
    assert layer in {type(module).__name__ for module in model.modules()}
    with torch.no_grad():
        outs = model.extract_feat(torch.zeros(1, 3, 64, 96))
    assert [tuple(out.shape[2:]) for out in outs][:2] == [(8, 12), (4, 6)]


def test_the_code_that_looks_inside_has_the_shapes_that_are_said():
    (example,) = (block.code for block in blocks(README, "python") if ".explain" in block.code)
    names = execute(example, "README.md")
    said = re.findall(r"^(\w+) = .*# (\(.+\))$", example, re.MULTILINE)
    assert {name: str(tuple(names[name].shape)) for name, _ in said} == dict(said)
    assert len(said) == 2


def test_the_weights_by_name_are_published():
    (example,) = (block.code for block in blocks(README, "python") if "Published" in block.code)
    checkpoint = execute(example, "README.md")["model"]["backbone"]["init_cfg"]["checkpoint"]
    assert [line.split()[0] for line in list_published(checkpoint)] == [checkpoint]


def test_the_config_for_own_data_is_that_of_its_page(repository):
    (example,) = (block.code for block in blocks(README, "python") if "own_data" in block.code)
    page = (repository / "docs/own_data.md").read_text()
    assert example in [block.code for block in blocks(page, "python")]
    assert f"check_data.py {example.split()[1]}" in README


def test_no_example_is_left_out():
    assert len(blocks(README, "python")) == 8, "give the new example a test here"


def test_every_file_that_is_linked_exists(repository):
    files = re.findall(OURS, README)
    assert files
    assert [file for file in files if not (repository / file).exists()] == []


def test_links_work_on_other_pages_than_the_repository():
    # an index shows the README under another address, where files beside it are not
    assert re.findall(r"\]\((?!https://)[^)]+\)", README) == []
    assert re.findall(r"!\[[^]]*\]\((?!https://raw\.)[^)]+\)", README) == []


def test_a_backbone_by_name_has_the_channels_and_strides_that_are_said(capsys):
    example = re.search(r"```python\n(from hybrid_backbones import create.*?)```", README, re.S)[1]
    exec(compile(example, "README.md", "exec"), {})
    assert capsys.readouterr().out.strip() == re.search(r"# (.+)", example)[1]


def rows_of_table(text):
    """Return the rows of the first table of a text by title, of ratios with what they are of."""
    lines = re.search(r"(?:^\|.*\n)+", text, re.MULTILINE)[0].splitlines()
    header, _, *rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    titles = [
        f"ratio of {header[place - 1]}" if title == "ratio" else title
        for place, title in enumerate(header)
    ]
    return [dict(zip(titles, row, strict=True)) for row in rows]


def test_the_table_of_operators_has_figures_of_the_benchmark_page(repository):
    page = (repository / "docs/benchmarks.md").read_text().partition("\n## Operators\n")[2]
    command, date = re.search(r"`python (tools/\S+ ops --threads 2) .*`, (\S+):", page).groups()
    said = README.partition(f"\n`python {command}` ({date}).\n")[2]
    assert said, "README has another command or date"
    measured = rows_of_table(page)
    rows = rows_of_table(said)
    assert len(rows) > 10
    assert [row for row in rows if not any(row.items() <= one.items() for one in measured)] == []
