"""Every backbone keeps the rules of CUDA graphs: no values are read, none come from the host.

A graph replays kernels, so a captured call may neither wait for a value of a tensor nor copy from
the memory of the host. The meta device has no values to read, and tells copies by their devices.
"""

import pytest
import torch
from tiers import few_of
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from hybrid_backbones import create_backbone

BACKBONES = [
    *("acmix_resnet26", "acmix_swin_tiny", "biformer_tiny", "biformer_stl", "mixformer_b0"),
    *("swiftformer_xs", "uniformer_small", "uniformer_xxs", "xvolution_resnet18"),
]
# operations whose result has a size, or a Python value, that only the device knows
READS = {
    *("_local_scalar_dense", "is_nonzero", "nonzero", "masked_select", "equal", "allclose"),
    *("unique_consecutive", "_unique2", "bincount"),
}


class CaptureRules(TorchDispatchMode):
    """Refuse operations that a captured graph could not replay."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.overloadpacket.__name__ in READS:
            raise RuntimeError(f"{func} reads values of the device")
        out = func(*args, **(kwargs or {}))
        tensors = [x for x in tree_leaves((args, kwargs, out)) if isinstance(x, Tensor)]
        # numbers of the host are passed to kernels by value
        places = {x.device.type for x in tensors if x.ndim or x.device.type != "cpu"}
        if len(places) > 1:
            raise RuntimeError(f"{func} copies between host and device")
        return out


@pytest.mark.parametrize("make", [lambda x: x.nonzero(), lambda x: x + torch.ones(3).to("meta")])
def test_the_rules_refuse_what_a_graph_cannot_replay(make):
    x = torch.empty(3, device="meta")
    with CaptureRules(), pytest.raises(RuntimeError, match=r"reads values|copies"):
        make(x)


@pytest.mark.parametrize("name", BACKBONES)
@pytest.mark.parametrize(
    "training",
    few_of([pytest.param(True, id="training"), pytest.param(False, id="evaluation")], "training"),
)
def test_a_step_after_the_first_can_be_captured(name, training):
    model = create_backbone(name).to("meta").train(training)
    images = torch.empty(2, 3, 225, 331, device="meta")

    def step():
        with torch.set_grad_enabled(training):
            outs = model(images)
            if training:
                sum(out.square().sum() for out in outs).backward()

    # fills the caches of tables that depend on the size
    step()
    with CaptureRules():
        step()
