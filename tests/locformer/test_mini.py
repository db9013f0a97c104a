"""Laws of the mini preset of search by sketch: how tools start it, and its schedule."""

from argparse import Namespace

import pytest
from mmengine.runner import Runner

from hybrid_backbones.training.run_config import prepare_run


@pytest.fixture
def prepare(repository, mini_root, tmp_path, monkeypatch):
    """Prepare a training as ``tools/train.py --mini`` does."""
    # the folder whose mini set `--mini` takes
    monkeypatch.chdir(mini_root.parent.parent)

    def run(name):
        config = str(repository / "configs" / f"{name}.py")
        args = Namespace(config=config, mini=True, cfg_options=None, work_dir=str(tmp_path))
        args.launcher, args.local_rank = "none", 0
        return prepare_run(args, (), ("train_dataloader", "val_dataloader"))

    return run


@pytest.mark.parametrize("name", ["locformer_swin_t", "locformer_swin_t_open_world"])
def test_the_rate_rises_and_falls_within_the_training(prepare, name):
    runner = Runner.from_cfg(prepare(name))
    runner.optim_wrapper = runner.build_optim_wrapper(runner.cfg.optim_wrapper)
    schedulers = runner.build_param_scheduler(runner.cfg.param_scheduler)
    rates = []
    for _ in range(runner.max_iters):
        rates.append(runner.optim_wrapper.param_groups[0]["lr"])
        for scheduler in schedulers:
            scheduler.step()
    peak = runner.cfg.optim_wrapper.optimizer.lr
    assert rates[0] < 0.1 * peak
    assert max(rates) == pytest.approx(peak)
    assert rates.index(max(rates)) < 0.15 * len(rates)
    assert rates[-1] < 0.001 * peak


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("locformer_swin_t", dict(subset="all", num_sketches=1)),
        ("locformer_swin_t_5sketch", dict(subset="all", num_sketches=5)),
        ("locformer_swin_t_open_world", dict(subset="unseen", num_sketches=1)),
    ],
)
def test_the_set_is_asked_as_the_config_says(prepare, name, settings):
    cfg = prepare(name)
    dataset = cfg.test_dataloader.dataset
    assert {key: dataset[key] for key in settings} == settings
    # drawings that the training has not seen
    assert [cfg.train_dataloader.dataset.drawings, dataset.drawings] == ["train", "valid"]
