"""Laws of what runs again in the backward pass: nothing but memory and time differs."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call
from torch.utils._python_dispatch import TorchDispatchMode

from hybrid_backbones.benchmark.counts import kept_bytes
from hybrid_backbones.recompute import recompute_before_last

EXACT = dict(rtol=0, atol=0)


class Block(nn.Module):
    """Normalise, activate and convolve."""

    def __init__(self, recomputes):
        super().__init__()
        torch.manual_seed(0)
        self.norm, self.conv, self.recomputes = nn.BatchNorm2d(4), nn.Conv2d(4, 6, 3), recomputes

    def forward(self, x):
        def run(x):
            return self.conv(F.gelu(self.norm(x)))

        return (
            recompute_before_last(run, x, modules=[self.norm, self.conv])
            if self.recomputes
            else run(x)
        )


class Calls(TorchDispatchMode):
    """Mode that lists the operations."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.append(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


def make_map(dtype=torch.float32):
    return torch.randn(2, 4, 6, 5, dtype=dtype, requires_grad=True)


def differentiate(block, x):
    out = block(x)
    return out, *torch.autograd.grad(out.square().sum(), [x, *block.parameters()])


def test_values_gradients_and_statistics_are_the_same():
    plain, lean, x = Block(False), Block(True), make_map()
    for _ in range(2):
        torch.testing.assert_close(differentiate(lean, x), differentiate(plain, x), **EXACT)
    torch.testing.assert_close(lean.state_dict(), plain.state_dict(), **EXACT)
    torch.testing.assert_close(lean.eval()(x), plain.eval()(x), **EXACT)


def test_gradients_of_a_functional_call_are_those_of_its_weights():
    x, grads = make_map(), []
    for block in map(Block, (True, False)):
        weights = {
            name: (3 * w.detach() + 1).requires_grad_() for name, w in block.named_parameters()
        }
        out = functional_call(block, weights, (x,))
        grads.append(torch.autograd.grad(out.square().sum(), [x, *weights.values()]))
        # they are the block's own again
        assert all(a is not b for a, b in zip(block.parameters(), weights.values(), strict=True))
    torch.testing.assert_close(*grads, **EXACT)


@pytest.mark.parametrize("mode", [True, False])
def test_a_change_of_the_mode_before_the_backward_pass_changes_nothing(mode):
    x, grads, states = make_map(), [], []
    for block in map(Block, (True, False)):
        out = block.train(mode)(x)
        block.train(not mode)
        grads.append(torch.autograd.grad(out.square().sum(), [x, *block.parameters()]))
        states.append(block.state_dict())
        assert block.norm.training != mode
    torch.testing.assert_close(*grads, **EXACT)
    torch.testing.assert_close(*states, **EXACT)


@pytest.mark.parametrize("recomputes", [True, False])
@pytest.mark.parametrize("name", ["norm.weight", "conv.weight"])
def test_a_weight_that_was_changed_in_place_is_noticed(recomputes, name):
    block = Block(recomputes)
    out = block(make_map()).square().sum()
    with torch.no_grad():
        block.get_parameter(name).add_(1)
    with pytest.raises(RuntimeError, match=r"changed in place|modified by an inplace operation"):
        out.backward()


def test_only_the_input_is_kept():
    x = make_map()
    plain, lean = (kept_bytes(lambda block=b: block(x), b.parameters()) for b in map(Block, (0, 1)))
    assert lean == x.nbytes
    assert plain > 3 * x.nbytes


def test_the_last_operation_runs_once_and_those_before_twice():
    with Calls() as calls:
        differentiate(Block(True), make_map())
    assert calls.names.count("convolution") == 1
    assert calls.names.count("gelu") == 2
    assert calls.names.count("native_batch_norm") == 2


def test_second_derivatives_are_the_same():
    def twice(block, x):
        (grad,) = torch.autograd.grad(block(x).pow(3).sum(), x, create_graph=True)
        return torch.autograd.grad(grad.square().sum(), [x, *block.parameters()])

    x = make_map(torch.float64)
    lean, plain = (twice(Block(recomputes).double(), x) for recomputes in (True, False))
    torch.testing.assert_close(lean, plain, rtol=1e-14, atol=1e-12)
    assert torch.autograd.gradcheck(Block(True).double(), x)


def test_a_graph_that_is_retained_gives_the_same_again():
    x, block = make_map(), Block(True)
    out = block(x).square().sum()
    first = torch.autograd.grad(out, x, retain_graph=True)
    torch.testing.assert_close(torch.autograd.grad(out, x), first, **EXACT)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_it_runs_again_under_the_same_autocast(dtype):
    x, outs = make_map(), []
    for recomputes in (True, False):
        with torch.autocast("cpu", dtype):
            out = Block(recomputes)(x)
        assert out.dtype == dtype
        outs.append((out, *torch.autograd.grad(out.float().square().sum(), x)))
    torch.testing.assert_close(*outs, **EXACT)


def test_transforms_and_compilation_take_it():
    # statistics of running batches cannot change under a transform
    x, block = make_map(), Block(True).eval()
    expected = torch.autograd.grad(block(x).square().sum(), x)[0]
    actual = torch.func.grad(lambda x: block(x).square().sum())(x.detach())
    torch.testing.assert_close(actual, expected)
    compiled = torch.compile(block, fullgraph=True, backend="aot_eager")
    actual = torch.autograd.grad(compiled(x).square().sum(), x)[0]
    torch.testing.assert_close(actual, expected)
