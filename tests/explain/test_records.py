"""Laws of what is recorded: by the path of the operator, and as the operator computes it."""

import pytest
import torch
from backbone_cases import ALL_KINDS, build, make_images
from golden.fill import compare, fill_, make_input
from helpers import golden_files

from hybrid_backbones.backbones import BiFormer, MixFormer, UniFormer, UniFormerLight
from hybrid_backbones.explain import attention, record
from hybrid_backbones.ops import (
    ACmix,
    BiLevelRoutingAttention,
    LocalRelationAggregator,
    XVolution,
    biformer,
)
from hybrid_backbones.ops.biformer import BiLevelRoutingAttention2d, region_means
from hybrid_backbones.ops.routed_attention.reference import routed_attention_reference
from hybrid_backbones.ops.windows import join_windows, partition_windows


def sides(make, shape):
    """Return height and width of an input, whose channels are last in the older form."""
    return shape[1:3] if make is legacy else shape[2:]


def golden_routing(pattern, make):
    return [
        pytest.param(make, case["arguments"], case, id=f"{stem}-{i}")
        for stem, golden in golden_files(pattern)
        for i, case in enumerate(golden["cases"])
        # with padding there are more regions, see the law below
        if all(side % case["arguments"]["n_win"] == 0 for side in sides(make, case["shape"]))
    ]


def legacy(dim, num_heads, n_win, topk, **_):
    return BiLevelRoutingAttention(dim, num_heads, n_win, topk)


def pointwise(dim, num_heads, n_win, topk, **_):
    return BiLevelRoutingAttention2d(dim, num_heads, n_win, topk)


@pytest.mark.parametrize(
    ("make", "arguments", "case"),
    [*golden_routing("bra_op.json", legacy), *golden_routing("bra_nchw_op.json", pointwise)],
)
def test_routes_are_those_of_the_published_code(make, arguments, case):
    module, x = fill_(make(**arguments)), make_input(case["shape"], case["seed"])
    old = isinstance(module, BiLevelRoutingAttention)
    x = x.permute(0, 3, 1, 2) if old else x
    routes = record(module, x)[""]["routes"]
    # attention along these routes gives the published output
    size = x.shape[2:]
    window = [side // module.num_windows for side in size]
    if old:
        qkv = module.qkv["qkv"](x.permute(0, 2, 3, 1))
    else:
        qkv = module.qkv_linear(x).permute(0, 2, 3, 1)
    query, key, value = partition_windows(qkv, window).chunk(3, -1)
    out = routed_attention_reference(query, key, value, routes, module.num_heads)
    out = join_windows(out, window, size)
    out = out + module.lepe(qkv.chunk(3, -1)[2].permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
    if old:
        compare([module.wo(out)], case["features"])
    else:
        compare([module.output_linear(out.permute(0, 3, 1, 2))], case["features"])
    # and the closest decision is as close as published
    scale = query.shape[-1] ** -0.5 if old else 1
    scores = scale * region_means(query) @ region_means(key).mT
    chosen = scores.gather(2, routes)
    others = scores.scatter(2, routes, float("-inf"))
    assert (chosen.diff(dim=2) <= 0).all()
    gaps = (chosen[..., -1] - others.amax(2)).flatten()
    published = case["routing"]["min_gap"]
    assert gaps.argmin() % routes.shape[1] == published["window"]
    assert gaps.min().item() == pytest.approx(published["gap"], rel=0.05)


@pytest.mark.parametrize(
    ("network", "settings"), [case for case in ALL_KINDS if case.values[0] is BiFormer]
)
def test_routes_are_those_along_which_the_operator_attends(network, settings, monkeypatch):
    model, seen = build(network, settings).eval(), []
    attend = biformer.routed_attention
    monkeypatch.setattr(
        biformer,
        "routed_attention",
        lambda q, k, v, routes, *args, **more: (
            seen.append(routes) or attend(q, k, v, routes, *args, **more)
        ),
    )
    for size in ((65, 49), (128, 96), (32, 200)):
        seen.clear()
        found = record(model, make_images(2, *size))
        assert [x["routes"].tolist() for x in found.values()] == [x.tolist() for x in seen]


def test_rates_are_alpha_and_beta():
    module = ACmix(8, 8)
    module.rate1.data[:], module.rate2.data[:] = 0.25, 0.75
    assert record(module, torch.randn(1, 8, 5, 5))[""]["rates"].tolist() == [0.25, 0.75]


def test_gates_are_what_both_branches_are_multiplied_by():
    model = build(MixFormer, dict(ALL_KINDS[3].values[1])).eval()
    images = make_images(2)
    block = model.stages[0][0].attn
    seen = []
    block.conv_norm.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    block.projection.register_forward_hook(lambda _, args, out: seen.append(out))
    found = record(model, images)["stages.0.0.attn"]
    projected, gated = seen
    height, width = found["spatial_gates"].shape[2:]
    ratio = (gated / projected)[:, :1, :height, :width]
    assert torch.allclose(found["spatial_gates"], ratio, rtol=1e-4)
    assert torch.equal(found["gates"][:, -1:], found["spatial_gates"])
    same = found["gates"][:, :-1] == found["channel_gates"]
    assert same.all()
    # the operator with these channel gates of one half is half as large before the norm
    block.channel_interaction[3].weight.data.zero_()
    block.channel_interaction[3].bias.data.zero_()
    half = record(model, images)["stages.0.0.attn"]["channel_gates"]
    assert torch.equal(half, torch.full_like(half, 0.5))


def test_tokens_that_are_not_kept_all_get_one_update():
    model = build(UniFormerLight, dict(ALL_KINDS[7].values[1])).eval()
    images, calls = make_images(2, 129, 97), []
    block = model.get_submodule("stages.2.2")
    hook = block.register_forward_hook(lambda _, args, out: calls.append((args[0], out)))
    found = record(model, images)
    hook.remove()
    ((before, after),) = calls
    kept, scores = found["stages.2.2"]["kept"], found["stages.2.2"]["scores"]
    assert kept.shape == before.map[:, 0].shape
    assert (kept.flatten(1).sum(1) == kept[0].numel() // 2).all()
    assert torch.equal(scores.flatten(1), after.score)
    change = after.map - before.map - block.pos_embed(before.map)
    for i in range(2):
        update = change[i][:, ~kept[i]]
        assert torch.allclose(update, update[:, :1].expand_as(update), atol=1e-5)
        assert not torch.allclose(change[i][:, kept[i]], update[:, :1], atol=1e-5)
    # scores of the pruned tokens stay
    stay = ~kept.flatten(1)
    assert torch.equal(after.score[stay], before.score[stay])
    # the first block has no scores to go by
    assert found["stages.2.0"]["kept"].all()


def test_attention_of_a_pruning_block_gives_its_output():
    model = build(UniFormerLight, dict(ALL_KINDS[7].values[1])).double().eval()
    images, calls = make_images(2, 129, 97, dtype=torch.float64), {}
    attn = model.get_submodule("stages.2.2.attn")
    attn.qkv.register_forward_hook(lambda _, args, out: calls.update(qkv=out))
    attn.proj.register_forward_hook(lambda _, args, out: calls.update(out=args[0]))
    found = record(model, images)
    kept, scores = found["stages.2.2"]["kept"], found["stages.2.1"]["scores"]
    for image in range(2):
        # tokens go in by score: the class token, those that are kept, and one for the others
        ranks = scores[image].flatten().argsort(descending=True, stable=True)
        num_kept = int(kept[image].sum())
        values = calls["qkv"].chunk(3, -1)[2][image].unflatten(1, (attn.num_heads, -1))
        on_map = values[-1].repeat(len(ranks), 1, 1)
        on_map[ranks[:num_kept]] = values[1:-1]
        for rank in (0, num_kept - 1, num_kept, len(ranks) - 1):
            place = divmod(int(ranks[rank]), kept.shape[2])
            weights = attention(model, images, "stages.2.2.attn", place)[image].flatten(1)
            class_share = 1 - weights.sum(1, keepdim=True)  # (h, 1)
            assert (class_share > 0).all()
            expected = torch.einsum("hn,nhd->hd", weights, on_map) + class_share * values[0]
            row = calls["out"][image, 1 + min(rank, num_kept)]
            assert torch.allclose(expected.flatten(), row, rtol=1e-9, atol=1e-12)
            assert bool(kept[image][place]) == (rank < num_kept)


def test_dynamic_kernels_are_the_weights_of_each_position():
    module = XVolution(16, 16, stride=2, num_heads=2).double().eval()
    x = torch.randn(2, 16, 7, 6, dtype=torch.float64)
    kernel = record(module, x)[""]["kernel"]
    assert kernel.shape == (2, 2, 9, 4, 3)
    weights = attention(module, x, "", (1, 1))
    assert torch.allclose(weights[:, :, 1:4, 1:4].flatten(2), kernel[..., 1, 1])
    assert weights[:, :, 1:4, 1:4].count_nonzero() == weights.count_nonzero()


def test_kernels_of_the_local_aggregator_are_its_weights():
    module = LocalRelationAggregator(8)
    kernel = record(module, torch.randn(1, 8, 5, 5))[""]["kernel"]
    assert torch.equal(kernel, module.attn.weight[:, 0])


def test_windows_of_a_hybrid_uniformer_alternate_with_the_whole_map():
    model = build(UniFormer, dict(ALL_KINDS[5].values[1])).eval()
    images = make_images(1, 97, 97)
    seen = [
        (attention(model, images, f"stages.2.{i}.attn", (1, 4))[0, 0] > 0).nonzero()
        for i in range(4)
    ]
    for window in seen[:3]:
        assert window.min(0).values.tolist() == [0, 3]
        assert window.max(0).values.tolist() == [2, 5]
    assert len(seen[3]) == 36
