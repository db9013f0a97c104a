"""Laws of the Swin with detection tokens: the published numbers, tokens, padding, any size."""

import re

import pytest
import torch
import torch.nn.functional as F
from golden.fill import compare, fill_, make_input
from helpers import golden_files, published_weights

from hybrid_backbones.backbones import ACmixSwin
from hybrid_backbones.checkpoints import load_published
from hybrid_backbones.locformer import SwinRAM
from hybrid_backbones.locformer.backbone import (
    RAMBlock,
    RAMFeatures,
    TokenMerging,
    padded_positions,
)

((_, GOLDEN),) = golden_files("locformer_swin_tiny_backbone.json")
SMALL = dict(embed_dims=32, num_heads=(1, 2, 4, 8), depths=(1, 1, 2, 2), drop_path_rate=0.0)


def build_small(**kwargs):
    network = SwinRAM(dict(SMALL), num_queries=5, sketch_dims=64, **kwargs)
    return fill_(network).eval()


def make_padding(batch, height, width, *sizes):
    """Mark, in a batch of masks, all beyond the size of each image."""
    padding = torch.zeros(batch, height, width, dtype=torch.bool)
    for mask, (rows, columns) in zip(padding[: len(sizes)], sizes, strict=True):
        mask[rows:] = True
        mask[:, columns:] = True
    return padding


@pytest.fixture(scope="module")
def published():
    network = SwinRAM("tiny").eval()
    return network, load_published(network, published_weights(GOLDEN))


def test_features_and_tokens_are_the_published_ones(published):
    network, report = published
    assert not report.fresh
    (case,) = GOLDEN["cases"]
    padding = make_padding(2, 224, 288, (224, 288), case["valid_size_of_second_image"])
    images = make_input(case["shape"], case["seed"]).masked_fill(padding[:, None], 0)
    sketch = make_input(case["sketch_shape"], case["sketch_seed"])[:, None]
    with torch.no_grad():
        out = network(images, padding, sketch)
    compare(out.maps, case["features"])
    compare([x.transpose(1, 2) for x in out[1:]], [case["det_tgt"], case["det_pos"]])


def test_what_is_not_loaded_has_no_effect_in_the_published_network(published):
    _, report = published
    kinds = {re.sub(r"\d+", "N", name).rsplit(".", 1)[0] for name in report.dropped}
    assert kinds == {
        *("attention.N.normN", "bn_op", "normN", "normalize_image.N", "normalize_sketch.N"),
        *("layers.N.blocks.N.attn", "layers.N.downsample.expansion", "layers.N.downsample.normN"),
        *("opN", "projection.N"),
        *(f"resConfUnitN.{part}N" for part in ("bn", "conv")),
    }


def test_a_swin_classifier_starts_it():
    network, weights = SwinRAM("tiny"), published_weights(GOLDEN)
    fresh = ("fusions.", "det_", "last_merging.")
    swin = {
        name: x
        for name, x in weights.items()
        if re.match(r"layers\.[012]|layers\.3\.blocks|patch_embed", name)
        and not re.search(r"det_pos_linear|downsample\.(expansion|norm2)", name)
    }
    swin |= {"norm.weight": torch.ones(768), "norm.bias": torch.zeros(768)}
    swin |= {"head.weight": torch.ones(1000, 768), "head.bias": torch.zeros(1000)}
    swin["layers.0.blocks.1.attn_mask"] = torch.zeros(64, 49, 49)
    report = load_published(network, swin)
    assert all(name.startswith(fresh) or ".det_pos_linear." in name for name in report.fresh)
    own = network.state_dict()
    assert torch.equal(own["stages.2.3.mlp.fc1.bias"], swin["layers.2.blocks.3.mlp.fc1.bias"])


def test_without_its_tokens_and_sketch_it_is_a_swin():
    network = build_small()
    for fusion in network.fusions:
        fusion.forward = lambda x, sketch: x
    swin = ACmixSwin(dict(SMALL), out_norm="none").eval()
    own = network.state_dict()
    shared = {name: own.get(name, x) for name, x in swin.state_dict().items()}
    # ACmix with the convolution branch switched off
    for name in shared:
        if name.endswith((".rate1", ".rate2")):
            shared[name] = torch.full((1,), float(name.endswith("1")))
    swin.load_state_dict(shared)
    images = make_input((1, 3, 224, 448))
    with torch.no_grad():
        maps = network(images, torch.zeros(1, 224, 448, dtype=torch.bool), None).maps
        # without the last stage: there 224 pixels are one window, which ACmix-Swin does not shift
        for ours, theirs in zip(maps[:2], swin(images)[1:3], strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("looks", [True, False])
def test_tokens_attend_to_each_other_and_in_the_last_stage_to_real_patches(looks):
    block = RAMBlock(16, 8, 0.0, looks, num_heads=2, window_size=3, shift=1)
    block = fill_(block).double().eval()
    x = RAMFeatures(
        torch.randn(2, 16, 4, 5).double(),
        torch.randn(2, 3, 16).double(),
        torch.randn(1, 3, 8).double(),
        make_padding(2, 128, 160, (128, 160), (68, 96)),
    )
    rows = []
    for b in range(2):
        normed = block.norm1(x.tokens[b]) + block.det_pos_linear(x.positions[0])
        query, key, value = block.attn.qkv(normed).chunk(3, 1)
        if looks:
            padding = F.interpolate(x.padding[b : b + 1, None].double(), (4, 5))[:, 0] > 0
            patches = x.map[b].flatten(1).T
            patches = block.norm1(patches) + padded_positions(padding, 16)[0]
            valid_mask = patches[~padding.flatten()]
            _, more_keys, more_values = block.attn.qkv(valid_mask).chunk(3, 1)
            key, value = torch.cat([key, more_keys]), torch.cat([value, more_values])
        heads = [
            (query[:, part] @ key[:, part].T / 8**0.5).softmax(1) @ value[:, part]
            for part in (slice(0, 8), slice(8, 16))
        ]
        tokens = x.tokens[b] + block.attn.proj(torch.cat(heads, 1))
        rows.append(tokens + block.mlp(block.norm2(tokens)))
    out = block(x)
    torch.testing.assert_close(out.tokens, torch.stack(rows), rtol=0, atol=1e-6)
    assert out.map.shape == x.map.shape


def test_positions_are_relative_to_the_real_part():
    padding = make_padding(2, 8, 8, (8, 8), (4, 2))
    whole = padded_positions(make_padding(1, 4, 2), 8).view(4, 2, 8)
    part = padded_positions(padding, 8).view(2, 8, 8, 8)[1, :4, :2]
    torch.testing.assert_close(part, whole)
    # the last of the real rows is 2π, of which the first sine is 0
    assert part[-1, 0, 0].item() == pytest.approx(0, abs=1e-5)


def test_merging_treats_a_token_as_four_equal_patches():
    merging = fill_(TokenMerging(8, 12)).eval()
    token = make_input((1, 1, 8))
    patches = token[0, 0][None, :, None, None].expand(1, 8, 2, 2)
    out = merging(RAMFeatures(patches, token, None, None))
    torch.testing.assert_close(out.map[:, :, 0, 0], out.tokens[:, 0])


@pytest.mark.parametrize("size", [(32, 32), (64, 97), (131, 45), (1, 3)])
def test_any_size_gives_maps_of_the_declared_strides(size):
    images, sketch = make_input((2, 3, *size)), make_input((2, 2, 64, 3, 3), 1)
    network = build_small()
    with torch.no_grad():
        out = network(images, make_padding(2, *size), sketch)
    for stride, x in zip((8, 16, 32, 64), out.maps, strict=True):
        assert x.shape[2:] == tuple(-(-side // stride) for side in size)
        assert x.isfinite().all()
    assert [x.shape[1] for x in out.maps] == [64, 128, 256, 64]
    assert tuple(x.shape[1] for x in out.maps) == network.out_channels
    assert out.tokens.shape == (2, 5, network.token_dims)
    assert out.positions.shape == (1, 5, network.position_dims)


def test_a_row_of_a_batch_is_the_single_image():
    network = build_small()
    images, sketch = make_input((2, 3, 64, 96)), make_input((2, 1, 64, 3, 3), 1)
    padding = make_padding(2, 64, 96, (64, 96), (40, 50))
    with torch.no_grad():
        both = network(images, padding, sketch)
        one = network(images[1:], padding[1:], sketch[1:])
    for a, b in zip((*both.maps, both.tokens), (*one.maps, one.tokens), strict=True):
        torch.testing.assert_close(a[1:], b, rtol=1e-4, atol=1e-4)


def test_padding_beyond_the_last_whole_cell_of_32_pixels_is_patches_as_published():
    # 208 pixels are 6 cells and a half, taken as 6 of which the last one begins at pixel 173
    network, size = build_small(), (208, 32)
    images, sketch = make_input((1, 3, *size)), make_input((1, 1, 64, 3, 3), 1)
    with torch.no_grad():
        whole, within, beyond = (
            network(images, make_padding(1, *size, (rows, 32)), sketch).tokens
            for rows in (208, 176, 172)
        )
    torch.testing.assert_close(within, whole, rtol=0, atol=0)
    assert not torch.equal(beyond, whole)


def test_recomputation_gives_the_same_gradients():
    images, sketch = make_input((1, 3, 64, 64)), make_input((1, 1, 64, 3, 3), 1)

    def gradients(with_cp):
        network = build_small(with_cp=with_cp, dropout=0.0).train()
        out = network(images, make_padding(1, 64, 64), sketch)
        sum(x.sin().sum() for x in (*out.maps, out.tokens)).backward()
        return {name: x.grad for name, x in network.named_parameters()}

    plain, recomputed = gradients(False), gradients((1, 0, 2, 1))
    assert all(grad is not None for grad in plain.values())
    torch.testing.assert_close(plain, recomputed)


def test_freezing_leaves_tokens_and_fusions_free():
    network = build_small(frozen_stages=4).train()
    frozen = {name.split(".")[0] for name, x in network.named_parameters() if not x.requires_grad}
    assert frozen == {"stem", "stages"}


def test_one_seed_gives_one_network():
    def build():
        torch.manual_seed(3)
        return SwinRAM(dict(SMALL), num_queries=5).state_dict()

    torch.testing.assert_close(build(), build(), rtol=0, atol=0)


def test_half_precision_is_near():
    network = build_small()
    images, sketch = make_input((1, 3, 64, 96)), make_input((1, 1, 64, 3, 3), 1)
    with torch.no_grad():
        exact = network(images, make_padding(1, 64, 96), sketch).tokens
        with torch.autocast("cpu", torch.bfloat16):
            half = network(images, make_padding(1, 64, 96), sketch).tokens
    assert ((half.float() - exact).norm() / exact.norm()).item() < 0.05
    with torch.no_grad():
        half = network.bfloat16()(images.bfloat16(), make_padding(1, 64, 96), sketch.bfloat16())
    assert half.tokens.dtype == torch.bfloat16
    assert ((half.tokens.float() - exact).norm() / exact.norm()).item() < 0.1
