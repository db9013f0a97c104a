"""The contract of all backbones: copies, state dicts, compilers, hosts and settings."""

import copy
import pickle
from importlib import import_module

import pytest
import torch
from backbone_cases import (
    build,
    each_backbone,
    each_kind,
    each_kind_slowly,
    each_with_arch,
    make_images,
    step,
)
from operator_cases import make_uneven
from torch import nn

from hybrid_backbones.backbones import (
    BiFormer,
    MixFormer,
    SwiftFormer,
    UniFormer,
    UniFormerLight,
)
from hybrid_backbones.checkpoints import load_published
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


@each_kind
def test_own_checkpoints_load_like_published_ones(network, settings):
    model, other = make_uneven(build(network, settings)), build(network, settings)
    report = load_published(other, model.state_dict())
    assert (report.dropped, report.fresh) == ([], [])
    torch.testing.assert_close(other.state_dict(), model.state_dict(), rtol=0, atol=0)


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


@each_kind_slowly
def test_it_compiles_into_one_graph(network, settings, monkeypatch):
    torch.compiler.reset()
    # windows are added up in another order where nothing is traced; test_window_attention has both
    monkeypatch.setattr(window_attention, "is_traced", lambda device: True)
    model = build(network, settings).eval()
    # sides that neither windows nor regions divide
    images = make_images(1, 65, 49)
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


@each_with_arch
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(arch="unknown"), r"arch must be one of \['.*'\] or a dict, got 'unknown'"),
        (dict(arch=dict(depths=(1, 1, 1, 1))), "arch as a dict must have the keys .*embed_dims"),
        (dict(out_indices=3), "out_indices must be a sequence .*got 3"),
        (dict(with_cp=1), "with_cp must be a bool or four numbers of blocks, got 1"),
        (dict(with_cp=(True, False, True, False)), "with_cp must be .* four numbers of blocks"),
        (dict(out_norm="all"), "out_norm .*'all'"),
        (dict(out_norm="final", out_indices=(0,)), r"out_norm='final' needs 3 .*\(0,\)"),
        (dict(drop_path_rate=1.5), "drop_path_rate .*1.5"),
        (dict(drop_path_rate=-0.1), "drop_path_rate .*-0.1"),
    ],
    ids=str,
)
def test_a_bad_setting_of_those_with_an_arch_is_named(network, settings, changes, message):
    with torch.device("meta"), pytest.raises(ValueError, match=message):
        network(**{**settings, **changes})


FOUR = "must be four positive integers, got"


@pytest.mark.parametrize(
    ("network", "changes", "message"),
    [
        (BiFormer, dict(embed_dims=64), f"embed_dims of arch {FOUR} 64"),
        (BiFormer, dict(depths=(2, 2, 8)), rf"depths of arch {FOUR} \(2, 2, 8\)"),
        (SwiftFormer, dict(depths=[3, 3, 0, 4]), rf"depths of arch {FOUR} \[3, 3, 0, 4\]"),
        (SwiftFormer, dict(depths=(3, 3, 6.0, 4)), f"depths of arch {FOUR} .*6.0"),
        (MixFormer, dict(embed_dims=(24,) * 4), "embed_dims of arch must be a positive number"),
        (UniFormerLight, dict(head_dims=0), "head_dims of arch must be a positive number, got 0"),
        (
            UniFormer,
            dict(layer_scale="all"),
            r"layer_scale of arch must be one of \[False, True, 'all stages'\], got 'all'",
        ),
    ],
    ids=str,
)
def test_sizes_of_another_kind_than_the_published_are_named(network, changes, message):
    published = import_module(network.__module__).VARIANTS
    arch = {**next(iter(published.values())), **changes}
    with torch.device("meta"), pytest.raises(ValueError, match=message):
        network(arch=arch)
