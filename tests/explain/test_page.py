"""The page of pictures: what it names exists, every operator is on it, and its script writes it."""

import re
import runpy
import shutil
import sys

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope
from PIL import Image

from hybrid_backbones.explain import sketches, weights
from hybrid_backbones.explain.gallery import ENTRIES, FRONT
from hybrid_backbones.explain.page import (
    choose_panels,
    config_of,
    find_trained,
    read_subject,
    write_page,
)
from hybrid_backbones.explain.records import RECORDERS
from hybrid_backbones.explain.scene import Scene
from hybrid_backbones.explain.views import VIEWS
from hybrid_backbones.mini.preset import apply_mini

QUICK = "imagenet_swiftformer_xs"


def page_of(repository):
    return (repository / "docs/inside.md").read_text()


def test_every_picture_of_the_page_exists_and_is_small(repository):
    pictures = re.findall(r"!\[[^]]+\]\(([^)]+)\)", page_of(repository))
    assert pictures == [f"inside/{entry.name}.png" for entry in ENTRIES]
    there = {path.name for path in (repository / "docs/inside").iterdir()}
    assert there == {f"{entry.name}.png" for entry in [FRONT, *ENTRIES]}
    sizes = [path.stat().st_size for path in (repository / "docs/inside").iterdir()]
    assert sum(sizes) < 2 * 1024**2
    for path in pictures:
        with Image.open(repository / "docs" / path) as picture:
            assert picture.width >= 3 * 512


def test_every_operator_is_on_the_page(repository):
    operators = {*weights.OPERATORS, *RECORDERS, *sketches.OPERATORS, *sketches.RECORDERS}
    page = page_of(repository)
    assert {kind.__name__ for kind in operators if f"`{kind.__name__}`" not in page} == set()


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.name)
def test_a_model_has_an_operator_that_it_is_there_for(repository, entry):
    cfg = Config.fromfile(repository / f"configs/{entry.config}.py")
    apply_mini(cfg)
    with DefaultScope.overwrite_default_scope(cfg.default_scope), torch.device("meta"):
        model = MODELS.build(cfg.model.backbone)
    kinds = {type(module) for module in model.modules()}
    assert not entry.operators or kinds & {*entry.operators}


def test_commands_name_files_that_exist_and_flags_of_the_tool(repository):
    commands = re.findall(r"^python (?:.*\\\n)*.*$", page_of(repository), re.MULTILINE)
    assert len(commands) == sum(len(entry.panels) for entry in ENTRIES)
    tool = (repository / "hybrid_backbones/cli/explain.py").read_text()
    for command in commands:
        words = command.replace("\\\n", "").split()
        assert words[1] == "tools/explain.py"
        assert (repository / words[3]).is_file()
        config = words[3].removeprefix("configs/").removesuffix(".py")
        assert re.fullmatch(rf"work_dirs/{config}_mini/(epoch|iter)_\d+\.pth", words[4])
        flags = {word for word in words if word.startswith("--")} - {"--mini", "--cfg-options"}
        assert [flag for flag in flags if f'"{flag}"' not in tool] == []


def stand_in(repository, entry, work_dirs):
    """Save a network that has not been trained as the end of its training."""
    cfg = config_of(entry, repository / "configs")
    torch.manual_seed(0)
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        model = MODELS.build({"data_preprocessor": cfg.get("data_preprocessor"), **cfg.model})
    if cfg.default_scope == "mmdet":
        for key, bias in model.named_parameters():
            # so that a detector is sure of something
            if key.endswith("fc_cls.bias"):
                torch.nn.init.zeros_(bias)
    folder = work_dirs / f"{entry.config}_mini"
    folder.mkdir(parents=True)
    unit, end = ("epoch", "max_epochs") if "max_epochs" in cfg.train_cfg else ("iter", "max_iters")
    path = folder / f"{unit}_{cfg.train_cfg[end]}.pth"
    torch.save(dict(state_dict=model.state_dict()), path)
    return path


def test_missing_trainings_are_named_with_their_command(repository, tmp_path):
    with pytest.raises(ValueError, match="models are not trained yet") as error:
        find_trained(ENTRIES, repository / "configs", tmp_path)
    names = {entry.config for entry in ENTRIES}
    for name in names:
        command = (
            f"python tools/train.py configs/{name}.py --mini --work-dir {tmp_path}/{name}_mini"
        )
        assert command in str(error.value)
    assert "--cfg-options model.backbone.window_size=4" in str(error.value)
    assert "\n" not in str(error.value)
    assert list(tmp_path.iterdir()) == []


def test_an_unfinished_training_is_not_shown(repository, tmp_path):
    [*entries] = [entry for entry in ENTRIES if entry.config == QUICK]
    checkpoint = stand_in(repository, entries[0], tmp_path)
    found = find_trained(entries, repository / "configs", tmp_path)
    assert found[QUICK].checkpoint == checkpoint
    checkpoint.rename(checkpoint.with_name("epoch_1.pth"))
    with pytest.raises(ValueError, match="1 of 1 models are not trained yet"):
        find_trained(entries, repository / "configs", tmp_path)


def test_the_page_is_written_from_what_is_trained(repository, mini_root, tmp_path, monkeypatch):
    monkeypatch.chdir(repository)
    entries = [entry for entry in ENTRIES if entry.config == QUICK]
    checkpoint = stand_in(repository, entries[0], tmp_path / "work_dirs")
    page = write_page(
        repository / "configs", tmp_path / "work_dirs", tmp_path, entries, with_front=False
    )
    text = page.read_text()
    pictures = [*(tmp_path / "inside").iterdir()]
    assert {path.stem for path in pictures} == {entry.name for entry in entries}
    for path in pictures:
        with Image.open(path) as picture:
            assert picture.width >= 3 * 512
    assert all(f"## {entry.heading}\n" in text for entry in entries)
    assert f"work_dirs/{QUICK}_mini/{checkpoint.name}" in text


def test_a_picture_has_the_image_and_the_panels_that_are_named(
    repository, mini_root, tmp_path, monkeypatch
):
    monkeypatch.chdir(repository)
    entry = next(entry for entry in ENTRIES if entry.config == QUICK and entry.name != "features")
    stand_in(repository, entry, tmp_path)
    trained = find_trained([entry], repository / "configs", tmp_path)[QUICK]
    subject = read_subject(entry, trained)
    [(what, indices, layer)] = entry.panels
    all_there_is = [panel.title for panel in VIEWS[what](Scene(subject, layer)).panels]
    image, *panels = [panel.title for panel in choose_panels(entry, subject)]
    assert panels == [all_there_is[i] for i in indices]
    assert image not in all_there_is


@pytest.mark.exhaustive
def test_the_script_draws_every_picture(repository, mini_root, tmp_path, monkeypatch):
    monkeypatch.chdir(repository)
    for entry in {entry.config: entry for entry in [FRONT, *ENTRIES]}.values():
        stand_in(repository, entry, tmp_path / "work_dirs")
    command = ["inside.py", "--work-dirs", str(tmp_path / "work_dirs"), "--out", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", command)
    with pytest.raises(SystemExit) as end:
        runpy.run_path("tools/inside.py", run_name="__main__")
    assert end.value.code == 0
    assert {path.stem for path in (tmp_path / "inside").iterdir()} == {
        entry.name for entry in [FRONT, *ENTRIES]
    }
    assert page_of(repository).count("\n## ") == (tmp_path / "inside.md").read_text().count("\n## ")
    # the weights of all models are large
    shutil.rmtree(tmp_path / "work_dirs")
