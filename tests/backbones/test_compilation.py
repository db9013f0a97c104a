"""One graph of a backbone, as Dynamo traces it, takes images of any size, with gradients."""

import pytest
import torch
from backbone_cases import ALL_KINDS, build, make_images
from tiers import few_of
from torch._dynamo.testing import CompileCounterWithBackend
from torch.fx.experimental import symbolic_shapes

# multiples of 32, to which detectors pad: of other sides, PyTorch compiles the strides of ResNets
# again. Windows and regions divide some maps and not others; the smallest have several tiles
SIZES = [(288, 320), (320, 448), (448, 288), (352, 416)]


# every operator's graph takes any size in deploy/test_export_operators.py, too
EACH = few_of(ALL_KINDS, "swiftformer", "uniformer")


@pytest.mark.skipif(
    not hasattr(symbolic_shapes, "has_static_value"), reason="this PyTorch compiles each size"
)
@pytest.mark.parametrize(("network", "settings"), EACH)
def test_one_graph_takes_all_sizes_with_the_values_and_gradients_of_eager_mode(network, settings):
    torch.compiler.reset()
    # the graph that `torch.compile` makes by itself at the second size
    counter = CompileCounterWithBackend("eager")
    model = build(network, settings).double().eval()
    compiled = torch.compile(model, fullgraph=True, backend=counter, dynamic=True)
    for size in SIZES:
        images = make_images(1, *size).double().requires_grad_()
        found, expected = compiled(images), model(images)
        torch.testing.assert_close(found, expected)
        (of_found,), (of_expected,) = (
            torch.autograd.grad([x.square().sum() for x in maps], images)
            for maps in (found, expected)
        )
        torch.testing.assert_close(of_found, of_expected)
    assert counter.frame_count == 1
