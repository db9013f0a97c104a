"""Shared by the tests of window attention: implementations, inputs, the oracle."""

import pytest
import torch

from hybrid_backbones.ops.window_attention import chunked, reference

# float64 over sums of some hundred terms of order one
EXACT = dict(rtol=0, atol=1e-10)
IMPLEMENTATIONS = {
    "chunked": chunked.shifted_window_attention_chunked,
    "reference": reference.shifted_window_attention_reference,
}

each_implementation = pytest.mark.parametrize(
    "attend", IMPLEMENTATIONS.values(), ids=IMPLEMENTATIONS
)


def make_map(*shape, **kwargs):
    return torch.randn(shape, **{"dtype": torch.float64, "requires_grad": True, **kwargs})


def make_inputs(size, window_size, num_heads=2, head_dim=3, batch=2, **kwargs):
    """Make query, key, value and bias."""
    shape = batch, num_heads * head_dim, *size
    bias = make_map(num_heads, window_size**2, window_size**2, **kwargs)
    return [*(make_map(*shape, **kwargs) for _ in range(3)), bias]


def attend_by_position(query, key, value, bias, window_size, shift):
    """Compute the formula at one position after another.

    Windows tile the plane from row and column `shift`; no position exists outside of the map.
    """
    height, width = query.shape[2:]
    query, key, value = (x.unflatten(1, (len(bias), -1)) for x in (query, key, value))
    positions = [(row, column) for row in range(height) for column in range(width)]

    def place(row, column):
        """Return the window of a position, and its number within it."""
        rows, columns = divmod(row - shift, window_size), divmod(column - shift, window_size)
        return (rows[0], columns[0]), rows[1] * window_size + columns[1]

    outs = []
    for row, column in positions:
        window, here = place(row, column)
        logits, values = [], []
        for other in positions:
            other_window, there = place(*other)
            if other_window == window:
                logit = (query[..., row, column] * key[(..., *other)]).sum(2)
                logits.append(logit * query.shape[2] ** -0.5 + bias[:, here, there])
                values.append(value[(..., *other)])
        outs.append((torch.stack(logits).softmax(0)[..., None] * torch.stack(values)).sum(0))
    return torch.stack(outs, 3).flatten(1, 2).unflatten(2, (height, width))
