"""The contract of all backbones: copies, state dicts, precision, compilers and hosts."""

import copy
import pickle
from importlib import import_module

import pytest
import torch
from backbone_cases import build, each_backbone, make_images, step
from helpers import devices
from torch import nn

from hybrid_backbones.ops.window_attention import api as window_attention


@each_backbone
def test_state_dicts_round_trip(network, settings):
    model = build(network, settings)
    step(model, make_images(2))
    torch.manual_seed(1)
    other = network(**settings)
    other.load_state_dict(model.state_dict(), strict=True)
    torch.testing.assert_close(other.state_dict(), model.state_dict(), rtol=0, atol=0)
    images = make_images()
    torch.testing.assert_close(other.eval()(images), model.eval()(images))


@each_backbone
def test_a_seed_decides_weights_and_gradients(network, settings):
    first, second = build(network, settings), build(network, settings)
    images = make_images(2)
    exact = dict(rtol=0, atol=0)
    torch.testing.assert_close(step(first, images), step(second, images), **exact)
    for a, b in zip(first.parameters(), second.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, **exact)
    torch.manual_seed(1)
    other = network(**settings)
    pairs = zip(other.parameters(), first.parameters(), strict=True)
    assert not all(torch.equal(a, b) for a, b in pairs)


@each_backbone
@pytest.mark.parametrize(
    "duplicate",
    [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))],
    ids=["deepcopy", "pickle"],
)
def test_copies_are_independent_and_equal(network, settings, duplicate):
    model = build(network, settings, frozen_stages=1, out_indices=(1, 3)).eval()
    twin = duplicate(model)
    images = make_images()
    expected = model(images)
    torch.testing.assert_close(twin(images), expected)
    for parameter in twin.parameters():
        nn.init.zeros_(parameter)
    torch.testing.assert_close(model(images), expected)
    assert twin.out_channels == model.out_channels


@devices
@each_backbone
def test_it_trains_under_bfloat16_autocast(network, settings, device):
    model = build(network, settings).to(device)
    with torch.autocast(device, torch.bfloat16):
        outs = step(model, make_images(2, device=device))
    assert all(out.isfinite().all() for out in outs)
    assert all(p.grad.dtype == torch.float32 for p in model.parameters())
    assert all(p.grad.isfinite().all() for p in model.parameters())


@each_backbone
def test_it_compiles_into_one_graph(network, settings, monkeypatch):
    torch.compiler.reset()
    # windows are added up in another order where nothing is traced; test_window_attention has both
    monkeypatch.setattr(window_attention, "is_traced", lambda device: True)
    model = build(network, settings).eval()
    images = make_images(1, 64, 64)
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(images), model(images), rtol=0, atol=0)


@each_backbone
def test_initialisation_by_the_host_keeps_the_weights(network, settings):
    model = build(network, settings)
    before = copy.deepcopy(model.state_dict())
    model.init_weights()
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)


@each_backbone
@pytest.mark.parametrize("host", ["mmengine", "mmdet", "mmseg", "mmpretrain"])
def test_every_host_knows_it_by_its_name(network, settings, host):
    registry = import_module(f"{host}.registry").MODELS
    assert registry.get(network.__name__) is network


@each_backbone
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(out_indices=()), r"out_indices .*\(\)"),
        (dict(out_indices=(0, 4)), r"out_indices .*\(0, 4\)"),
        (dict(out_indices=(-1,)), r"out_indices .*\(-1,\)"),
        (dict(out_indices=(3, 1)), r"out_indices .*\(3, 1\)"),
        (dict(out_indices=(1, 1)), r"out_indices .*\(1, 1\)"),
        (dict(frozen_stages=-2), "frozen_stages .*-2"),
        (dict(frozen_stages=5), "frozen_stages .*5"),
    ],
    ids=str,
)
def test_a_bad_setting_is_named(network, settings, changes, message):
    with pytest.raises(ValueError, match=message):
        build(network, settings, **changes)
