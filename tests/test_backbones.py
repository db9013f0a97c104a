"""The contract of all backbones, and what each network is beyond it."""

import copy
import pickle
from importlib import import_module

import pytest
import torch
from helpers import devices
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torchvision.models import resnet50

from hybrid_backbones.backbones import (
    ACmixResNet,
    ACmixSwin,
    BiFormer,
    MixFormer,
    SwiftFormer,
    UniFormer,
    UniFormerLight,
    XVolutionResNet,
)

# one line per network, small; comparisons of two runs want no random depth
TINY = dict(depths=(1, 1, 4, 2), embed_dims=(16, 24, 32, 48))
UNIFORMER = dict(TINY, head_dims=8, conv_stem=False, layer_scale=False)
BIFORMER = dict(
    embed_dims=(32, 32, 64, 64),
    depths=(1, 1, 2, 1),
    mlp_ratio=2,
    overlap=True,
    pointwise_convs=False,
)
BACKBONES = [
    pytest.param(ACmixResNet, dict(depth=26), id="acmix-resnet26"),
    pytest.param(
        ACmixSwin,
        dict(
            arch=dict(
                embed_dims=16, num_heads=(1, 2, 4, 8), depths=(2, 1, 2, 1), drop_path_rate=0.0
            ),
            window_size=4,
        ),
        id="acmix-swin",
    ),
    pytest.param(
        BiFormer,
        dict(arch=BIFORMER, num_windows=4, drop_path_rate=0.0),
        id="biformer",
    ),
    pytest.param(
        BiFormer,
        dict(arch=BIFORMER, num_windows=5, mask_padding=True, drop_path_rate=0.0),
        id="biformer-masked",
    ),
    pytest.param(
        MixFormer,
        dict(
            arch=dict(
                embed_dims=16, num_heads=(1, 2, 4, 8), depths=(1, 1, 2, 1), drop_path_rate=0.0
            ),
        ),
        id="mixformer",
    ),
    pytest.param(SwiftFormer, dict(arch=dict(TINY, depths=(2, 1, 2, 1))), id="swiftformer"),
    pytest.param(
        UniFormer,
        dict(arch=UNIFORMER, attention="hybrid", window_size=3, drop_path_rate=0.0),
        id="uniformer",
    ),
    pytest.param(
        UniFormer,
        dict(arch=dict(UNIFORMER, conv_stem=True, layer_scale=True), drop_path_rate=0.0),
        id="uniformer-conv-stem",
    ),
    pytest.param(UniFormerLight, dict(arch=dict(TINY, head_dims=8)), id="uniformer-light"),
    pytest.param(XVolutionResNet, dict(depth=18), id="xvolution-resnet18"),
]
VARIANTS = [
    *BACKBONES,
    pytest.param(ACmixResNet, dict(depth=50), id="acmix-resnet50"),
    pytest.param(
        ACmixResNet,
        dict(depth=26, hybrid_stages=(False, False, True, True)),
        id="two-hybrid-stages",
    ),
    pytest.param(ACmixResNet, dict(depth=26, hybrid_stages=(False,) * 4), id="no-hybrid-stage"),
    pytest.param(ACmixResNet, dict(depth=26, num_heads=8, attn_kernel_size=5), id="eight-heads"),
    pytest.param(ACmixSwin, dict(arch="tiny"), id="acmix-swin-tiny"),
    pytest.param(BiFormer, dict(arch="tiny"), id="biformer-tiny"),
    pytest.param(BiFormer, dict(arch="tiny", mask_padding=True), id="biformer-tiny-masked"),
    pytest.param(MixFormer, dict(arch="b0"), id="mixformer-b0"),
    pytest.param(MixFormer, dict(arch="b0", mask_padding=True), id="mixformer-b0-masked"),
    pytest.param(SwiftFormer, dict(arch="xs"), id="swiftformer-xs"),
    pytest.param(UniFormer, dict(arch="small", attention="hybrid"), id="uniformer-small"),
    pytest.param(
        UniFormer,
        dict(arch="small", attention="windows", mask_padding=True),
        id="uniformer-small-masked",
    ),
    pytest.param(UniFormerLight, dict(arch="xxs"), id="uniformer-xxs"),
    pytest.param(XVolutionResNet, dict(depth=50), id="xvolution-resnet50"),
    pytest.param(XVolutionResNet, dict(depth=18, attention="global"), id="xvolution-resnet18-sa"),
]
# every published size, for what needs no arithmetic
SIZES = [
    *((ACmixResNet, dict(depth=depth)) for depth in (26, 38, 50, 101)),
    *((ACmixSwin, dict(arch=arch)) for arch in ("tiny", "small")),
    *((BiFormer, dict(arch=arch)) for arch in ("tiny", "small", "base", "stl", "stl_linear")),
    *((MixFormer, dict(arch=f"b{i}")) for i in range(7)),
    *((SwiftFormer, dict(arch=arch)) for arch in ("xs", "s", "l1", "l3")),
    *(
        (UniFormer, dict(arch=arch))
        for arch in ("small", "small_plus", "small_plus_dim64", "base", "base_ls")
    ),
    *((UniFormerLight, dict(arch=arch)) for arch in ("xxs", "xs")),
    *((XVolutionResNet, dict(depth=depth)) for depth in (18, 34, 50, 101)),
]

each_backbone = pytest.mark.parametrize(("network", "settings"), BACKBONES)
each_variant = pytest.mark.parametrize(("network", "settings"), VARIANTS)
each_freeze = pytest.mark.parametrize("frozen_stages", [-1, 0, 1, 2, 3, 4])


def build(network, settings, **more):
    """Build with the same weights whatever was built before."""
    torch.manual_seed(0)
    return network(**settings, **more)


def make_images(batch=1, height=65, width=49, **kwargs):
    return torch.randn(batch, 3, height, width, **kwargs)


def step(model, images):
    """Run forward and backward; return the outputs."""
    outs = model(images)
    sum(out.float().square().mean() for out in outs).backward()
    return outs


def owners(model, frozen_stages=-1):
    """Yield name and module of all that own parameters, and whether they belong to a frozen part.

    Level 0 is the stem, level n the n-th stage and its norm.
    """
    level = {id(p): 0 for p in model.parameters()}
    stages = list(enumerate(model.stages)) + [(int(i), norm) for i, norm in model.norms.items()]
    for i, part in stages:
        level.update({id(p): i + 1 for p in part.parameters()})
    for name, module in model.named_modules():
        own = list(module.parameters(recurse=False))
        if own:
            yield name, module, all(level[id(p)] <= frozen_stages for p in own)


def map_sides(model, length):
    """Return the lengths of a side in the four maps, rounded as each network does."""
    # patches are cut off where they are not whole, as published
    cut = isinstance(model, UniFormer | UniFormerLight)
    cut_stem = cut and hasattr(model.stem, "proj")
    cut_stage = cut and hasattr(model.stages[1].downsample, "proj")
    sides = [max(length // 4, 1) if cut_stem else -(-length // 4)]
    for _ in range(3):
        sides.append(max(sides[-1] // 2, 1) if cut_stage else -(-sides[-1] // 2))
    return sides


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
def test_it_compiles_into_one_graph(network, settings):
    torch.compiler.reset()
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
