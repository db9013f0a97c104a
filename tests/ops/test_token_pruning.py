"""Laws of token pruning: scores, orders, representatives."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from hybrid_backbones.layers import PatchEmbed, split_heads
from hybrid_backbones.ops.uniformer import (
    apply_order,
    class_token_score,
    invert_order,
    num_kept_tokens,
    order_by_score,
    pool_score,
    representative_token,
    update_score,
)

# float64 over sums of some hundred terms of order one
EXACT = dict(rtol=0, atol=1e-10)


def randn(*shape):
    return torch.randn(shape, dtype=torch.float64)


def test_scores_are_the_attention_of_the_class_token():
    query, key = (split_heads(randn(2, 7, 8), 2) for _ in range(2))
    eye = torch.eye(7, dtype=torch.float64).expand(2, 2, 7, 7)
    attention = F.scaled_dot_product_attention(query, key, eye)
    score = class_token_score(query, key)
    torch.testing.assert_close(score, attention.mean(1)[:, 0, 1:], **EXACT)
    assert class_token_score(query.half(), key.half()).dtype == torch.float32
    # whose products half precision does not hold
    large = torch.full((1, 1, 3, 32), 60.0).half()
    torch.testing.assert_close(class_token_score(large, large), torch.full((1, 2), 1 / 3))


def test_an_order_sorts_and_its_inverse_restores():
    score, tokens = randn(3, 9), randn(3, 9, 4)
    order = order_by_score(score)
    assert torch.equal(apply_order(score, order), score.sort(1, descending=True).values)
    back = invert_order(order)
    assert torch.equal(apply_order(apply_order(tokens, order), back), tokens)
    assert torch.equal(apply_order(apply_order(score, order), back), score)


def test_tokens_follow_their_scores():
    score = randn(3, 9)
    tokens = score[..., None].expand(3, 9, 2)
    order = order_by_score(score)
    assert torch.equal(apply_order(tokens, order)[..., 1], apply_order(score, order))


@pytest.mark.parametrize(("num_tokens", "num_kept"), [(1, 1), (2, 1), (3, 1), (49, 24), (50, 25)])
def test_half_of_the_tokens_are_kept_and_never_none(num_tokens, num_kept):
    assert num_kept_tokens(num_tokens, 0.5) == num_kept
    assert num_kept_tokens(num_tokens, 1) == num_tokens


def test_a_representative_is_the_weighted_mean():
    tokens, score = randn(2, 5, 3), torch.rand(2, 5, dtype=torch.float64)
    expected = sum(score[:, n, None] * tokens[:, n] for n in range(5))
    expected = expected / score.sum(1, keepdim=True)
    torch.testing.assert_close(representative_token(tokens, score)[:, 0], expected, **EXACT)
    same = tokens[:, :1].expand(2, 5, 3)
    torch.testing.assert_close(representative_token(same, score), tokens[:, :1], **EXACT)


def test_a_representative_of_tokens_without_scores_is_their_mean():
    tokens = randn(2, 5, 3)
    representative = representative_token(tokens, torch.zeros(2, 5, dtype=torch.float64))
    torch.testing.assert_close(representative, tokens.mean(1, keepdim=True), **EXACT)
    half = representative_token(tokens.half(), torch.zeros(2, 5))
    assert half.dtype == torch.float16
    assert half.isfinite().all()


def test_scores_of_kept_tokens_are_blended():
    old, new = randn(2, 5), randn(2, 3)
    blended = update_score(old, new, 0.25)
    torch.testing.assert_close(blended[:, :3], 0.75 * old[:, :3] + 0.25 * new, **EXACT)
    assert torch.equal(blended[:, 3:], old[:, 3:])
    assert torch.equal(update_score(old, new, 1)[:, :3], new)


@pytest.mark.parametrize("size", [(4, 6), (5, 7), (2, 3), (1, 1), (1, 4), (3, 1)], ids=str)
def test_pooled_scores_keep_their_sum_and_belong_to_the_patches(size):
    score = torch.rand(2, size[0] * size[1], dtype=torch.float64)
    pooled = pool_score(score, size)
    torch.testing.assert_close(pooled.sum(1), score.sum(1), **EXACT)
    embed = PatchEmbed(1, 1, 2, lambda channels: nn.Identity()).double()
    nn.init.constant_(embed.proj.weight, 0.25)
    nn.init.zeros_(embed.proj.bias)
    embedded = embed(score.unflatten(1, (1, *size))).flatten(1)
    torch.testing.assert_close(
        pooled / pooled.sum(1, keepdim=True), embedded / embedded.sum(1, keepdim=True), **EXACT
    )


def test_pooled_scores_of_nothing_are_finite():
    assert pool_score(torch.zeros(2, 16), (4, 4)).isfinite().all()
