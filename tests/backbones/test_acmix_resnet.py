"""What ACmix-ResNets are beyond the contract of all backbones."""

import pytest
import torch
from backbone_cases import make_images
from torchvision.models import resnet50

from hybrid_backbones.backbones import ACmixResNet
from hybrid_backbones.benchmark.counts import kept_by_layer


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(depth=34), r"depth .*\[26, 38, 50, 101\].*34"),
        (dict(depth="50"), "depth .*'50'"),
        (dict(hybrid_stages=(True,) * 3), "hybrid_stages .*True, True, True"),
        (dict(hybrid_stages=()), "hybrid_stages"),
        (dict(num_heads=3), "num_heads=3"),
        (dict(attn_kernel_size=4), "attn_kernel_size=4"),
    ],
    ids=str,
)
def test_a_bad_setting_of_acmix_resnet_is_named(changes, message):
    with pytest.raises(ValueError, match=message):
        ACmixResNet(**changes)


# without the classifier's 2,049,000; 26 to 50 are the published networks', 101 the same rule
@pytest.mark.parametrize(
    ("depth", "num_parameters"),
    [(26, 8_438_816), (38, 12_361_896), (50, 16_284_976), (101, 28_963_134)],
)
def test_acmix_resnets_have_the_published_number_of_parameters(depth, num_parameters):
    model = ACmixResNet(depth)
    assert sum(p.numel() for p in model.parameters()) == num_parameters
    assert model.out_channels == (256, 512, 1024, 2048)


def test_acmix_resnet_without_hybrid_stages_is_torchvisions_resnet():
    ours = ACmixResNet(50, hybrid_stages=(False,) * 4).eval()
    theirs = resnet50().eval()
    entries = {k: v for k, v in theirs.state_dict().items() if not k.startswith("fc.")}
    ours.load_state_dict(entries, strict=True)
    images = x = make_images()
    for stem in (theirs.conv1, theirs.bn1, theirs.relu, theirs.maxpool):
        x = stem(x)
    expected = []
    for stage in (theirs.layer1, theirs.layer2, theirs.layer3, theirs.layer4):
        x = stage(x)
        expected.append(x)
    torch.testing.assert_close(ours(images), tuple(expected))


def test_hybrid_stages_choose_where_attention_is():
    model = ACmixResNet(26, hybrid_stages=(False, True, False, True))
    operators = {name.split(".")[0] for name in model.state_dict() if "conv2.rate1" in name}
    assert operators == {"layer2", "layer4"}


@pytest.mark.parametrize("frozen_stages", [-1, 0])
def test_the_first_stage_keeps_less_and_computes_the_same(frozen_stages):
    torch.manual_seed(0)
    images, steps, kept = make_images(2), [], []
    model = ACmixResNet(26, frozen_stages=frozen_stages).train()
    entries = {name: value.clone() for name, value in model.state_dict().items()}
    for recomputes in (True, False):
        model.load_state_dict(entries)
        model.zero_grad()
        for block in model.layer1:
            assert block.recomputes_projection
            block.recomputes_projection = recomputes
        outs = model(images)
        torch.autograd.backward([out.square().mean() for out in outs])
        grads = [x.grad for x in model.parameters() if x.requires_grad]
        steps.append((outs, grads, {k: v.clone() for k, v in model.state_dict().items()}))
        layers = {"layer1": model.layer1, "block": model.layer1[0]}
        kept.append(kept_by_layer(lambda: model(images), layers, model.parameters()))
        for block in model.layer1:
            block.recomputes_projection = True
    torch.testing.assert_close(*steps, rtol=0, atol=0)
    batch, channels, height, width = outs[0].shape
    # the outputs of both 1×1 convolutions to 256 channels, which their normalisations keep, and
    # the sum that the last activation keeps; the next stage keeps that, too
    wide = batch * channels * height * width * 4
    assert kept[1]["block"] - kept[0]["block"] >= 2 * wide
