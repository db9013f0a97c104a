"""Backbones by name: plain modules, which need mmengine and no other OpenMMLab package."""

import subprocess
import sys

import pytest
import torch
from backbone_cases import SIZES
from torch import nn

import hybrid_backbones
from hybrid_backbones import backbones, create_backbone, list_backbones
from hybrid_backbones.checkpoints import PUBLISHED
from hybrid_backbones.ops import ACmix

pytestmark = pytest.mark.upstream
QUICK = "uniformer_xxs"
# one of each network
SMALLEST = [
    *("acmix_resnet26", "acmix_swin_tiny", "biformer_tiny", "mixformer_b0", "swiftformer_xs"),
    *("uniformer_small", QUICK, "xvolution_resnet18"),
]


def build(name, **kwargs):
    with torch.device("meta"):
        return create_backbone(name, **kwargs)


def test_every_size_of_every_backbone_has_a_name():
    names = list_backbones()
    assert len(names) == len(set(names))
    assert len(names) == sum(map(len, SIZES.values()))
    networks = {type(build(name)) for name in names}
    assert networks == {getattr(backbones, name) for name in backbones.__all__} - {
        backbones.HierarchicalBackbone
    }


def test_the_name_of_published_weights_begins_with_that_of_their_backbone():
    of_classifiers = [name for name in PUBLISHED if name.endswith("_in1k")]
    assert of_classifiers
    for name in of_classifiers:
        assert any(name.startswith(backbone) for backbone in list_backbones()), name


@pytest.mark.parametrize("name", SMALLEST)
def test_declared_channels_and_strides_are_those_of_the_maps(name):
    backbone = build(name, out_indices=(0, 2, 3))
    assert isinstance(backbone, nn.Module)
    maps = backbone(torch.empty(1, 3, 224, 256, device="meta"))
    assert [x.shape[1] for x in maps] == [*backbone.out_channels]
    assert [(224 // x.shape[2], 256 // x.shape[3]) for x in maps] == [
        (stride, stride) for stride in backbone.strides
    ]
    assert backbone.strides == (4, 16, 32)


def test_settings_reach_the_network():
    backbone = build("biformer_tiny", num_windows=7, frozen_stages=1)
    assert backbone.stages[0].get_submodule("0").attn.num_windows == 7
    assert backbone.frozen_stages == 1
    plain = build("acmix_resnet26", hybrid_stages=[False] * 4)
    assert not any(isinstance(module, ACmix) for module in plain.modules())


def test_a_setting_that_the_network_lacks_gets_one_line():
    with pytest.raises(TypeError, match=r"'biformer_tiny' has no .* 'num_window'; did you mean"):
        build("biformer_tiny", num_window=7)
    with pytest.raises(TypeError, match=r"'swiftformer_xs' has no argument 'foo': it takes drop_"):
        build("swiftformer_xs", foo=1)


def test_a_checkpoint_is_loaded_completely_or_not_at_all(tmp_path):
    trained = create_backbone(QUICK)
    torch.save(dict(state_dict=trained.state_dict()), tmp_path / "trained.pth")
    loaded = create_backbone(QUICK, checkpoint=tmp_path / "trained.pth")
    for name, x in loaded.state_dict().items():
        assert x.equal(trained.state_dict()[name]), name
    with pytest.raises(ValueError, match="does not fit"):
        create_backbone("uniformer_xs", checkpoint=tmp_path / "trained.pth")


def test_a_wrong_name_gets_one_line():
    with pytest.raises(ValueError, match=r"no backbone 'uniformer_smal'; did you mean uniformer_"):
        create_backbone("uniformer_smal")
    with pytest.raises(ValueError, match=r"no backbone 'vgg'; list_backbones\(\) has them all"):
        create_backbone("vgg")


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        (dict(arch="l1"), "'swiftformer_xs' says arch already"),
        (dict(init_cfg=dict(type="Published")), "init_cfg is for configs.* give checkpoint="),
        (dict(pretrained=True), "pretrained is for configs.* give checkpoint="),
    ],
)
def test_a_setting_that_the_name_or_the_checkpoint_gives_is_refused(settings, line):
    with pytest.raises(ValueError, match=line):
        create_backbone("swiftformer_xs", **settings)


def test_no_host_is_needed():
    script = f"""
import sys
sys.modules.update(mmcv=None, mmdet=None, mmpretrain=None, mmseg=None)
import torch, hybrid_backbones
maps = hybrid_backbones.create_backbone({QUICK!r})(torch.rand(1, 3, 64, 64))
print(len(maps))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "4\n"), done.stderr


def test_without_mmengine_one_line_says_how_to_install_it(monkeypatch):
    monkeypatch.setattr("hybrid_backbones.installation.IN_CHECKOUT", False)
    monkeypatch.setattr("hybrid_backbones.installation.installed", lambda _: [])
    monkeypatch.delitem(sys.modules, "hybrid_backbones.create")
    monkeypatch.setitem(sys.modules, "mmengine", None)

    def fails(*_):
        raise ModuleNotFoundError(name="mmengine.registry")

    monkeypatch.setattr("hybrid_backbones.import_module", fails)
    with pytest.raises(ModuleNotFoundError) as raised:
        from hybrid_backbones import create_backbone  # noqa: F401
    assert str(raised.value) == (
        'hybrid_backbones.create_backbone needs mmengine: pip install "hybrid-backbones[backbones]"'
    )


def test_what_not_all_need_is_imported_on_first_use():
    script = """
import sys, hybrid_backbones
assert {"hybrid_backbones.create", "matplotlib.figure"}.isdisjoint(sys.modules)
assert {"create_backbone", "list_backbones"} <= set(hybrid_backbones.__all__)
hybrid_backbones.list_backbones()
assert "hybrid_backbones.create" in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    with pytest.raises(AttributeError, match="create_backbones"):
        hybrid_backbones.create_backbones  # noqa: B018
