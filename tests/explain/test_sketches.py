"""Laws of what LocFormer sees of its sketches."""

import pytest
import torch
from locformer_cases import SMALL_UNIFORMER, build_small

from hybrid_backbones.explain import attending_modules, attention, record


@pytest.fixture(scope="module", params=[None, SMALL_UNIFORMER], ids=["swin", "uniformer"])
def detector(request):
    model = build_small() if request.param is None else build_small(request.param)
    return model.double()


def make_inputs(num_sketches=2):
    images = torch.randn(2, 3, 70, 90, dtype=torch.float64)
    return images, torch.randn(2, num_sketches, 3, 64, 64, dtype=torch.float64)


def run_and_keep(detector, inputs, paths):
    kept = {}
    hooks = [
        detector.get_submodule(path).register_forward_hook(
            lambda _, args, out, path=path: kept.setdefault(path, []).append((args, out))
        )
        for path in paths
    ]
    with torch.no_grad():
        detector(*inputs)
    for hook in hooks:
        hook.remove()
    return kept


def test_every_fusion_is_recorded(detector):
    found = record(detector, make_inputs())
    fusions = [path for path in found if "sketch_attention" in found[path]]
    assert fusions == [f"backbone.fusions.{i}" for i in range(4)]
    for path in fusions:
        weights = found[path]["sketch_attention"]
        assert weights.shape[:2] == (2, 2)
        assert torch.allclose(weights.sum((4, 5)), torch.ones_like(weights[..., 0, 0]))


def test_weights_on_the_sketches_give_the_output_of_the_attention(detector):
    inputs, path = make_inputs(), "backbone.fusions.1"
    fusion = detector.get_submodule(path)
    parts = (path, f"{path}.fusion.self_attn.out_proj")
    ((_, sketch), _), *_ = (kept := run_and_keep(detector, inputs, parts))[path]
    ((out,), _) = kept[parts[1]][0]
    cross = fusion.fusion.self_attn
    with torch.no_grad():
        tokens = fusion.project(sketch).flatten(3).mT  # (B, Q, M, C)
        value = torch.nn.functional.linear(
            tokens, cross.in_proj_weight.chunk(3)[2], cross.in_proj_bias.chunk(3)[2]
        )
    value = value.flatten(1, 2).unflatten(2, (cross.num_heads, -1))  # (B, Q·M, h, d)
    width = kept[path][0][0][0].shape[3]
    for position in ((0, 0), (3, 5)):
        weights = attention(detector, inputs, path, position)
        assert weights.shape == (2, cross.num_heads, 4, 2)  # 2×2 of each of two sketches
        assert torch.allclose(weights.sum((2, 3)), weights.new_ones(2, cross.num_heads))
        expected = torch.einsum("bhm,bmhd->bhd", weights.flatten(2), value).flatten(1)
        row = out[:, position[0] * width + position[1]]
        assert torch.allclose(expected, row, rtol=1e-9, atol=1e-12)
        mean = record(detector, inputs)[path]["sketch_attention"][
            (..., *position, slice(None), slice(None))
        ]
        assert torch.allclose(weights.mean(1).unflatten(1, (2, 2)) * 2, mean)


def test_patches_of_the_swin_attend_within_their_windows():
    detector, inputs = build_small().double(), make_inputs()
    path = "backbone.stages.0.0.attn"
    kept = run_and_keep(detector, inputs, (f"{path}.qkv", f"{path}.proj"))
    qkv, ((out,), _) = kept[f"{path}.qkv"][0][1], kept[f"{path}.proj"][0]
    value = qkv.chunk(3, -1)[2]
    weights = attention(detector, inputs, path, (8, 2))
    assert weights.shape == (2, 1, *qkv.shape[1:3])
    assert torch.allclose(weights.sum((2, 3)), weights.new_ones(2, 1))
    expected = torch.einsum("byx,byxc->bc", weights[:, 0], value)
    assert torch.allclose(expected, out[:, 8 * 23 + 2], rtol=1e-9, atol=1e-12)
    seen = (weights[0, 0] > 0).nonzero()
    assert seen.min(0).values.tolist() == [7, 0]
    assert seen.max(0).values.tolist() == [13, 6]


def test_sketches_have_to_be_given(detector):
    with pytest.raises(ValueError, match="pass a tuple of \\(inputs, sketches"):
        record(detector, make_inputs()[0])
    assert "backbone.fusions.0" in attending_modules(detector)
