"""Laws of efficient additive attention as a function of queries, keys and the scoring vector."""

import pytest
import torch
import torch.nn.functional as F

from hybrid_backbones.ops.swiftformer import efficient_additive_attention

# float64 over sums of some hundred terms of order one
EXACT = dict(rtol=0, atol=1e-10)


def make_unit_tokens(*shape):
    return F.normalize(torch.randn(shape, dtype=torch.float64), dim=-1).requires_grad_()


def make_weight():
    return torch.randn(4, 1, dtype=torch.float64, requires_grad=True)


def test_the_sign_of_the_weight_is_the_sign_of_the_context():
    query, key = make_unit_tokens(2, 9, 4), make_unit_tokens(2, 9, 4)
    weight = make_weight()
    context = efficient_additive_attention(query, key, weight)
    torch.testing.assert_close(efficient_additive_attention(query, key, -weight), -context, **EXACT)


@pytest.mark.parametrize(
    ("first_release", "growth"), [(False, 3.0), (True, 9.0)], ids=["current", "first"]
)
def test_nine_copies_of_all_tokens_make_the_context_three_or_nine_times_longer(
    first_release, growth
):
    query, key, weight = make_unit_tokens(2, 7, 4), make_unit_tokens(2, 7, 4), make_weight()
    settings = dict(first_release=first_release)
    once = efficient_additive_attention(query, key, weight, **settings)
    copies = efficient_additive_attention(
        query.repeat(1, 9, 1), key.repeat(1, 9, 1), weight, **settings
    )
    torch.testing.assert_close(copies, growth * once.repeat(1, 9, 1), **EXACT)


def test_the_only_token_is_the_global_query_itself():
    query, key, weight = make_unit_tokens(5, 1, 4), make_unit_tokens(5, 1, 4), make_weight()
    context = efficient_additive_attention(query, key, weight)
    torch.testing.assert_close(context, (query @ weight).sign() * query * key, **EXACT)


@pytest.mark.parametrize("first_release", [False, True], ids=["current", "first"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_the_sum_over_tokens_is_rounded_once(first_release, dtype):
    # 70000 is beyond float16, and no float16 or bfloat16 is close to its inverse root
    query, key = torch.ones(1, 70_000, 1, dtype=dtype), torch.full((1, 70_000, 1), 1 / 8)
    weight = torch.ones(1, 1, dtype=dtype)
    out = efficient_additive_attention(query, key.to(dtype), weight, first_release=first_release)
    expected = (70_000 if first_release else 70_000**0.5) / 8
    torch.testing.assert_close(
        out.double(), torch.full_like(out, expected).double(), rtol=0, atol=0
    )
