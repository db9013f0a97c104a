"""Modules of the papers in half precision: nothing overflows that fits."""

import copy

import pytest
import torch

from hybrid_backbones.ops import (
    ACmix,
    ACmixWindow,
    BiLevelRoutingAttention,
    EfficientAdditiveAttention,
    GlobalRelationAggregator,
    LocalRelationAggregator,
    MixingAttention,
    XVolution,
)
from hybrid_backbones.ops.biformer import (
    AttentionLePE,
    AttentionLePE2d,
    BiLevelRoutingAttention2d,
)

MODULES = {
    "acmix": lambda: ACmix(32, 32),
    "acmix window": lambda: ACmixWindow(32, 2, 4, 2),
    "additive": lambda: EfficientAdditiveAttention(32),
    "additive, first release": lambda: EfficientAdditiveAttention(32, first_release=True),
    "global relation": lambda: GlobalRelationAggregator(32, 16),
    "global relation, windows": lambda: GlobalRelationAggregator(32, 16, window_size=4),
    "lepe": lambda: AttentionLePE(32, 2),
    "lepe 2d": lambda: AttentionLePE2d(32, 2),
    "local relation": lambda: LocalRelationAggregator(32),
    "mixing": lambda: MixingAttention(32, 2, 4),
    "routing": lambda: BiLevelRoutingAttention(32, 2, 3, 2),
    "routing 2d": lambda: BiLevelRoutingAttention2d(32, 2, 3, 2),
    "x-volution": lambda: XVolution(32, 32),
    "x-volution, global": lambda: XVolution(32, 32, attention="global"),
}


def output_and_gradients(module, x):
    """Return the output and all gradients, for a loss whose signs are the same in every dtype."""
    x = x.clone().requires_grad_()
    out = module(x)
    signs = torch.randint(2, out.shape, generator=torch.Generator().manual_seed(1)) * 2 - 1
    inputs = [x, *module.parameters()]
    gradients = torch.autograd.grad(out, inputs, signs.to(out), allow_unused=True)
    return [out.detach(), *(g for g in gradients if g is not None)]


@pytest.mark.parametrize("magnitude", [1, 30])
@pytest.mark.parametrize("autocast", [True, False], ids=["autocast", "half"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("make", MODULES.values(), ids=MODULES)
def test_what_fits_half_precision_does_not_overflow_on_the_way(make, dtype, autocast, magnitude):
    if make is MODULES["x-volution"] and not autocast and dtype == torch.float16:
        pytest.skip("the statistics of its attention do not fit float16")
    module, x = make(), magnitude * torch.randn(2, 32, 9, 12)
    half = module if autocast else copy.deepcopy(module).to(dtype)
    expected = output_and_gradients(copy.deepcopy(module).double(), x.double())
    with torch.autocast("cpu", dtype, enabled=autocast):
        actual = output_and_gradients(half, x if autocast else x.to(dtype))
    # a rounded logit moves a gradient by a factor of its own size
    fit = torch.finfo(dtype).max / 16
    for ours, exact in zip(actual, expected, strict=True):
        assert ours[exact.abs() < fit].isfinite().all()
    error = (actual[0].double() - expected[0]).norm() / expected[0].norm()
    assert expected[0].abs().max() >= fit or error < 64 * torch.finfo(dtype).eps
