"""ACmix in the hosts: their ResNets take it for a convolution, and train with it."""

from pathlib import Path

import mmseg
import pytest
import torch
from acmix_cases import assert_shifts
from mmcv.cnn import build_conv_layer
from mmdet.models.backbones import ResNet as DetResNet
from mmdet.models.backbones import ResNeXt as DetResNeXt
from mmdet.registry import MODELS as DET_MODELS
from mmdet.structures import DetDataSample
from mmdet.structures.mask import BitmapMasks
from mmengine.config import Config
from mmengine.hub import get_config
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import DefaultScope
from mmengine.structures import InstanceData, PixelData
from mmseg.models.backbones import ResNet as SegResNet
from mmseg.models.backbones import ResNeXt as SegResNeXt
from mmseg.registry import MODELS as SEG_MODELS
from mmseg.structures import SegDataSample

from hybrid_backbones.ops import ACmix

IN_HOST = dict(dcn=dict(type="ACmix"), stage_with_dcn=(False, True, True, True))


@pytest.mark.parametrize("network", [DetResNet, SegResNet], ids=["mmdet", "mmseg"])
def test_kernels_stay_shifts_when_a_host_initialises_its_convolutions(network):
    model = network(depth=50, **IN_HOST)
    before = model.layer4[2].conv2.conv1.weight.clone()
    model.init_weights()
    operators = [m for m in model.modules() if isinstance(m, ACmix)]
    assert len(operators) == 4 + 6 + 3
    # the host was there
    assert not torch.equal(model.layer4[2].conv2.conv1.weight, before)
    for operator in operators:
        assert_shifts(operator.dep_conv.weight)
        assert operator.rate1.tolist() == operator.rate2.tolist() == [0.5]


def test_mmcv_builds_it_as_a_convolution():
    settings = dict(type="ACmix", num_heads=2, attn_kernel_size=5)
    module = build_conv_layer(settings, 4, 8, kernel_size=3, stride=2, padding=1, bias=False)
    assert isinstance(module, ACmix)
    assert (module.num_heads, module.attn_kernel_size, module.stride) == (2, 5, 2)
    assert module.conv1.bias is None
    assert module(torch.randn(1, 4, 7, 9)).shape == (1, 8, 4, 5)


def assert_trains(model, losses):
    """Check that a step is finite and reaches every weight of every operator."""
    total = sum(x for name, loss in losses.items() if "loss" in name for x in flat(loss))
    total.backward()
    operators = [m for m in model.modules() if isinstance(m, ACmix)]
    assert len(operators) == 4 + 6 + 3
    assert total.isfinite()
    for operator in operators:
        assert all(p.grad.isfinite().all() for p in operator.parameters())


def flat(loss):
    return loss if isinstance(loss, list) else [loss]


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
def test_hosts_put_it_into_the_slot_of_deformable_convolution(network, settings):
    model = network(depth=50, **IN_HOST, **settings)
    outs = model(torch.randn(1, 3, 65, 97))
    strides = (4, 8, 8, 8) if "dilations" in settings else (4, 8, 16, 32)
    assert [x.shape[2:] for x in outs] == [(-(-65 // s), -(-97 // s)) for s in strides]
    assert_trains(model, dict(loss=sum(x.mean() for x in outs)))


def set_operator(config):
    config.merge_from_dict({f"model.backbone.{key}": value for key, value in IN_HOST.items()})
    return config.model


def test_a_stock_detector_trains_with_it():
    config = get_config("mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py")
    with DefaultScope.overwrite_default_scope("mmdet"):
        model = DET_MODELS.build(set_operator(config)).train()
        shapes = ("img_shape", "pad_shape", "batch_input_shape")
        sample = DetDataSample(metainfo=dict.fromkeys(shapes, (97, 131)))
        sample.gt_instances = InstanceData(
            bboxes=torch.tensor([[20.0, 10.0, 90.0, 80.0]]),
            labels=torch.tensor([3]),
            masks=BitmapMasks(torch.ones(1, 97, 131, dtype=torch.uint8).numpy(), 97, 131),
        )
        losses = model(torch.randn(1, 3, 97, 131), [sample], mode="loss")
    assert_trains(model, losses)


def test_a_stock_segmentor_trains_with_it():
    # `mmseg::` does not resolve with every distribution of mmseg
    stock = Path(mmseg.__file__).parent / ".mim/configs"
    config = Config.fromfile(stock / "fcn/fcn_r50-d8_4xb4-80k_ade20k-512x512.py")
    with DefaultScope.overwrite_default_scope("mmseg"):
        model = revert_sync_batchnorm(SEG_MODELS.build(set_operator(config))).train()
        sample = SegDataSample(metainfo=dict(img_shape=(65, 97)))
        sample.gt_sem_seg = PixelData(data=torch.randint(150, (1, 65, 97)))
        # its heads normalise over the batch
        losses = model(torch.randn(2, 3, 65, 97), [sample, sample], mode="loss")
    assert_trains(model, losses)
