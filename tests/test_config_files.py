"""Configs of the package are found by name, inherited from anywhere, and listed for OpenMIM."""

from argparse import Namespace
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.hub import get_config
from mmengine.registry import MODELS, DefaultScope

from hybrid_backbones.benchmark import model_index
from hybrid_backbones.benchmark.zoo_table import read_zoo
from hybrid_backbones.checkpoints import PUBLISHED
from hybrid_backbones.config_files import CONFIGS, MIM, find_config
from hybrid_backbones.training.run_config import read_config

pytestmark = pytest.mark.upstream
NAME = "maskrcnn_uniformer_s"
BASE = f"_base_ = 'hybrid_backbones::configs/{NAME}.py'\n"


def test_the_packaged_configs_are_those_of_the_checkout(repository):
    assert repository / "configs" == CONFIGS
    assert (MIM / "tools").resolve() == repository / "tools"


@pytest.mark.parametrize("config", [NAME, f"{NAME}.py"])
def test_a_name_is_looked_up_in_any_folder(config, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert find_config(config) == CONFIGS / f"{NAME}.py"
    # a folder has the name of the config when a training has begun there
    Path(config).mkdir()
    assert find_config(config) == CONFIGS / f"{NAME}.py"
    cfg = read_config(Namespace(config=config, mini=False, cfg_options=None))
    assert cfg.model.backbone.type == "UniFormer"


def test_a_file_comes_before_a_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    mine = Path(f"{NAME}.py")
    mine.touch()
    assert find_config(mine) == mine


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ("maskrcnn_uniforme_s", f"did you mean {NAME} or "),
        ("nothing-like-it", r"no config at nothing-like-it: check the path, .*/configs$"),
        # a path is not a name
        (f"elsewhere/{NAME}.py", f"no config at elsewhere/.*did you mean {NAME}"),
        ("runtime", r"no config at runtime"),
    ],
    ids=["near", "far", "path", "base"],
)
def test_a_wrong_name_gets_one_line(config, says):
    with pytest.raises(ValueError, match=says) as error:
        find_config(config)
    assert "\n" not in str(error.value)


def test_a_config_is_inherited_by_the_name_of_the_package(tmp_path):
    mine = tmp_path / "mine.py"
    mine.write_text(
        BASE + "schedule = {{_base_.train_cfg}}\nmodel = dict(backbone=dict(arch='base'))\n"
    )
    cfg = Config.fromfile(mine)
    expected = Config.fromfile(CONFIGS / f"{NAME}.py")
    expected.model.backbone.arch = "base"
    assert cfg.pop("schedule") == expected.train_cfg
    # types are looked up in the config's own scope, as when it is read by its path
    assert cfg.to_dict() == expected.to_dict()
    with DefaultScope.overwrite_default_scope(cfg.default_scope), torch.device("meta"):
        assert type(MODELS.build(cfg.model)).__module__.startswith("mmdet.")


def test_a_base_that_is_not_there_is_named(tmp_path):
    (tmp_path / "mine.py").write_text("_base_ = 'hybrid_backbones::configs/none.py'\n")
    args = Namespace(config=tmp_path / "mine.py", mini=False, cfg_options=None)
    with pytest.raises(ValueError, match=r"cannot read the config .*mine\.py: .*none\.py"):
        read_config(args)


def test_bases_of_the_hosts_are_inherited_as_before(tmp_path):
    mine = tmp_path / "mine.py"
    mine.write_text("_base_ = 'mmdet::retinanet/retinanet_r50_fpn_1x_coco.py'\n")
    assert Config.fromfile(mine).model._scope_ == "mmdet"


def test_the_index_is_up_to_date():
    index = (MIM / model_index.FILE).read_text()
    assert index == model_index.write_index(read_zoo().rows), "run `python tools/model_zoo.py`"


def test_the_hub_finds_a_config_and_its_weights():
    cfg = get_config(f"hybrid_backbones::configs/{NAME}.py", pretrained=True)
    assert cfg.model.backbone.type == "UniFormer"
    assert PUBLISHED[cfg.model_path].config == NAME
