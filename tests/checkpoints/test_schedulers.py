"""Laws of the schedules in checkpoints: the state of each of mmengine's is read as it was saved."""

import pytest
import torch
from mmengine.registry import PARAM_SCHEDULERS
from torch import nn

from hybrid_backbones.checkpoints import read_checkpoint

pytestmark = pytest.mark.upstream

# those of the learning rate and of the momentum derive from these, and share their state
NAMES = sorted(name for name in PARAM_SCHEDULERS.module_dict if name.endswith("ParamScheduler"))
REQUIRED = {
    "CosineAnnealingParamScheduler": dict(eta_min=0.0),
    "CosineRestartParamScheduler": dict(periods=[4, 5], restart_weights=[1, 0.5], eta_min=0.0),
    "ExponentialParamScheduler": dict(gamma=0.5),
    "MultiStepParamScheduler": dict(milestones=[2, 3]),
    "OneCycleParamScheduler": dict(eta_max=1.0, total_steps=9),
    "StepParamScheduler": dict(step_size=2),
}


def assert_read(path, name, **settings):
    optimizer = torch.optim.SGD(nn.Linear(2, 2).parameters(), lr=0.1)
    settings = REQUIRED.get(name, {}) | settings
    scheduler = PARAM_SCHEDULERS.get(name)(optimizer, "lr", **settings)
    torch.save(dict(param_schedulers=[scheduler.state_dict()]), path)
    assert read_checkpoint(path)["param_schedulers"] == [scheduler.state_dict()]


@pytest.mark.parametrize("name", NAMES)
def test_the_state_of_a_schedule_is_read(tmp_path, name):
    assert_read(tmp_path / "epoch_1.pth", name)


def test_both_shapes_of_one_cycle_are_read(tmp_path):
    assert_read(tmp_path / "epoch_1.pth", "OneCycleParamScheduler", anneal_strategy="linear")
