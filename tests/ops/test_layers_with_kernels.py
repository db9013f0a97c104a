"""The layers train with the kernels of their attention as they do with its definition."""

import pytest
import torch
from golden.fill import fill_
from helpers import output_and_gradients, places

from hybrid_backbones.ops import (
    ACmix,
    BiLevelRoutingAttention,
    BiLevelRoutingAttention2d,
    XVolution,
    triton_support,
)

pytestmark = [
    pytest.mark.skipif(not triton_support.INSTALLED, reason="needs Triton"),
    # the interpreter of Triton 3.6 with numpy 2
    pytest.mark.filterwarnings("ignore:Conversion of an array:DeprecationWarning"),
]
LAYERS = {
    "ACmix": lambda **backend: ACmix(16, 16, num_heads=1, attn_kernel_size=3, **backend),
    "routing": lambda **backend: BiLevelRoutingAttention(16, 1, 2, 2, **backend),
    "routing-2d": lambda **backend: BiLevelRoutingAttention2d(16, 1, 2, 2, **backend),
    "X-volution": lambda **backend: XVolution(16, 16, **backend),
    "X-volution-strided": lambda **backend: XVolution(16, 16, stride=2, **backend),
}


@places
@pytest.mark.parametrize("name", LAYERS)
def test_outputs_and_gradients_are_those_of_the_definition(name, device):
    x = torch.randn(1, 16, 5, 6)

    def train(backend):
        layer = fill_(LAYERS[name](attn_backend=backend)).to(device).train()
        inputs = [x.to(device).requires_grad_(), *layer.parameters()]
        return output_and_gradients(lambda x, *_: layer(x), inputs)

    torch.testing.assert_close(train("triton"), train("reference"), rtol=1e-4, atol=1e-4)
