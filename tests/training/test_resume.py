"""What `--resume` goes on with: which checkpoint, whose settings, and what cannot be combined."""

import math
import re
from copy import deepcopy

import pytest
from mmengine.config import Config
from mmengine.hooks import EMAHook, LoggerHook
from mmpretrain.engine.hooks import EMAHook as HostsEMAHook

from hybrid_backbones.checkpoints import guard_loads
from hybrid_backbones.training.resume import (
    adopt_settings,
    progress,
    read_settings,
    require_averaging,
)

SETTINGS = dict(
    model=dict(type="Net", depth=26, head=dict(type="Head", loss_weight=1.0)),
    optim_wrapper=dict(
        type="OptimWrapper",
        optimizer=dict(type="AdamW", lr=1e-3, betas=(0.9, 0.999)),
        clip_grad=dict(max_norm=1.0),
    ),
    param_scheduler=[dict(type="LinearLR", end=5), dict(type="CosineAnnealingLR", T_max=20)],
    train_dataloader=dict(batch_size=16, num_workers=2, dataset=dict(type="Set", pipeline=[])),
    train_cfg=dict(type="EpochBasedTrainLoop", max_epochs=20),
    default_hooks=dict(logger=dict(type="LoggerHook", interval=50)),
    custom_hooks=[dict(type="FiniteLossHook")],
    data_preprocessor=dict(mean=[0.0], to_rgb=True),
    randomness=dict(seed=0),
)


def checkpoint_of(settings, seed=0):
    meta = dict(cfg=Config(settings).pretty_text, seed=seed, epoch=5, iter=50)
    return dict(meta=meta, message_hub=dict(log_scalars={}, runtime_info={}, resumed_keys={}))


def changed(**options):
    cfg = Config(deepcopy(SETTINGS))
    cfg.merge_from_dict({key.replace("__", "."): value for key, value in options.items()})
    return cfg


def test_the_text_of_a_config_is_read_as_mmengine_would():
    cfg = Config(
        dict(
            a=dict(b=[1, (2.5, None)], empty={}, none=[]),
            names={"0": "zero", "a b": dict(c=True)},
            note="it's",
            limits=[float("inf"), -float("inf")],
        )
    )
    read = read_settings(cfg.pretty_text)
    assert read == cfg.to_dict()
    assert math.isnan(read_settings(Config(dict(a=math.nan)).pretty_text)["a"])


def test_no_code_of_a_checkpoints_config_is_run(tmp_path):
    text = f"a = open({str(tmp_path / 'made')!r}, 'w')\nb = __import__('os').getcwd()\n"
    read_settings(text)
    assert not (tmp_path / "made").exists()


def test_the_same_settings_have_no_differences():
    cfg = changed()
    before = cfg.to_dict()
    assert adopt_settings(cfg, checkpoint_of(SETTINGS)) == []
    assert cfg.to_dict() == before


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (dict(optim_wrapper__optimizer__lr=0.5), r"\.lr is 0\.001 .*and 0\.5 .*checkpoint's"),
        (dict(optim_wrapper__optimizer__eps=0.5), r"\.eps is not set .*0\.5 .*checkpoint's"),
        (dict(param_scheduler__1__T_max=9), r"param_scheduler\.1\.T_max is 20 .* 9 .*checkpoint's"),
        (dict(randomness__seed=7), r"randomness\.seed is 0 .*and 7 in .*the checkpoint's is used"),
        (dict(train_dataloader__batch_size=4), r"batch_size is 16 .*and 4 in .*config's is used"),
        (dict(train_cfg__max_epochs=30), r"max_epochs is 20 .*and 30 in .*the config's is used"),
        (dict(model__head__loss_weight=2.0), r"loss_weight is 1\.0 .*2\.0 in .*config's is used"),
        (dict(train_cfg__milestones=[]), r"milestones is not set .*and \[\] in .*config's is used"),
        (dict(default_hooks__logger__interval=9), r"logger\.interval is 50 .*9 in .*config's"),
        (dict(default_hooks__ema__type="EMAHook"), r"ema\.type is not set .*'EMAHook' .*config's"),
        (dict(custom_hooks__0__patience=1), r"custom_hooks\.0\.patience is not set .*config's"),
        (dict(data_preprocessor__to_rgb=False), r"to_rgb is True .*False in .*config's is used"),
        (dict(optim_wrapper__type="AmpOptimWrapper"), r"'OptimWrapper' .*'AmpOpt.*config's"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_difference_says_whose_value_is_used_and_it_is(options, line):
    cfg = changed(**options)
    (said,) = adopt_settings(cfg, checkpoint_of(SETTINGS))
    assert re.search(line, said), said
    # what the run will save as its settings is what it was trained with
    used = changed() if "the checkpoint's is used" in said else changed(**options)
    assert cfg.to_dict() == used.to_dict()


def test_the_speed_of_loading_is_no_difference():
    cfg = changed(train_dataloader__num_workers=8, train_dataloader__pin_memory=True)
    assert adopt_settings(cfg, checkpoint_of(SETTINGS)) == []


def test_a_random_seed_is_that_of_the_checkpoint():
    cfg = changed()
    # as in the configs of the hosts, whose runner then draws a seed
    cfg.pop("randomness")
    (said,) = adopt_settings(cfg, checkpoint_of(cfg.to_dict(), seed=1234))
    assert "randomness.seed is 1234 in the checkpoint and not set in the config" in said
    assert cfg.randomness.seed == 1234


def test_another_optimiser_is_refused():
    with pytest.raises(ValueError, match=r"state of AdamW.*SGD cannot continue.*load_from"):
        adopt_settings(changed(optim_wrapper__optimizer__type="SGD"), checkpoint_of(SETTINGS))


WHOLE = SETTINGS["optim_wrapper"]["optimizer"]
DIVIDED = dict(WHOLE, type="ShardedOptimizer", optimizer_type="AdamW")


@pytest.mark.parametrize(("old", "new"), [(WHOLE, DIVIDED), (DIVIDED, WHOLE)])
def test_a_state_may_be_divided_or_not_any_more(old, new):
    old, cfg = (changed(optim_wrapper=dict(optimizer=part, _delete_=True)) for part in (old, new))
    before = cfg.to_dict()
    assert adopt_settings(cfg, checkpoint_of(old.to_dict())) == []
    assert cfg.to_dict() == before
    # its settings are those of the checkpoint all the same
    cfg.optim_wrapper.optimizer.lr = 0.5
    assert len(adopt_settings(cfg, checkpoint_of(old.to_dict()))) == 1
    assert cfg.to_dict() == before


def test_another_divided_optimiser_is_refused():
    cfg = changed(optim_wrapper__optimizer=dict(DIVIDED, optimizer_type="SGD"))
    with pytest.raises(ValueError, match=r"state of AdamW.*SGD cannot continue.*load_from"):
        adopt_settings(cfg, checkpoint_of(SETTINGS))


PROGRAM = dict(type="torch.hub.load", repo_or_dir="/tmp", model="m", source="local")


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (dict(param_scheduler=[PROGRAM]), r"param_scheduler .*'torch\.hub\.load'"),
        (dict(param_scheduler=[dict(a=[dict(PROGRAM, _scope_="torch")])]), r"'torch\.hub\.load'"),
        (dict(param_scheduler=[dict(type="LinearLR", _scope_="evil")]), "'LinearLR'"),
        (dict(param_scheduler=[dict(type="evil.LinearLR")]), r"'evil\.LinearLR'"),
        (dict(param_scheduler=[dict(type="AdamW")]), "'AdamW'"),
        (dict(param_scheduler=[dict(type=["os.system"])]), r"\['os\.system'\]"),
        (dict(optim_wrapper__constructor="os.system"), r"constructor .*'os\.system'"),
        (dict(optim_wrapper__optimizer__swap=PROGRAM), r"optimizer .*'torch\.hub\.load'"),
        (dict(optim_wrapper__optimizer___scope_="evil"), "'AdamW'"),
        (dict(optim_wrapper__paramwise_cfg=dict(a=[PROGRAM])), r"paramwise_cfg .*'torch\.hub"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_what_a_checkpoint_names_is_only_looked_up_never_imported(options, line):
    traps = changed(**options).to_dict()
    cfg = changed()
    with pytest.raises(ValueError, match=f"^--resume: .*{line}.*may run code"):
        adopt_settings(cfg, checkpoint_of(traps))
    # what the config itself names, and what the user allows, is used
    assert adopt_settings(Config(traps), checkpoint_of(traps)) == []
    with guard_loads(run_code=True):
        adopt_settings(changed(), checkpoint_of(traps))


def test_what_is_registered_is_restored_for_every_host():
    names = dict(type="mmpretrain.MultiStepLR"), dict(type="PolyLR", _scope_="mmdet")
    old = changed(param_scheduler=list(names))
    old.optim_wrapper.constructor = "LearningRateDecayOptimWrapperConstructor"
    cfg = changed(default_scope="mmpretrain")
    assert len(adopt_settings(cfg, checkpoint_of(old.to_dict()))) > 2
    assert [*cfg.param_scheduler] == [*names]


def test_averages_are_not_taken_for_the_weights():
    checkpoint = dict(checkpoint_of(SETTINGS), ema_state_dict={})
    with pytest.raises(ValueError, match=r"^--resume: .*averages.*no EMAHook.*load_from"):
        require_averaging([LoggerHook()], checkpoint)
    require_averaging([LoggerHook(), HostsEMAHook()], checkpoint)
    # an average can begin later
    require_averaging([EMAHook()], checkpoint_of(SETTINGS))


def test_progress_is_counted_as_the_loop_counts():
    assert progress(changed(), checkpoint_of(SETTINGS)) == ("epoch", 5, 20)
    cfg = Config(dict(train_cfg=dict(by_epoch=False, max_iters=100)))
    checkpoint = checkpoint_of(SETTINGS)
    checkpoint["meta"].update(epoch=0, iter=40)
    assert progress(cfg, checkpoint) == ("iter", 40, 100)


@pytest.mark.parametrize(
    ("damage", "line"),
    [
        (dict(message_hub={}), "damaged, its message_hub has no dicts log_scalars"),
        (dict(message_hub=None), "damaged, its message_hub"),
        (dict(meta=[]), "does not say how far"),
        (dict(epoch="5"), "damaged, epoch, iter and seed"),
        (dict(iter=None), "damaged, epoch, iter and seed"),
        (dict(seed="x"), "damaged, epoch, iter and seed"),
        *(
            (dict(cfg=text), r"damaged, meta\.cfg")
            for text in (5, None, "a =", "a\0 = 1", "a.b = 1")
        ),
        *((dict(cfg=text), r"damaged, meta\.cfg") for text in ("a = dict(1)", "a = {[]: 1}")),
        (dict(cfg=f"a = {'(' * 5000}{')' * 5000}"), r"damaged, meta\.cfg"),
    ],
    ids=lambda value: repr(value)[:30],
)
def test_a_damaged_checkpoint_is_refused_in_one_line(damage, line):
    cfg, checkpoint = changed(), checkpoint_of(SETTINGS)
    for name, value in damage.items():
        (checkpoint if name in checkpoint else checkpoint["meta"])[name] = value
    with pytest.raises(ValueError, match=f"^--resume: the checkpoint .*{line}.*load_from"):
        progress(cfg, checkpoint), adopt_settings(cfg, checkpoint)
    assert cfg.to_dict() == changed().to_dict()


def test_the_seed_is_not_read_from_the_text():
    cfg, checkpoint = changed(), checkpoint_of(dict(SETTINGS, randomness=None))
    cfg.randomness = None
    adopt_settings(cfg, checkpoint)
    assert cfg.randomness.seed == 0


def test_what_is_no_checkpoint_of_a_training_is_refused():
    with pytest.raises(ValueError, match="does not say how far"):
        progress(changed(), [1])
