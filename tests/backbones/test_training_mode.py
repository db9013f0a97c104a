"""The contract of all backbones in training: frozen parts, recomputation, depth, precision."""

import copy

import pytest
import torch
from backbone_cases import (
    build,
    each_backbone,
    each_freeze,
    each_kind,
    each_with_arch,
    make_images,
    owners,
    step,
)
from helpers import devices
from operator_cases import make_uneven
from torch.nn.modules.batchnorm import _BatchNorm
from torchvision.ops import StochasticDepth


@each_backbone
@each_freeze
def test_frozen_parts_stay_in_evaluation_without_gradients(network, settings, frozen_stages):
    model = build(network, settings, frozen_stages=frozen_stages)
    # optimisers and DistributedDataParallel look at the parameters before anyone calls train()
    for _, module, frozen in owners(model, frozen_stages):
        assert all(p.requires_grad != frozen for p in module.parameters(recurse=False))
    assert model.eval().train() is model
    assert model.training
    for _, module, frozen in owners(model, frozen_stages):
        assert module.training != frozen
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
def test_norm_eval_keeps_statistics_but_trains_the_rest(network, settings):
    model = build(network, settings, norm_eval=True).train()
    before = copy.deepcopy(dict(model.named_buffers()))
    step(model, make_images(2))
    for _, module, _ in owners(model):
        assert module.training != isinstance(module, _BatchNorm)
    assert all(p.grad is not None for p in model.parameters())
    torch.testing.assert_close(dict(model.named_buffers()), before, rtol=0, atol=0)


@each_backbone
@pytest.mark.parametrize(
    "more", [dict(), dict(norm_eval=True), dict(frozen_stages=0), dict(frozen_stages=2)], ids=str
)
def test_recomputation_changes_nothing(network, settings, more):
    images, exact = make_images(2), dict(rtol=0, atol=0)
    if "arch" in settings:
        settings = dict(settings, drop_path_rate=0.5)
    outs = []
    models = [build(network, settings, with_cp=with_cp, **more) for with_cp in (False, True)]
    for model in models:
        torch.manual_seed(1)
        outs.append(step(model.train(), images))
    plain, recomputing = models
    torch.testing.assert_close(*outs, **exact)
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


@each_with_arch
def test_stochastic_depth_rises_linearly_over_all_blocks(network, settings):
    with torch.device("meta"):
        model = network(**{**settings, "drop_path_rate": 0.5})
    blocks = [
        block for stage in model.stages for name, block in stage.named_children() if name.isdigit()
    ]
    for i, block in enumerate(blocks):
        rates = [m.p for m in block.modules() if isinstance(m, StochasticDepth)]
        assert rates == pytest.approx([0.5 * i / (len(blocks) - 1)] * len(rates))
    assert rates, "the last block has no stochastic depth"


@devices
@each_kind
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_it_trains_under_autocast_with_close_features(network, settings, dtype, device):
    model = make_uneven(build(network, settings)).to(device)
    images = make_images(2, device=device)
    with torch.no_grad():
        expected = copy.deepcopy(model)(images)
    with torch.autocast(device, dtype):
        outs = step(model, images)
    for out, want in zip(outs, expected, strict=True):
        # some dozen layers, each with several roundings
        error = (out.float() - want).norm() / want.norm()
        assert error < 16 * torch.finfo(dtype).eps
    assert all(p.grad.dtype == torch.float32 for p in model.parameters())
    assert all(p.grad.isfinite().all() for p in model.parameters())


@each_kind
def test_it_runs_in_bfloat16(network, settings):
    model = build(network, settings).bfloat16()
    outs = model(make_images(2, dtype=torch.bfloat16))
    assert all(out.dtype == torch.bfloat16 and out.isfinite().all() for out in outs)
