"""A backbone that was traced is saved and loaded without Python, and computes the same."""

import pytest
import torch
from backbone_cases import build, each_kind_slowly, make_images
from torch import nn


def build_trained(network, settings):
    """Build a network all of whose branches count: fresh ResNets multiply theirs by zero."""
    model = build(network, settings).eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.2, 0.5)
    return model


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore::DeprecationWarning")
# where windows, tiles and patches fit, where none does, and where maps have few positions
@pytest.mark.parametrize(
    "traced",
    [
        pytest.param((2, 128, 128), id="whole", marks=pytest.mark.exhaustive),
        pytest.param((1, 65, 49), id="odd"),
    ],
)
@each_kind_slowly
def test_a_saved_trace_computes_the_same_at_any_size_and_batch(network, settings, traced, tmp_path):
    model = build_trained(network, settings)
    path = tmp_path / "backbone.pt"
    with torch.no_grad():
        torch.jit.trace(model, make_images(*traced), check_trace=False).save(path)
        loaded = torch.jit.load(path)
        for shape in ((1, 65, 49), (2, 64, 64), (3, 97, 131), (1, 40, 33), (1, 24, 20)):
            images = make_images(*shape)
            torch.testing.assert_close(
                tuple(loaded(images)), tuple(model(images)), rtol=1e-4, atol=1e-4
            )
