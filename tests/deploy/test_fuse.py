"""Fused programs compute the same with fewer operations."""

from copy import deepcopy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from hybrid_backbones.deploy.eager import Tupled
from hybrid_backbones.deploy.fuse import fuse_program
from hybrid_backbones.deploy.program import capture
from hybrid_backbones.ops import ACmix


def randomise(model):
    """Let each batch norm do something."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for name, low in dict(weight=0.5, running_var=0.5, bias=-1, running_mean=-1).items():
                if (values := getattr(module, name)) is not None:
                    nn.init.uniform_(values, low, low + 1.5)
    return model.eval()


def count(program, *operators):
    names = [str(node.target) for node in program.graph.nodes if node.op == "call_function"]
    return [names.count(f"aten.{operator}.default") for operator in operators]


class Chain(nn.Module):
    """Convolutions before and after norms, one of them with two readers."""

    def __init__(self, bias=False):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 3, stride=2, padding=1, bias=bias)
        self.norm1 = nn.BatchNorm2d(8)
        self.conv2 = nn.Conv2d(8, 8, 3, padding=2, dilation=2, groups=4, bias=bias)
        self.norm2 = nn.BatchNorm2d(8, affine=False, eps=0.1)
        self.conv3 = nn.Conv2d(8, 4, 1, bias=bias)
        self.norm3 = nn.BatchNorm2d(4)

    def forward(self, x):
        x = self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x)))))
        read_twice = self.conv3(x)
        return self.norm3(read_twice), read_twice


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("dynamic", [False, True])
def test_norms_after_convolutions_become_part_of_them(bias, dynamic):
    model = randomise(Chain(bias)).double()
    images = torch.randn(2, 3, 17, 22, dtype=torch.float64)
    program = capture(Tupled(model).eval(), (images,), dynamic=dynamic)
    assert count(program, "conv2d", "batch_norm") == [3, 3]
    # the third convolution has a second reader
    assert fuse_program(program)["batch_norms"] == 2
    assert count(program, "conv2d", "batch_norm") == [3, 1]
    images = torch.randn(3, 3, 24, 33, dtype=torch.float64) if dynamic else images
    torch.testing.assert_close(program.module()(images), model(images), rtol=1e-12, atol=1e-12)


def test_a_shared_convolution_keeps_its_weight():
    class Shared(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.norm = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)

        def forward(self, x):
            return self.norm(self.conv(x)), self.conv(x)

    model, x = randomise(Shared()), torch.randn(1, 3, 5, 7)
    program = capture(Tupled(model).eval(), (x,), dynamic=False)
    assert fuse_program(program)["batch_norms"] == 1
    torch.testing.assert_close(program.module()(x), model(x), rtol=1e-5, atol=1e-5)


def test_a_norm_in_training_mode_stays():
    model = Chain()
    model.norm1.track_running_stats = False
    model.norm1.running_mean = model.norm1.running_var = None
    model, x = randomise(model), torch.randn(2, 3, 17, 22)
    program = capture(Tupled(model).eval(), (x,), dynamic=False)
    assert fuse_program(program)["batch_norms"] == 1
    torch.testing.assert_close(program.module()(x), model(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("num_heads", [2, 8])
def test_the_kernels_of_acmix_are_composed(num_heads):
    model = ACmix(3, 16, num_heads=num_heads).eval()
    for weight in (model.fc.weight, model.dep_conv.weight, model.rate1, model.rate2):
        nn.init.uniform_(weight, -1, 1)
    x = torch.randn(1, 3, 9, 12)
    program = capture(Tupled(model).eval(), (x,), dynamic=False)
    expected = deepcopy(model)(x)
    assert fuse_program(program)["weights"]
    # with many heads the head maps are mixed first, with fewer products
    assert count(program, "einsum") == [0]
    weights = {tuple(value.shape) for value in program.state_dict.values()}
    assert ((16, 3 * num_heads, 3, 3) in weights) == (num_heads == 2)
    torch.testing.assert_close(program.module()(x), (expected,), rtol=1e-5, atol=1e-5)


class Accumulating(nn.Module):
    """A network that writes into what it computed from a weight."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3, 1, 1))

    def forward(self, x):
        scaled = self.weight * 2
        scaled.flatten()[:1].add_(x.sum())
        return x * scaled


def test_what_is_written_into_is_computed_again():
    model, x = Accumulating(), torch.randn(1, 3, 4, 4)
    program = capture(Tupled(model).eval(), (x,), dynamic=False)
    fuse_program(program)
    run = program.module()
    for _ in range(2):
        torch.testing.assert_close(run(x), (model(x),))


def test_what_is_not_used_any_more_is_not_stored(tmp_path):
    model, x = randomise(Chain()), torch.randn(1, 3, 17, 22)
    program = capture(Tupled(model).eval(), (x,), dynamic=False)
    fuse_program(program)
    kernels = [value for value in program.state_dict.values() if value.ndim == 4]
    assert sum(value.numel() for value in kernels) == sum(
        layer.weight.numel() for layer in (model.conv1, model.conv2, model.conv3)
    )
    torch.export.save(program, tmp_path / "a.pt2")
    again = torch.export.load(tmp_path / "a.pt2").module()
    torch.testing.assert_close(again(x), model(x), rtol=1e-5, atol=1e-5)
