"""A backbone that was traced is saved and loaded without Python, and computes the same."""

import pytest
import torch
from backbone_cases import build, each_kind_slowly, make_images


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore::DeprecationWarning")
@each_kind_slowly
def test_a_saved_trace_computes_the_same(network, settings, tmp_path):
    model, images = build(network, settings).eval(), make_images(1)
    path = tmp_path / "backbone.pt"
    with torch.no_grad():
        torch.jit.trace(model, images).save(path)
        images = torch.randn_like(images)
        actual, expected = torch.jit.load(path)(images), model(images)
    torch.testing.assert_close(tuple(actual), tuple(expected))
