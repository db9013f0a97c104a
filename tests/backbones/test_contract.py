"""The contract of all backbones: their maps, gradients, frozen parts and memory."""

import copy

import pytest
import torch
from backbone_cases import (
    SIZES,
    build,
    each_backbone,
    each_freeze,
    each_variant,
    make_images,
    map_sides,
    owners,
    step,
)
from helpers import devices
from torch.nn.modules.batchnorm import _BatchNorm

from hybrid_backbones.backbones import BiFormer, SwiftFormer


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


@pytest.mark.parametrize(
    ("network", "settings"), SIZES, ids=lambda x: "-".join(map(str, getattr(x, "values", str)()))
)
def test_every_published_size_has_its_maps(network, settings):
    with torch.device("meta"):
        model = network(**settings)
    outs = model(torch.empty(2, 3, 224, 320, device="meta"))
    expected = [
        (2, c, 224 // s, 320 // s) for c, s in zip(model.channels, model.strides, strict=True)
    ]
    assert [out.shape for out in outs] == expected


@each_backbone
@pytest.mark.parametrize("size", [(1, 1), (3, 2), (33, 40), (64, 64)], ids=str)
def test_images_of_any_size_are_taken(network, settings, size):
    model = build(network, settings).eval()
    outs = model(make_images(2, *size))
    sides = zip(*(map_sides(model, length) for length in size), strict=True)
    assert [tuple(out.shape[2:]) for out in outs] == list(sides)
    assert all(out.isfinite().all() for out in outs)


@devices
@each_variant
def test_every_parameter_gets_a_finite_gradient(network, settings, device):
    model = build(network, settings).to(device)
    step(model, make_images(device=device))
    grads = [p.grad for p in model.parameters() if p.grad is not None]
    assert len(grads) == len(list(model.parameters()))
    assert all(grad.isfinite().all() for grad in grads)


@each_backbone
@each_freeze
def test_frozen_parts_stay_in_evaluation_without_gradients(network, settings, frozen_stages):
    model = build(network, settings, frozen_stages=frozen_stages).eval()
    assert model.train() is model
    assert model.training
    for _, module, frozen in owners(model, frozen_stages):
        assert module.training != frozen
        assert all(p.requires_grad != frozen for p in module.parameters(recurse=False))


@each_backbone
@each_freeze
def test_parts_are_frozen_from_the_beginning(network, settings, frozen_stages):
    # optimisers and DistributedDataParallel look at the parameters before anyone calls train()
    model = build(network, settings, frozen_stages=frozen_stages)
    for _, module, frozen in owners(model, frozen_stages):
        assert all(p.requires_grad != frozen for p in module.parameters(recurse=False))


@each_backbone
@each_freeze
def test_a_training_step_leaves_frozen_parts_alone(network, settings, frozen_stages):
    model = build(network, settings, frozen_stages=frozen_stages).train()
    before = copy.deepcopy(model)
    step(model, make_images(2).requires_grad_())
    for name, module, frozen in owners(model, frozen_stages):
        assert all((p.grad is None) == frozen for p in module.parameters(recurse=False))
        old = dict(before.get_submodule(name).named_buffers(recurse=False))
        for key, buffer in module.named_buffers(recurse=False):
            # statistics move, tables of indices do not
            assert torch.equal(buffer, old[key]) == (frozen or not isinstance(module, _BatchNorm))


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
def test_norm_eval_keeps_statistics_but_trains_the_rest(network, settings):
    model = build(network, settings, norm_eval=True).train()
    before = copy.deepcopy(dict(model.named_buffers()))
    step(model, make_images(2))
    for _, module, _ in owners(model):
        assert module.training != isinstance(module, _BatchNorm)
    assert all(p.grad is not None for p in model.parameters())
    torch.testing.assert_close(dict(model.named_buffers()), before, rtol=0, atol=0)


@each_backbone
@pytest.mark.parametrize("out_indices", [(0,), (3,), (1, 2), [0, 2, 3]], ids=str)
def test_out_indices_select_maps(network, settings, out_indices):
    model = build(network, settings).eval()
    selective = build(network, settings, out_indices=out_indices).eval()
    images = make_images()
    expected = tuple(model(images)[i] for i in out_indices)
    torch.testing.assert_close(selective(images), expected)
    assert selective.out_channels == tuple(x.shape[1] for x in expected)


@each_backbone
@pytest.mark.parametrize(
    "more", [dict(), dict(norm_eval=True), dict(frozen_stages=0), dict(frozen_stages=2)], ids=str
)
def test_recomputation_changes_nothing(network, settings, more):
    images = make_images(2)
    plain = build(network, settings, **more).train()
    recomputing = build(network, settings, with_cp=True, **more).train()
    exact = dict(rtol=0, atol=0)
    torch.testing.assert_close(step(recomputing, images), step(plain, images), **exact)
    torch.testing.assert_close(recomputing.state_dict(), plain.state_dict(), **exact)
    for ours, expected in zip(recomputing.parameters(), plain.parameters(), strict=True):
        assert (ours.grad is None) == (expected.grad is None)
        if ours.grad is not None:
            torch.testing.assert_close(ours.grad, expected.grad, **exact)
    assert all(m.track_running_stats for m in recomputing.modules() if isinstance(m, _BatchNorm))


@each_backbone
@pytest.mark.parametrize("more", [dict(), dict(frozen_stages=0)], ids=str)
def test_recomputation_runs_every_trainable_block_twice(network, settings, more):
    model = build(network, settings, with_cp=True, **more).train()
    runs = []
    blocks = [block for stage in model.stages for block in stage]
    for block in blocks:
        block.register_forward_pre_hook(lambda block, _: runs.append(block))
    step(model, make_images())
    assert [runs.count(block) for block in blocks] == [2] * len(blocks)


@each_backbone
def test_a_row_of_a_batch_is_the_single_image(network, settings):
    model = build(network, settings).eval().double()
    images = make_images(3, dtype=torch.float64)
    batch = model(images)
    for i in range(3):
        single = model(images[i : i + 1])
        torch.testing.assert_close(tuple(out[i : i + 1] for out in batch), single)


@each_backbone
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
