"""The recipes of docs/recipes.md run as they stand, and train in mixed precision."""

import re
from functools import cache
from pathlib import Path

import pytest
import torch
from doc_blocks import blocks
from doc_blocks import execute as run_block

import hybrid_backbones

PAGE = (Path(__file__).resolve().parent.parent / "docs/recipes.md").read_text()
START, *SECTIONS = re.split(r"^## (.+)\n", PAGE, flags=re.MULTILINE)
RECIPES = dict(zip(SECTIONS[::2], SECTIONS[1::2], strict=True))


def code_of(text):
    return [block.code for block in blocks(text, "python")]


def execute(code):
    return run_block(code, "docs/recipes.md")


FIRST, LOOP = code_of(START)


@cache
def recipe(title):
    """Return what a recipe defines."""
    torch.manual_seed(0)
    return execute("\n".join(code_of(RECIPES[title])))


DETECTOR, TIMM, _ = RECIPES


@pytest.mark.parametrize("title", RECIPES)
def test_a_recipe_has_ten_lines_below_its_imports(title):
    recipe, trial = code_of(RECIPES[title])
    lines = [line for line in recipe.splitlines() if line]
    assert len([line for line in lines if not re.match("from|import", line)]) <= 10
    assert "def loss()" in trial


# without instructions for float16, a CPU takes minutes for a detector; for bfloat16, some have none
CASES = [
    pytest.param(title, dtype, marks=pytest.mark.exhaustive if title == DETECTOR else ())
    for title in RECIPES
    for dtype in (torch.bfloat16, torch.float16)
    if (title, dtype) != (DETECTOR, torch.float16)
]


@pytest.mark.parametrize(("title", "dtype"), CASES, ids=str)
def test_a_recipe_trains_in_mixed_precision(title, dtype):
    model, loss = recipe(title)["model"].train(), recipe(title)["loss"]
    before = {name: x.detach().clone() for name, x in model.named_parameters()}
    value = execute(LOOP)["train"](model, loss, dtype, steps=2)
    assert torch.tensor(value).isfinite()
    for name, x in model.named_parameters():
        assert x.dtype == x.grad.dtype == torch.float32, name
        assert x.grad.isfinite().all(), name
    moved = [name for name, x in model.named_parameters() if not x.equal(before[name])]
    assert len(moved) > len(before) / 2


def test_the_first_example_prints_what_it_says(capsys):
    execute(FIRST)
    names, shapes = capsys.readouterr().out.splitlines()
    assert names == str(hybrid_backbones.list_backbones())
    said = re.findall(r"# (.+)", FIRST)
    assert said[0].split(", ")[0] == hybrid_backbones.list_backbones()[0]
    assert set(said[0].split(", ")) - {"..."} <= set(hybrid_backbones.list_backbones())
    assert shapes == said[1]


def test_no_recipe_names_another_package_of_openmmlab():
    imported = set(re.findall(r"^(?:from|import) (\w+)", "\n".join(code_of(PAGE)), re.MULTILINE))
    assert imported == {"hybrid_backbones", "torch", "torchvision", "types"}


def test_code_for_timm_finds_what_it_asks_for():
    encoder, images = recipe(TIMM)["encoder"].eval(), recipe(TIMM)["images"]
    maps, info = encoder(images), encoder.feature_info
    assert isinstance(maps, list)
    assert info.channels() == [x.shape[1] for x in maps]
    assert info.reduction() == [images.shape[2] // x.shape[2] for x in maps]


def test_the_detector_predicts_boxes():
    model, images = recipe(DETECTOR)["model"].eval(), recipe(DETECTOR)["images"]
    with torch.no_grad():
        results = model(images)
    assert [result.keys() >= {"boxes", "labels", "scores"} for result in results] == [True, True]
