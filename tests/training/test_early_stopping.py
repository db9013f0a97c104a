"""Laws of early stopping over interruptions."""

from types import SimpleNamespace

import pytest
from mmengine.config import Config
from mmengine.hooks import EarlyStoppingHook

from hybrid_backbones.training.early_stopping import (
    FILE,
    KeepCountsHook,
    has_stopped,
    read_validations,
)

# the best is the second, and the third one after it without a gain ends the training
SCORES = [0.1, 0.5, 0.4, 0.5, 0.3, 0.9, 0.9]
END = 5
CONFIG = Config(dict(default_hooks=dict(stop=dict(type="EarlyStoppingHook"), ema=None)))


def part(work_dir, begin=0, end=7, monitor="score", earlier=None):
    """Train from one iteration to another, with a validation after each; return where it ended."""
    validations = read_validations((earlier or work_dir) / "epoch_1.pth", begin) if begin else {}
    # equal scores are no gain
    count = EarlyStoppingHook(monitor, rule="greater", min_delta=0.01, patience=3)
    runner = SimpleNamespace(
        iter=begin,
        work_dir=str(work_dir),
        hooks=[count, KeepCountsHook(validations)],
        logger=SimpleNamespace(info=lambda _: None),
        train_loop=SimpleNamespace(stop_training=False),
    )
    runner.hooks[1].before_train(runner)
    while runner.iter < end and not runner.train_loop.stop_training:
        runner.iter += 1
        for hook in runner.hooks:
            hook.after_val_epoch(runner, metrics={monitor: SCORES[runner.iter - 1]})
    return runner.iter


def is_finished(work_dir, iteration, cfg=CONFIG):
    validations = read_validations(work_dir / "epoch_1.pth", iteration)
    return has_stopped(cfg, validations, iteration)


@pytest.mark.parametrize("end", range(1, END))
def test_an_interrupted_training_stops_where_it_would_have_stopped(tmp_path, end):
    assert part(tmp_path / "whole") == END
    assert part(tmp_path, end=end) == end
    # from any of its checkpoints, also after the last validation was kept
    for begin in range(1, end + 1):
        assert not is_finished(tmp_path, begin)
        assert part(tmp_path, begin) == END


def test_a_training_that_stopped_early_has_finished_unless_the_config_stops_no_more(tmp_path):
    part(tmp_path)
    assert [is_finished(tmp_path, n) for n in range(1, END + 2)] == [False] * 4 + [True, False]
    assert not is_finished(tmp_path, END, Config(dict(custom_hooks=None)))


@pytest.mark.parametrize("kind", [EarlyStoppingHook, "mmengine.hooks.EarlyStoppingHook"])
def test_a_hook_given_as_a_class_or_with_its_module_stops_as_well(tmp_path, kind):
    part(tmp_path)
    assert is_finished(tmp_path, END, Config(dict(custom_hooks=[dict(type=kind)])))


def test_counts_of_another_training_or_metric_do_not_count(tmp_path):
    part(tmp_path, end=4)
    # the gain of the sixth comes in time
    assert part(tmp_path, begin=4, monitor="other") == len(SCORES)
    assert part(tmp_path, end=1) == 1
    assert [*read_validations(tmp_path / "epoch_1.pth", 9)] == ["1"]


def test_counts_come_with_the_checkpoint_from_another_folder(tmp_path):
    one, other = tmp_path / "one", tmp_path / "other"
    part(one, end=4)
    assert part(other, begin=4, earlier=one) == END
    assert is_finished(other, END)


def test_a_training_without_early_stopping_keeps_nothing(tmp_path):
    hook = KeepCountsHook({})
    runner = SimpleNamespace(iter=1, hooks=[hook], work_dir=str(tmp_path))
    hook.before_train(runner)
    hook.after_val_epoch(runner, metrics={})
    assert not (tmp_path / FILE).exists()
