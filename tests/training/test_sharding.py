"""Laws of optimizers whose state is divided among processes."""

import json
from types import SimpleNamespace

import pytest
import torch
from mmengine.optim import ZeroRedundancyOptimizer
from tool_runs import ranks, start_warm
from torch import nn

from hybrid_backbones.training.sharding import ShardedOptimizer, collect_state

PROGRAM = """
import json

import torch
from torch import distributed, nn

from hybrid_backbones.training.sharding import ShardedOptimizer

distributed.init_process_group("gloo")
torch.manual_seed(0)
net = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8))
optimizer = ShardedOptimizer(net.parameters(), "AdamW", lr=0.1)
for _ in range(3):
    for parameter in net.parameters():
        parameter.grad = parameter.detach().cos()
    optimizer.step()
state = optimizer.optim.state
kept = sum(value.numel() for one in state.values() for value in one.values() if value.ndim)
print(json.dumps([kept, [p.tolist() for p in net.parameters()]]))
distributed.barrier()
"""


def test_each_process_keeps_a_share_of_the_state_and_has_all_weights(tmp_path):
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    _, wait = start_warm(*ranks([program]))
    results = wait()
    assert [code for code, _, _ in results] == [0, 0], results
    (kept, weights), (other_kept, others) = (json.loads(out) for _, out, _ in results)
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8))
    whole = torch.optim.AdamW(net.parameters(), lr=0.1)
    for _ in range(3):
        for parameter in net.parameters():
            parameter.grad = parameter.detach().cos()
        whole.step()
    assert weights == others == [parameter.tolist() for parameter in net.parameters()]
    # two moments of each weight, half of them in each process
    num_weights = sum(parameter.numel() for parameter in net.parameters())
    assert kept == other_kept == num_weights


def test_one_process_has_nothing_to_divide():
    with pytest.raises(ValueError, match=r"there is one: start the training with a --launcher"):
        ShardedOptimizer(nn.Linear(2, 2).parameters(), "AdamW")


def test_the_hosts_class_which_would_wait_forever_is_refused():
    optimizer = ZeroRedundancyOptimizer.__new__(ZeroRedundancyOptimizer)
    with pytest.raises(ValueError, match="type=ShardedOptimizer, which takes the same arguments"):
        collect_state(SimpleNamespace(optimizer=optimizer))
