"""Laws of full attention beside a convolution, in the last stage of BiFormer."""

import pytest
import torch
from golden.fill import fill_
from helpers import output_and_gradients

from hybrid_backbones.ops.biformer import AttentionLePE, AttentionLePE2d


def test_the_convolution_beside_full_attention_is_of_the_values_in_the_refactored_form():
    module = fill_(AttentionLePE2d(16, 2)).double()
    inputs = [
        torch.randn(2, 16, 3, 5, dtype=torch.float64, requires_grad=True),
        *module.parameters(),
    ]

    def formula(x, *_):
        weights = {name: p.flatten(1) for name, p in module.named_parameters() if p.ndim == 4}
        q, k, v = torch.einsum("oc,bcyx->boyx", weights["qkv.weight"], x).chunk(3, 1)
        heads = [y.flatten(2).unflatten(1, (2, 8)) for y in (q, k, v)]
        attention = torch.einsum("bhds,bhdt->bhst", *heads[:2]).div(8**0.5).softmax(-1)
        out = (
            torch.einsum("bhst,bhdt->bhds", attention, heads[2]).flatten(1, 2).unflatten(2, (3, 5))
        )
        out = torch.einsum("oc,bcyx->boyx", weights["proj.weight"], out + module.lepe(v))
        return out + module.proj.bias[:, None, None]

    actual = output_and_gradients(lambda x, *_: module(x), inputs)
    expected = output_and_gradients(formula, inputs)
    # float64 over sums of some hundred terms of order one
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-11)


@pytest.mark.parametrize("form", [AttentionLePE, AttentionLePE2d])
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (dict(num_heads=3), "num_heads=3, embed_dims=8"),
        (dict(num_heads=0), "num_heads=0"),
        (dict(lepe_kernel_size=4), "lepe_kernel_size=4"),
    ],
    ids=str,
)
def test_a_bad_setting_of_full_attention_is_named_at_construction(form, settings, message):
    with pytest.raises(ValueError, match=message):
        form(8, **settings)
