"""What ACmix-Swin is beyond the contract of all backbones: its parts, sizes and weights."""

import pytest
import torch
import torch.nn.functional as F
from golden.fill import fill_
from helpers import output_and_gradients
from mmpretrain.models import ImageClassifier
from torch import nn
from torchvision.ops import StochasticDepth

from hybrid_backbones.backbones.acmix_swin import (
    ACmixSwin,
    ACmixSwinBlock,
    PaddedPatchEmbed,
    PatchMerging,
)
from hybrid_backbones.layers import LayerNorm2d

EXACT = dict(rtol=0, atol=1e-10)
# two blocks in two stages, so that one of each kind stands in each
SMALLEST = dict(embed_dims=8, num_heads=(1, 2, 2, 4), depths=(2, 2, 1, 1), drop_path_rate=0.1)


def build_classifier(arch, num_classes=1000):
    return ImageClassifier(
        backbone=dict(type="ACmixSwin", arch=arch, out_norm="final", out_indices=(3,)),
        neck=dict(type="GlobalAveragePooling"),
        head=dict(type="LinearClsHead", num_classes=num_classes, in_channels=768),
    )


@pytest.mark.parametrize(("arch", "parameters"), [("tiny", 28_649_908), ("small", 50_345_080)])
def test_variants_have_the_published_number_of_parameters(arch, parameters):
    with torch.device("meta"):
        model = build_classifier(arch)
    assert sum(p.numel() for p in model.parameters()) == parameters


@pytest.mark.parametrize(
    ("arch", "last"), [("tiny", 0.2), ("small", 0.3), (SMALLEST, 0.1)], ids=str
)
def test_stochastic_depth_has_the_published_rate(arch, last):
    with torch.device("meta"):
        model = ACmixSwin(arch)
    assert [m.p for m in model.modules() if isinstance(m, StochasticDepth)][-1] == pytest.approx(
        last
    )


def test_norms_of_dense_outputs_have_the_eps_of_all_others():
    norms = [m for m in ACmixSwin(SMALLEST).modules() if hasattr(m, "eps")]
    assert {norm.eps for norm in norms} == {1e-5}


@pytest.mark.parametrize("window_size", [7, 4])
def test_every_other_block_is_shifted_by_half_a_window(window_size):
    with torch.device("meta"):
        model = ACmixSwin("tiny", window_size=window_size)
    for stage in model.stages:
        blocks = [block for block in stage if isinstance(block, ACmixSwinBlock)]
        shifts = [block.attn.shift for block in blocks]
        assert shifts == [0, window_size // 2] * (len(blocks) // 2)
        assert {block.attn.window_size for block in blocks} == {window_size}


def test_weights_begin_as_published():
    model = ACmixSwin("tiny")
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear):
            assert 0.019 < module.weight.std() < 0.021, name
            assert module.bias is None or not module.bias.any(), name
        elif isinstance(module, nn.LayerNorm):
            assert (module.weight == 1).all(), name
            assert not module.bias.any(), name
        elif name.endswith("dep_conv"):
            assert torch.equal(module.weight[0], torch.eye(9).view(9, 3, 3)), name
    # convolutions as PyTorch does: uniform, up to the root of the fan-in's inverse
    assert 0.9 < model.stem.proj.weight.abs().max() * 48**0.5 <= 1


def test_the_stem_completes_the_last_patches_by_zeros():
    stem = PaddedPatchEmbed(3, 8, 4, LayerNorm2d)
    images = torch.randn(1, 3, 9, 7)
    completed = torch.zeros(1, 3, 12, 8)
    completed[:, :, :9, :7] = images
    out = stem(images)
    assert out.shape == (1, 8, 3, 2)
    torch.testing.assert_close(out, stem(completed))


@pytest.mark.parametrize("size", [(4, 6), (5, 7), (1, 2), (1, 1)], ids=str)
def test_merging_joins_two_by_two_positions_in_the_published_order(size):
    merging = fill_(PatchMerging(3)).double()
    x = torch.randn(2, 3, *size, dtype=torch.float64)
    rows, columns = (-(-side // 2) for side in size)
    expected = torch.empty(2, 6, rows, columns, dtype=torch.float64)
    for i in range(rows):
        for j in range(columns):
            joined = torch.zeros(2, 12, dtype=torch.float64)
            for part, (down, right) in enumerate([(0, 0), (1, 0), (0, 1), (1, 1)]):
                row, column = 2 * i + down, 2 * j + right
                if row < size[0] and column < size[1]:
                    joined[:, 3 * part : 3 * part + 3] = x[:, :, row, column]
            expected[:, :, i, j] = merging.reduction(merging.norm(joined))
    torch.testing.assert_close(merging(x), expected, **EXACT)


def published_block(block, x, shift):
    """Compute the published steps on ``(B, C, H, W)`` of whole windows, each as it was written.

    Tokens are rolled, the nine mixed maps are made and then convolved, logits of other regions are
    lowered by 100.
    """
    w = dict(block.named_parameters())
    size, window, heads = x.shape[2:], block.attn.window_size, block.attn.num_heads
    (height, width), dims = size, x.shape[1]

    def cut(x):
        x = x.reshape(-1, height // window, window, width // window, window, x.shape[-1])
        return x.permute(0, 1, 3, 2, 4, 5).reshape(-1, window**2, x.shape[-1])

    def normalise(x, name):
        x = (x - x.mean(-1, keepdim=True)) / (x.var(-1, unbiased=False, keepdim=True) + 1e-5).sqrt()
        return x * w[f"{name}.weight"] + w[f"{name}.bias"]

    def linear(x, name):
        return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]

    tokens = x.permute(0, 2, 3, 1)
    rolled = torch.roll(normalise(tokens, "norm1"), (-shift, -shift), (1, 2))
    qkv = linear(rolled, "attn.qkv")
    # convolution
    maps = qkv.permute(0, 3, 1, 2).reshape(-1, 3 * heads, dims // heads * height, width)
    maps = F.conv2d(maps, w["attn.fc.weight"], w["attn.fc.bias"])
    maps = maps.reshape(-1, 9, dims // heads, height, width).transpose(1, 2).flatten(1, 2)
    kernels = w["attn.dep_conv.weight"]
    convolution = F.conv2d(maps, kernels, padding=1, groups=dims // heads).permute(0, 2, 3, 1)
    # attention
    query, key, value = (
        cut(qkv).reshape(-1, window**2, 3, heads, dims // heads).permute(2, 0, 3, 1, 4)
    )
    logits = query @ key.transpose(2, 3) * (dims // heads) ** -0.5
    places = [(i, j) for i in range(window) for j in range(window)]
    rows = [
        [(i - k + window - 1) * (2 * window - 1) + j - m + window - 1 for k, m in places]
        for i, j in places
    ]
    table = w["attn.relative_position_bias_table"]
    logits = logits + table[torch.tensor(rows)].permute(2, 0, 1)
    if shift:
        region = torch.zeros(1, height, width, 1)
        ends = (slice(0, -window), slice(-window, -shift), slice(-shift, None))
        for i, down in enumerate(ends):
            for j, right in enumerate(ends):
                region[:, down, right] = 3 * i + j
        region = cut(region)  # (n, N, 1)
        mask = -100.0 * (region != region.transpose(1, 2))
        logits = (logits.unflatten(0, (-1, len(mask))) + mask[:, None]).flatten(0, 1)
    out = (logits.softmax(-1) @ value).transpose(1, 2).reshape(-1, window, window, dims)
    out = out.reshape(-1, height // window, width // window, window, window, dims)
    attention = linear(out.transpose(2, 3).reshape(-1, height, width, dims), "attn.proj")
    mixed = w["attn.rate1"] * attention + w["attn.rate2"] * convolution
    tokens = tokens + torch.roll(mixed, (shift, shift), (1, 2))
    hidden = F.gelu(linear(normalise(tokens, "norm2"), "mlp.fc1"))
    return (tokens + linear(hidden, "mlp.fc2")).permute(0, 3, 1, 2)


@pytest.mark.parametrize(
    ("size", "shift"),
    [
        pytest.param((14, 21), 0, id="not shifted"),
        pytest.param((14, 21), 3, id="shifted"),
        pytest.param((14, 7), 0, id="as wide as a window"),
        pytest.param((7, 7), 0, id="one window"),
    ],
)
def test_a_block_computes_the_published_steps(size, shift):
    # in maps as narrow as a window, shifted blocks do not shift
    setting = 3 if min(size) == 7 else shift
    block = ACmixSwinBlock(12, 0.0, num_heads=3, window_size=7, shift=setting)
    block = fill_(block).double()
    x = torch.randn(2, 12, *size, dtype=torch.float64, requires_grad=True)
    inputs = [x, *block.parameters()]
    actual = output_and_gradients(lambda x, *_: block(x), inputs)
    expected = output_and_gradients(lambda x, *_: published_block(block, x, shift), inputs)
    torch.testing.assert_close(actual, expected, **EXACT)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(arch="base"), r"\['small', 'tiny'\].*'base'"),
        (dict(arch=dict(SMALLEST, num_heads=(3, 3, 3, 3))), "num_heads=3, embed_dims=8"),
        (dict(window_size=0), "window_size=0"),
    ],
    ids=str,
)
def test_a_bad_setting_is_named(changes, message):
    with pytest.raises(ValueError, match=message):
        ACmixSwin(**{"arch": SMALLEST, **changes})
