"""X-volution in the place of a convolution: mmcv builds it, ResNets of the hosts take it."""

import pytest
import torch
from mmcv.cnn import build_conv_layer
from mmdet.models.backbones import ResNet as DetResNet
from mmdet.models.backbones import ResNeXt as DetResNeXt
from mmseg.models.backbones import ResNet as SegResNet
from mmseg.models.backbones import ResNeXt as SegResNeXt

from hybrid_backbones.ops import MergedXVolution, XVolution
from hybrid_backbones.ops.xvolution import merge_xvolutions


@pytest.mark.parametrize("operator", [XVolution, MergedXVolution])
def test_mmcv_builds_it_as_a_convolution(operator):
    settings = dict(type=operator.__name__, num_heads=2, attn_backend="reference")
    module = build_conv_layer(settings, 4, 8, kernel_size=3, stride=2, padding=1, bias=False)
    assert isinstance(module, operator)
    assert (module.num_heads, module.attn_backend) == (2, "reference")
    assert module(torch.randn(1, 4, 7, 9)).shape == (1, 8, 4, 5)


@pytest.mark.parametrize(
    ("network", "settings"),
    [
        pytest.param(DetResNet, dict(), id="mmdet-resnet"),
        pytest.param(DetResNet, dict(style="caffe"), id="mmdet-resnet-caffe"),
        pytest.param(DetResNeXt, dict(groups=32, base_width=4), id="mmdet-resnext"),
        pytest.param(SegResNet, dict(), id="mmseg-resnet"),
        pytest.param(
            SegResNet,
            dict(strides=(1, 2, 1, 1), dilations=(1, 1, 2, 4), contract_dilation=True),
            id="mmseg-resnet-dilated",
        ),
        pytest.param(SegResNeXt, dict(groups=32, base_width=4), id="mmseg-resnext"),
    ],
)
def test_hosts_put_it_into_the_slot_of_deformable_convolution_and_merge(network, settings):
    stages = (False, False, True, False)
    model = network(depth=50, dcn=dict(type="XVolution"), stage_with_dcn=stages, **settings)
    model.init_weights()
    images = torch.randn(2, 3, 65, 97)
    outs = model(images)
    strides = (4, 8, 8, 8) if "dilations" in settings else (4, 8, 16, 32)
    assert [x.shape[2:] for x in outs] == [(-(-65 // s), -(-97 // s)) for s in strides]
    sum(x.mean() for x in outs).backward()
    operators = [module for module in model.modules() if isinstance(module, XVolution)]
    assert len(operators) == 6
    for operator in operators:
        assert all(p.grad.isfinite().all() for p in operator.parameters())
    model.eval()
    with torch.no_grad():
        expected = model(images)
        assert merge_xvolutions(model) == 6
        for ours, theirs in zip(model(images), expected, strict=True):
            assert (ours - theirs).abs().max() <= 1e-4 * theirs.abs().max()
