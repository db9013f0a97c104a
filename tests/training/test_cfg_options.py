"""Which values of `--cfg-options` may replace which settings of a config."""

from copy import deepcopy

import pytest
from mmengine.config import Config, DictAction

from hybrid_backbones.training.cfg_options import CfgOptions, apply_cfg_options

SETTINGS = dict(
    model=dict(backbone=dict(type="Net", depth=26, scale=224, out_indices=(0, 1)), neck=None),
    optim_wrapper=dict(type="AmpOptimWrapper", loss_scale=512.0, optimizer=dict(lr=1e-3)),
    train_dataloader=dict(batch_size=16, dataset=dict(type="Set", data_prefix=dict(img="a"))),
    train_cfg=dict(max_epochs=20, by_epoch=True),
    param_scheduler=[dict(type="CosineAnnealingLR", T_max=20)],
    default_hooks=dict(logger=dict(interval=50)),
    custom_hooks=[dict(type="Hook")],
    randomness=dict(seed=0),
)


def apply(option):
    """Apply KEY=VALUE as the command line does, and return the changed config."""
    cfg = Config(deepcopy(SETTINGS))
    key, _, text = option.partition("=")
    apply_cfg_options(cfg, {key: CfgOptions._parse_iterable(text)})
    return cfg


NUMBERS = "lr=[0.1]", "lr=None", "lr=True", "lr=abc"
DICTS = "model.backbone", "train_dataloader", "train_dataloader.dataset", "default_hooks"
DICTS += ("default_hooks.logger", "train_cfg")
LISTS = "custom_hooks", "param_scheduler"
REFUSED = {
    f"optim_wrapper.optimizer.{text}": "a number, as 0.001 in the config" for text in NUMBERS
}
REFUSED |= {f"{key}={value}": "a dict" for key in DICTS for value in ("5", "abc", "True", "[1,2]")}
REFUSED |= {f"{key}={value}": "a list of dicts" for key in LISTS for value in ("5", "abc", "[abc]")}


@pytest.mark.parametrize("option", REFUSED)
def test_a_value_of_another_kind_is_refused_with_what_was_expected(option):
    key, _, text = option.partition("=")
    with pytest.raises(ValueError, match=f"--cfg-options {key}: ") as refused:
        apply(option)
    assert f"expected {REFUSED[option]}" in str(refused.value)
    assert str(refused.value).endswith(f"got {DictAction._parse_iterable(text)!r}")


@pytest.mark.parametrize(
    "option",
    [
        *("optim_wrapper.optimizer.lr=1", "optim_wrapper.optimizer.lr=inf"),
        *(
            "optim_wrapper.loss_scale=dynamic",
            "randomness.seed=None",
            "param_scheduler.0.T_max=None",
        ),
        *("model.backbone.scale=(224,192)", "model.backbone.out_indices=1", "model.neck=5"),
        *("train_dataloader.dataset.data_prefix=train", "train_dataloader=None", "custom_hooks=[]"),
        *("custom_hooks=None", "default_hooks.logger=None", "train_cfg.by_epoch=0"),
    ],
)
def test_a_value_that_the_libraries_accept_is_set(option):
    key, _, text = option.partition("=")
    settings = apply(option)
    for name in key.split("."):
        settings = settings[int(name) if name.isdigit() else name]
    assert settings == DictAction._parse_iterable(text)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("/data/my set", "/data/my set"),
        ("model (1).pth", "model (1).pth"),
        ("['traffic light', 'stop sign']", ["traffic light", "stop sign"]),
        ("[traffic light,stop sign]", ["traffic light", "stop sign"]),
        ("[( 1, 2 ), [a b, c]]", [(1, 2), ["a b", "c"]]),
        (" 5 ", 5),
        ("1, 2", [1, 2]),
    ],
)
def test_spaces_in_names_stay(text, value):
    assert CfgOptions._parse_iterable(text) == value


@pytest.mark.parametrize(
    "text", ["1", "1,2", "[1,2]", "(a,[b,1.5])", "None", "true", "'a'", "a=b,c"]
)
def test_other_values_are_parsed_as_mmengine_does(text):
    assert CfgOptions._parse_iterable(text) == DictAction._parse_iterable(text)


def test_a_list_may_be_longer_than_the_name_of_a_file():
    names = [f"class number {i}" for i in range(40)]
    assert CfgOptions._parse_iterable(",".join(names)) == names
    assert CfgOptions._parse_iterable("~nobody at all/x,y") == ["~nobody at all/x", "y"]


def test_a_comma_in_the_name_of_a_file_stays(tmp_path):
    (tmp_path / "a,b").mkdir()
    assert CfgOptions._parse_iterable(f"{tmp_path}/a,b") == f"{tmp_path}/a,b"
    assert CfgOptions._parse_iterable(f"{tmp_path}/a,c") == [f"{tmp_path}/a", "c"]
