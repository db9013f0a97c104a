"""Laws of guidance by a sketch for backbones of any kind."""

import json

import pytest
import torch
from golden.fill import fill_, make_input
from locformer_cases import SMALL_SWIN, SMALL_UNIFORMER, build

from hybrid_backbones.locformer.guidance import SketchGuided, stage_in_channels

BACKBONES = {
    "uniformer": dict(SMALL_UNIFORMER["backbone"]),
    "uniformer_light": dict(type="UniFormerLight", arch="xxs"),
    "swiftformer": dict(type="SwiftFormer", arch="xs"),
    "biformer": dict(type="BiFormer", arch="tiny"),
    "mixformer": dict(type="MixFormer", arch="b0"),
    "acmix_swin": dict(type="ACmixSwin", arch="tiny"),
    "acmix_resnet": dict(type="ACmixResNet", depth=26),
}


@pytest.mark.parametrize("name", BACKBONES)
def test_a_sketch_guides_each_stage_of_any_backbone(name):
    backbone = dict(BACKBONES[name], out_indices=(1, 2, 3))
    network = fill_(SketchGuided(backbone, embed_dims=64, num_queries=5)).eval()
    sketch = make_input((1, 1, 64, 2, 2), 1).requires_grad_()
    out = network(make_input((1, 3, 64, 96)), None, sketch)
    assert [x.shape[1] for x in out.maps] == [*network.body.channels[1:], 64]
    assert [tuple(x.shape[2:]) for x in out.maps] == [(8, 12), (4, 6), (2, 3), (1, 2)]
    assert out.tokens.shape == (1, 5, network.token_dims)
    for x in out.maps:
        (grad,) = torch.autograd.grad(x.sin().sum(), sketch, retain_graph=True)
        assert grad.abs().sum() > 0
    for fusion in network.fusions:
        (grad,) = torch.autograd.grad(
            out.maps[-1].sin().sum(), fusion.fusion.linear1.weight, retain_graph=True
        )
        assert grad.abs().sum() > 0


@pytest.mark.parametrize("config", [SMALL_SWIN, SMALL_UNIFORMER], ids=["swin", "uniformer"])
def test_fusions_have_the_width_that_is_asked_for(config):
    network = build(dict(config, fusion_dims=24))
    assert {fusion.fusion.linear1.out_features for fusion in network.fusions} == {24}


def test_fusions_have_the_heads_and_groups_of_the_paper_that_divide_the_channels():
    backbone = dict(BACKBONES["swiftformer"], out_indices=(1, 2, 3))
    fusions = SketchGuided(backbone, embed_dims=64).fusions
    assert [x.fusion.norm3.normalized_shape for x in fusions] == [(48,), (56,), (112,), (220,)]
    assert [x.fusion.self_attn.num_heads for x in fusions] == [8, 8, 8, 4]
    assert [x.sketch_norm.num_groups for x in fusions] == [16, 8, 16, 4]


def test_fusions_that_leave_the_map_alone_leave_the_backbone_as_it_is():
    network = fill_(SketchGuided(SMALL_UNIFORMER["backbone"], embed_dims=64)).eval()
    for fusion in network.fusions:
        fusion.forward = lambda x, sketch: x
    images = make_input((1, 3, 64, 96))
    with torch.no_grad():
        maps = network(images, None, None).maps
        torch.testing.assert_close(maps[:3], network.body(images), rtol=0, atol=0)


def test_finding_the_widths_leaves_no_trace():
    body = SketchGuided(BACKBONES["acmix_resnet"] | dict(out_indices=(1, 2, 3))).body.train()
    before = json.dumps({name: x.double().sum().item() for name, x in body.state_dict().items()})
    assert stage_in_channels(body) == [64, 256, 512, 1024]
    assert body.training
    after = json.dumps({name: x.double().sum().item() for name, x in body.state_dict().items()})
    assert before == after
    assert not any(block._forward_pre_hooks for stage in body.stages for block in stage)


@pytest.mark.parametrize(
    ("backbone", "message"),
    [
        (dict(type="UniFormer"), r"out_indices must be \(1, 2, 3\), got \(0, 1, 2, 3\)"),
        (dict(type="mmdet.ResNet", depth=18), "HierarchicalBackbone, got ResNet"),
    ],
)
def test_backbones_that_cannot_be_guided_are_refused(backbone, message):
    with pytest.raises(ValueError, match=message):
        SketchGuided(backbone)
