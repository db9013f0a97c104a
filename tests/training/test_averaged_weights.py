"""Averages of the weights (EMA), with which UniFormer's light networks were published."""

import json

import pytest
import torch
from mmengine.config import Config
from tool_runs import REPOSITORY, evaluate, metric_on_file, run_warm, train

from hybrid_backbones.mini.preset import apply_mini

CONFIG = "configs/imagenet_uniformer_xxs.py"
SHORT = ["train_cfg.val_interval=1", "train_dataloader.dataset.indices=32"]
HOOK = Config.fromfile(REPOSITORY / CONFIG).default_hooks.ema
AVERAGED = [f"default_hooks.ema.{key}={value}" for key, value in HOOK.items()]


@pytest.fixture(scope="module")
def work_dir(tmp_path_factory):
    """Go on from a checkpoint of a time without averages."""
    folder = tmp_path_factory.mktemp("averaged")
    options = ["train_cfg.max_epochs=1", *SHORT]
    code, _, err = run_warm(*train(folder, config=CONFIG, options=options))
    assert code == 0, err
    assert "ema_state_dict" not in torch.load(folder / "epoch_1.pth", weights_only=False)
    options = ["train_cfg.max_epochs=2", *SHORT, *AVERAGED]
    code, _, err = run_warm(*train(folder, "--resume", config=CONFIG, options=options))
    assert code == 0, err
    return folder


@pytest.mark.slow
def test_validation_measures_the_average_and_the_weights(work_dir, tmp_path):
    lines = []
    for path in sorted(work_dir.glob("*/vis_data/scalars.json")):
        lines += [json.loads(line) for line in path.read_text().splitlines()]
    (measured,) = [line for line in lines if "accuracy/top1_origin" in line]
    content = torch.load(work_dir / "epoch_2.pth", weights_only=False)
    average, weights = content["state_dict"], content["ema_state_dict"]
    assert weights.pop("steps") == 2
    weights = {name.removeprefix("module."): x for name, x in weights.items()}
    assert any(not torch.equal(average[name], x) for name, x in weights.items())
    torch.save(dict(content, state_dict=weights), tmp_path / "weights.pth")
    kinds = {"accuracy/top1": work_dir / "epoch_2.pth"}
    kinds["accuracy/top1_origin"] = tmp_path / "weights.pth"
    for name, checkpoint in kinds.items():
        flags = ("--cfg-options", *AVERAGED)
        code, out, err = run_warm(
            *evaluate(tmp_path / checkpoint.stem, checkpoint, *flags, config=CONFIG)
        )
        assert code == 0, err
        # the weights of the file are measured, once
        assert "top1_origin" not in out
        assert metric_on_file(tmp_path / checkpoint.stem) == pytest.approx(measured[name])


def test_mini_runs_are_too_short_for_an_average(mini_root):
    cfg = Config.fromfile(REPOSITORY / CONFIG)
    apply_mini(cfg, mini_root)
    assert "ema" not in cfg.default_hooks
