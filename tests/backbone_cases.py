"""The networks that every test of the contract of backbones goes through."""

import pytest
import torch

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
# and those whose operators or layers none of these has
ALL_KINDS = [
    *BACKBONES,
    pytest.param(
        BiFormer,
        dict(
            arch=dict(BIFORMER, overlap=False, pointwise_convs=True),
            num_windows=5,
            drop_path_rate=0.0,
        ),
        id="biformer-pointwise",
    ),
    pytest.param(
        SwiftFormer,
        dict(arch=dict(TINY, depths=(2, 1, 2, 1)), first_release=True),
        id="swiftformer-first",
    ),
    pytest.param(XVolutionResNet, dict(depth=18, attention="global"), id="xvolution-resnet18-sa"),
]
# those whose sizes are an `arch`, which have stochastic depth and norms of outputs
WITH_ARCH = [case for case in ALL_KINDS if "arch" in case.values[1]]
VARIANTS = [
    *ALL_KINDS,
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
    pytest.param(MixFormer, dict(arch="b0"), id="mixformer-b0"),
    pytest.param(SwiftFormer, dict(arch="xs"), id="swiftformer-xs"),
    pytest.param(UniFormer, dict(arch="small", attention="hybrid"), id="uniformer-small"),
    pytest.param(UniFormer, dict(arch="small", attention="windows"), id="uniformer-small-windows"),
    pytest.param(UniFormerLight, dict(arch="xxs"), id="uniformer-xxs"),
    pytest.param(XVolutionResNet, dict(depth=50), id="xvolution-resnet50"),
]
# every published size, for what needs no arithmetic: the smallest of each network, and the others
# among the exhaustive tests
SIZES = {
    ACmixResNet: (26, 38, 50, 101),
    ACmixSwin: ("tiny", "small"),
    BiFormer: ("tiny", "small", "base", "stl", "stl_linear"),
    MixFormer: tuple(f"b{i}" for i in range(7)),
    SwiftFormer: ("xs", "s", "l1", "l3"),
    UniFormer: (
        *("small", "small_dim32", "small_plus", "small_plus_dim64"),
        *("base", "base_dim32", "base_ls", "large_ls"),
    ),
    UniFormerLight: ("xxs", "xs"),
    XVolutionResNet: (18, 34, 50, 101),
}
each_size = pytest.mark.parametrize(
    ("network", "size"),
    [
        pytest.param(
            *(network, size),
            id=f"{network.__name__}-{size}",
            marks=() if size == sizes[0] else pytest.mark.exhaustive,
        )
        for network, sizes in SIZES.items()
        for size in sizes
    ],
)

each_backbone = pytest.mark.parametrize(("network", "settings"), BACKBONES)
each_kind = pytest.mark.parametrize(("network", "settings"), ALL_KINDS)
each_with_arch = pytest.mark.parametrize(("network", "settings"), WITH_ARCH)
each_variant = pytest.mark.parametrize(("network", "settings"), VARIANTS)
# fewer blocks, of laws that take seconds for each one
FEWER = {
    "acmix-resnet26": dict(hybrid_stages=(False, False, (0,), False)),
    "mixformer": dict(arch=dict(embed_dims=16, num_heads=(1, 2, 4, 8), depths=(1, 1, 1, 1))),
}
# of these laws the quickest network, two with operators of our own among the slow tests, and the
# others among the exhaustive ones
each_kind_slowly = pytest.mark.parametrize(
    ("network", "settings"),
    [
        pytest.param(
            case.values[0],
            {**case.values[1], **FEWER.get(case.id, {})},
            id=case.id,
            marks=()
            if case.id == "swiftformer"
            else pytest.mark.slow
            if case.id in ("acmix-resnet26", "biformer")
            else pytest.mark.exhaustive,
        )
        for case in ALL_KINDS
    ],
)
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
    if isinstance(model, BiFormer):
        cut_stem = cut_stage = model.stem[0].kernel_size == model.stem[0].stride
    else:
        cut = isinstance(model, UniFormer | UniFormerLight)
        cut_stem = cut and hasattr(model.stem, "proj")
        cut_stage = cut and hasattr(model.stages[1].downsample, "proj")
    sides = [max(length // 4, 1) if cut_stem else -(-length // 4)]
    for _ in range(3):
        sides.append(max(sides[-1] // 2, 1) if cut_stage else -(-sides[-1] // 2))
    return sides
