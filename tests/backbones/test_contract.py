"""The contract of all backbones: what maps they make of images, and of which parameters."""

import re

import pytest
import torch
from backbone_cases import (
    build,
    each_backbone,
    each_kind,
    each_size,
    each_variant,
    each_with_arch,
    make_images,
    map_sides,
    step,
)
from helpers import devices
from operator_cases import make_uneven

from hybrid_backbones.backbones import ACmixResNet, BiFormer, SwiftFormer, UniFormerLight


@devices
@each_variant
def test_four_maps_have_the_declared_strides_and_channels(network, settings, device):
    model = build(network, settings).to(device)
    outs = model(make_images(1, 97, 131, device=device))
    assert isinstance(outs, tuple)
    assert model.strides == (4, 8, 16, 32)
    sides = zip(map_sides(model, 97), map_sides(model, 131), strict=True)
    expected = [
        (1, channels, *side) for channels, side in zip(model.out_channels, sides, strict=True)
    ]
    assert [out.shape for out in outs] == expected


@each_size
def test_every_published_size_has_its_maps(network, size):
    with torch.device("meta"):
        model = network(size)
    outs = model(torch.empty(2, 3, 224, 320, device="meta"))
    expected = [
        (2, c, 224 // s, 320 // s) for c, s in zip(model.channels, model.strides, strict=True)
    ]
    assert [out.shape for out in outs] == expected


@each_kind
@pytest.mark.parametrize("size", [(1, 1), (3, 2), (33, 40), (64, 64)], ids=str)
def test_images_of_any_size_are_taken_and_train(network, settings, size):
    model, images = build(network, settings), make_images(2, *size)
    sides = list(zip(*(map_sides(model, length) for length in size), strict=True))
    for outs in (model.eval()(images), step(model.train(), images)):
        assert [tuple(out.shape[2:]) for out in outs] == sides
        assert all(out.isfinite().all() for out in outs)
    assert all(p.grad.isfinite().all() for p in model.parameters())


@each_kind
@pytest.mark.parametrize("shape", [(3, 64, 64), (1, 1, 64, 64), (1, 3, 0, 64), (2, 3, 64, 0)])
def test_other_inputs_than_images_are_refused(network, settings, shape):
    model = build(network, settings)
    with pytest.raises(
        ValueError, match=re.escape(f"(B, 3, H, W), with at least one pixel, got {shape}")
    ):
        model(torch.zeros(shape))


def test_pictures_of_integers_are_refused():
    with pytest.raises(ValueError, match=r"floating-point dtype, got torch\.uint8: normalise"):
        SwiftFormer("xs")(torch.zeros(1, 3, 32, 32, dtype=torch.uint8))


@pytest.mark.parametrize("setting", [dict(drop_path_rate=0.1), dict(out_norm="each")])
def test_what_a_published_resnet_lacks_is_named(setting):
    with pytest.raises(ValueError, match=f"ACmixResNet has no {next(iter(setting))}, as published"):
        ACmixResNet(26, **setting)


@devices
@each_variant
def test_every_parameter_has_an_effect(network, settings, device):
    model = make_uneven(build(network, settings)).to(device)
    outs = model(make_images(2, device=device))
    # behind a norm, a sum of squares would hardly change
    sum((out * torch.randn_like(out)).sum() for out in outs).backward()
    for name, parameter in model.named_parameters():
        # of the attention as first released, with which the published weights were trained
        unused = settings.get("first_release") and name.endswith("w_g")
        assert parameter.grad.isfinite().all()
        assert parameter.grad.any() != unused, name


@each_backbone
def test_weights_are_named_in_init_cfg_alone(network, settings):
    plain, stock = (build(network, settings, **more) for more in ({}, dict(pretrained=None)))
    torch.testing.assert_close(stock.state_dict(), plain.state_dict(), rtol=0, atol=0)
    with pytest.raises(ValueError, match=r"pretrained=None, got 'torchvision://r50'.*init_cfg"):
        build(network, settings, pretrained="torchvision://r50")


@each_backbone
def test_a_forward_hook_on_each_stage_sees_its_output(network, settings):
    model = build(network, settings, out_indices=(0, 1, 2, 3)).eval()
    name = "layer{}" if hasattr(model, "layer1") else "stages.{}"
    first, seen = int(hasattr(model, "layer1")), {}
    for i in range(4):
        stage = model.get_submodule(name.format(i + first))
        stage.register_forward_hook(lambda _, inputs, out, i=i: seen.update({i: out}))
    outs = model(make_images())
    assert list(seen) == [0, 1, 2, 3]
    expected = tuple(model.normalise(i, seen[i]) for i in range(4))
    torch.testing.assert_close(outs, expected, rtol=0, atol=0)


@each_backbone
@pytest.mark.parametrize("out_indices", [(0,), (3,), (1, 2), [0, 2, 3]], ids=str)
def test_out_indices_select_maps(network, settings, out_indices):
    model = build(network, settings).eval()
    selective = build(network, settings, out_indices=out_indices).eval()
    images = make_images()
    expected = tuple(model(images)[i] for i in out_indices)
    torch.testing.assert_close(selective(images), expected)
    assert selective.out_channels == tuple(x.shape[1] for x in expected)


@each_with_arch
@pytest.mark.parametrize("out_norm", ["each", "final", "none"])
def test_only_the_outputs_are_normalised(network, settings, out_norm):
    if network is UniFormerLight and out_norm == "final":
        pytest.skip("it normalises the map and the class token together")
    plain, model = (build(network, settings, out_norm=x).train() for x in ("none", out_norm))
    images = make_images(2)
    expected, outs = list(plain(images)), model(images)
    for i in dict(each=(0, 1, 2, 3), final=(3,), none=())[out_norm]:
        norm = model.norms[str(i)] if out_norm == "each" else model.final_norm
        expected[i] = norm(expected[i])
        # over the channels of a position, or over all positions of a channel
        assert min(outs[i].mean(axes).abs().max() for axes in (1, (0, 2, 3))) < 1e-5
    torch.testing.assert_close(outs, tuple(expected))


@each_kind
def test_a_row_of_a_batch_is_the_single_image(network, settings):
    model = build(network, settings).eval().double()
    images = make_images(3, dtype=torch.float64)
    batch = model(images)
    for i in range(3):
        single = model(images[i : i + 1])
        torch.testing.assert_close(tuple(out[i : i + 1] for out in batch), single)


@each_kind
def test_the_layout_of_the_images_does_not_matter(network, settings):
    model = build(network, settings).eval().double()
    images = make_images(2, dtype=torch.float64)
    outs = model(images.contiguous(memory_format=torch.channels_last))
    torch.testing.assert_close(outs, model(images))


@pytest.mark.parametrize("network", [BiFormer, SwiftFormer])
def test_networks_that_gain_by_it_keep_channels_innermost(network):
    model = network().eval()
    layouts = []
    for stage in model.stages:
        for block in stage:
            block.register_forward_pre_hook(lambda _, inputs: layouts.append(inputs[0].stride(1)))
    outs = model(make_images(1, 64, 64))
    assert set(layouts) == {1}
    assert all(out.is_contiguous(memory_format=torch.channels_last) for out in outs)
