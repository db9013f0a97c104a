"""Shared by the tests of X-volution: settings and operators."""

import pytest
from pixel_shift_attention_cases import SETTINGS
from torch import nn

from hybrid_backbones.ops import XVolution

each_attention = pytest.mark.parametrize("attention", ["shift", "global"])
OPERATORS = [
    *SETTINGS,
    pytest.param((5, 7), dict(groups=2, num_heads=4, stride=2), id="two groups, four heads"),
    pytest.param((5, 7), dict(groups=4, num_heads=2), id="four groups, two heads"),
    pytest.param((5, 7), dict(bias=True), id="bias"),
]
each_operator = pytest.mark.parametrize(("size", "settings"), OPERATORS)


def pad(settings):
    """Add the padding that keeps the size."""
    radius = settings.get("kernel_size", 3) // 2
    return dict(settings, padding=settings.get("dilation", 1) * radius)


def make_operator(*channels, device="cpu", **settings):
    """Build an X-volution in float64, in evaluation, with no normalisation that does nothing."""
    module = XVolution(*channels, **pad(settings)).to(device).double()
    for norm in (module.conv_bn, module.attention_bn):
        nn.init.uniform_(norm.weight, 0.5, 1.5)
        nn.init.uniform_(norm.running_var, 0.5, 1.5)
        nn.init.normal_(norm.bias)
        nn.init.normal_(norm.running_mean)
    return module.eval()
