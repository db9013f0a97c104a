"""ACmix for tests: with weights that differ, as published, and written out index by index."""

import torch
from golden.fill import fill_
from helpers import mirror

from hybrid_backbones.ops import ACmix

# float64 over sums of some hundred terms of order one
EXACT = dict(rtol=0, atol=1e-10)


def build_published(arguments):
    """Build the operator from the arguments of the published constructor."""
    kernel_size = arguments.get("kernel_conv", 3)
    return ACmix(
        arguments["in_planes"],
        arguments["out_planes"],
        kernel_size,
        arguments.get("stride", 1),
        padding=kernel_size // 2,
        num_heads=arguments.get("head", 4),
        attn_kernel_size=arguments.get("kernel_att", 7),
    )


def build_exact(*args, device="cpu", **kwargs):
    """Build the operator in float64 with no two equal weights."""
    return fill_(ACmix(*args, **kwargs)).to(device).double()


def make_image(*shape, **kwargs):
    return torch.randn(shape, **{"dtype": torch.float64, "requires_grad": True, **kwargs})


def acmix_by_index(module, x):
    """Compute the formulas of the paper at one output pixel after another, as published.

    The position of the query stays in the logits, and the heads are mixed before they are shifted.
    """
    weights = dict(module.named_parameters())
    num_heads, stride, dilation = module.num_heads, module.stride, module.dilation
    height, width = x.shape[2:]
    taps = range(module.dep_conv.weight.shape[-1])
    attn_taps = range(module.attn_kernel_size)

    def project(name, tensor):
        out = torch.einsum("oi,bihw->bohw", weights[f"{name}.weight"].flatten(1), tensor)
        bias = weights.get(f"{name}.bias")
        return out if bias is None else out + bias[:, None, None]

    def coordinate(i, length):
        return -1 + 2 * i / (length - 1) if length > 1 else -1

    # 1. projections, and 2. positions
    query, key, value = (project(f"conv{i}", x).unflatten(1, (num_heads, -1)) for i in (1, 2, 3))
    xs = [[coordinate(j, width) for j in range(width)] for _ in range(height)]
    ys = [[coordinate(i, height) for _ in range(width)] for i in range(height)]
    position = project("conv_p", torch.tensor([[xs, ys]], dtype=x.dtype))[0]  # (d, H, W)
    # 4. the maps that the convolution shifts
    mixing = weights["fc.weight"].flatten(1)
    mixed = torch.einsum("th,bhdyx->btdyx", mixing, torch.cat([query, key, value], 1))
    mixed = mixed.repeat_interleave(num_heads, 2)  # output channel c takes channel c // n

    def attend(y, x):
        logits, values = [], []
        for i in attn_taps:
            for j in attn_taps:
                row = mirror(y + dilation * (i - len(attn_taps) // 2), height)
                col = mirror(x + dilation * (j - len(attn_taps) // 2), width)
                relative = position[:, y, x] - position[:, row, col]
                logit = query[..., y, x] * (key[..., row, col] + relative)
                logits.append(logit.sum(2) * query.shape[2] ** -0.5)
                values.append(value[..., row, col])
        weighted = torch.stack(logits).softmax(0)[..., None] * torch.stack(values)
        return weighted.sum(0).flatten(1)  # (B, C)

    def convolve(y, x):
        total = 0
        for i in taps:
            for j in taps:
                row = y + dilation * (i - len(taps) // 2)
                col = x + dilation * (j - len(taps) // 2)
                if 0 <= row < height and 0 <= col < width:
                    kernels = weights["dep_conv.weight"][:, :, i, j]
                    total = total + torch.einsum("ct,btc->bc", kernels, mixed[..., row, col])
        return total

    def pixel(y, x):
        return weights["rate1"] * attend(y, x) + weights["rate2"] * convolve(y, x)

    columns = range(0, width, stride)
    rows = [torch.stack([pixel(y, x) for x in columns], -1) for y in range(0, height, stride)]
    return torch.stack(rows, -2)


def assert_shifts(weight):
    """Check that filter t of each output channel is one at row t // Kc, column t % Kc."""
    _, num_taps, _, side = weight.shape
    expected = torch.zeros(weight.shape)
    for t in range(num_taps):
        expected[:, t, t // side, t % side] = 1
    assert torch.equal(weight, expected)
