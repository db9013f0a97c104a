"""Laws of UniFormerLight: attention that evolves, its class token, its two classifiers."""

import pytest
import torch
from golden.fill import fill_
from helpers import output_and_gradients
from mmpretrain.models import ImageClassifier
from mmpretrain.structures import DataSample

import hybrid_backbones.heads  # noqa: F401, registers the head
from hybrid_backbones.backbones.uniformer_light import (
    ScoredTokens,
    TokenPruningBlock,
    UniFormerLight,
)

# float64 over sums of some hundred terms of order one
EXACT = dict(rtol=0, atol=1e-10)
TINY = dict(arch=dict(depths=(1, 1, 3, 2), embed_dims=(8, 16, 24, 32), head_dims=8))


def build(**settings):
    torch.manual_seed(0)
    return UniFormerLight(**TINY, **settings)


def evolve_by_formula(block, maps, cls, score):
    """Compute one evolving block for one image after another, one token after another."""
    encoded = maps + block.pos_embed(maps)
    size, outs = maps.shape[2:], []
    for b in range(len(maps)):
        tokens = list(encoded[b].flatten(1).T)  # N times (C,)
        ranked = sorted(range(len(tokens)), key=lambda n: -score[b, n].item())
        num_kept = max(1, int(len(tokens) * block.keep_ratio))
        kept, dropped = ranked[:num_kept], ranked[num_kept:]
        related = [cls[b, 0], *[tokens[n] for n in kept]]
        if dropped:
            total = sum(score[b, n] for n in dropped)
            related.append(sum(score[b, n] * tokens[n] for n in dropped) / total)
        x = torch.stack(related)
        query, key, value = (
            block.attn.qkv(block.norm1(x)).unflatten(1, (3, block.attn.num_heads, -1)).unbind(1)
        )  # each (tokens, h, d)
        attention = torch.einsum("nhd,mhd->hnm", query, key) * query.shape[2] ** -0.5
        attention = attention.softmax(2)
        attended = block.attn.proj(torch.einsum("hnm,mhd->nhd", attention, value).flatten(1))
        mixed = block.mlp(block.norm2(x + attended))
        new_score = list(score[b])
        for place, n in enumerate(kept):
            tokens[n] = (x + attended + mixed)[place + 1]
            seen = attention[:, 0, place + 1].mean()
            new_score[n] = (1 - block.trade_off) * score[b, n] + block.trade_off * seen
        for n in dropped:
            tokens[n] = tokens[n] + attended[-1] + mixed[-1]
        new_maps = torch.stack(tokens, 1).unflatten(1, size)
        outs.append((new_maps, (x + attended + mixed)[:1], torch.stack(new_score)))
    return [torch.stack(parts) for parts in zip(*outs, strict=True)]


def make_evolving(size, channels=8):
    maps = torch.randn(2, channels, *size, dtype=torch.float64, requires_grad=True)
    cls = torch.randn(2, 1, channels, dtype=torch.float64, requires_grad=True)
    score = torch.rand(2, size[0] * size[1], dtype=torch.float64).requires_grad_()
    return ScoredTokens(maps, cls, score)


@pytest.mark.parametrize("size", [(3, 4), (5, 3), (1, 1), (1, 2), (3, 1)], ids=str)
@pytest.mark.parametrize(
    "settings", [dict(), dict(keep_ratio=1, trade_off=1), dict(keep_ratio=0.3)], ids=str
)
def test_an_evolving_block_computes_its_formula(size, settings):
    block = fill_(TokenPruningBlock(8, 4, 0.0, **settings)).double()
    inputs = [*make_evolving(size), *block.parameters()]

    def run(function):
        def flat(maps, cls, score, *_):
            return torch.cat([x.flatten(1) for x in function(maps, cls, score)], 1)

        return output_and_gradients(flat, inputs)

    actual = run(lambda *state: block(ScoredTokens(*state)))
    torch.testing.assert_close(actual, run(lambda *s: evolve_by_formula(block, *s)), **EXACT)


def test_dropped_tokens_have_no_stochastic_depth():
    block = fill_(TokenPruningBlock(8, 4, 1.0)).double().train()
    state = make_evolving((4, 4))
    before = state.map + block.pos_embed(state.map)
    after = block(state)
    moved = ((after.map - before).abs() > 1e-9).any(1).flatten(1)
    best = torch.zeros_like(moved).scatter(1, state.score.topk(8).indices, True)
    assert torch.equal(moved, ~best)
    torch.testing.assert_close(after.cls, state.cls, **EXACT)


def test_stage_3_begins_without_scores_and_keeps_all_tokens():
    model = build()
    blocks = [m for m in model.modules() if isinstance(m, TokenPruningBlock)]
    assert [(b.keep_ratio, b.trade_off) for b in blocks] == [(1, 1)] + [(0.5, 0.5)] * 4


def test_the_light_classifier_trains_both_of_its_layers():
    torch.manual_seed(0)
    classifier = ImageClassifier(
        backbone=dict(TINY, type="UniFormerLight", out_norm="final", out_indices=(3,)),
        neck=dict(type="GlobalAveragePooling"),
        head=dict(type="PairedLinearHead", average=False, num_classes=5, in_channels=32),
    ).train()
    images = torch.randn(2, 3, 65, 49)
    maps = classifier.backbone(images)
    assert [x.shape for x in maps] == [(2, 32, 2, 1), (2, 32, 1, 1)]
    assert classifier.backbone.out_channels == (32, 32)
    samples = [DataSample().set_gt_label(i) for i in range(2)]
    classifier(images, samples, mode="loss")["loss"].backward()
    grads = {name: p.grad for name, p in classifier.named_parameters()}
    assert all(grad is not None and grad.isfinite().all() for grad in grads.values())
    assert all(grads[f"head.{fc}.bias"].any() for fc in ("fc", "paired_fc"))


def test_the_appended_class_token_is_normalised():
    model = build(out_norm="final").eval()
    *maps, last, cls = model(torch.randn(2, 3, 64, 48))
    raw = build(out_norm="none").eval()
    assert len(maps) == 3
    assert last.shape == (2, 32, 2, 1)
    torch.testing.assert_close(cls.mean(1), torch.zeros(2, 1, 1), rtol=0, atol=1e-5)
    assert raw.out_channels == (8, 16, 24, 32)
    assert model.out_channels == (8, 16, 24, 32, 32)
