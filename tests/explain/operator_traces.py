"""Independent oracle of attention weights: derivatives of attention outputs by their values.

Attention is linear in its values, so the derivative of an output at a position by the value at
another one is the weight between them, whatever the operator computes and wherever it looks.
"""

from collections import defaultdict

import torch

from hybrid_backbones.ops import (
    ACmix,
    ACmixWindow,
    BiLevelRoutingAttention,
    BiLevelRoutingAttention2d,
    GlobalRelationAggregator,
    LocalRelationAggregator,
    MergedXVolution,
    MixingAttention,
    XVolution,
)
from hybrid_backbones.ops.acmix import acmix_attention, position_map
from hybrid_backbones.ops.biformer import AttentionLePE, AttentionLePE2d
from hybrid_backbones.ops.windows import join_windows, partition_windows


def run_and_keep(module, x):
    """Run a module; return its output, and input and output of each call of its parts."""
    calls, hooks = defaultdict(list), []
    for name, part in module.named_modules():
        hooks.append(
            part.register_forward_hook(
                lambda _, args, out, name=name: calls[name].append((args[0], out))
            )
        )
    if isinstance(module, BiLevelRoutingAttention):
        attend = module._attend
        # of all regions, also of those of padding only, which are not projected
        module._attend = lambda *qkv: calls["values"].append(qkv[2]) or attend(*qkv)
    calls["out"] = module(x)
    vars(module).pop("_attend", None)
    for hook in hooks:
        hook.remove()
    return calls


def trace(module, x):
    """Run an operator; return attention output ``(B, H, W, C)`` before the projection, a tensor
    that contains the values, and a function from such a tensor to the values ``(B, H, W, C)``."""
    if isinstance(module, ACmix):
        query, key, value = (conv(x) for conv in (module.conv1, module.conv2, module.conv3))
        position = module.conv_p(position_map(*x.shape[2:], x.dtype, device=x.device))
        settings = dict(stride=module.stride, dilation=module.dilation, backend="reference")
        out = acmix_attention(
            *(query, key, value, position, module.num_heads, module.attn_kernel_size), **settings
        )
        return out.permute(0, 2, 3, 1), value, lambda v: v.permute(0, 2, 3, 1)
    calls, size = run_and_keep(module, x), x.shape[2:]

    def last(qkv):
        return qkv.chunk(3, -1)[2]

    if isinstance(module, ACmixWindow):
        return calls["proj"][0][0], calls["qkv"][0][1], last
    if isinstance(module, MixingAttention):
        gate = calls["channel_interaction"][0][1].sigmoid().permute(0, 2, 3, 1)
        # weights are those of the gated values
        return calls["attn_norm"][0][0] / gate, calls["qkv"][0][1], last
    if isinstance(module, GlobalRelationAggregator):
        side = module.window_size
        window = tuple(size) if side is None else (side, side)
        whole = [a + -a % b for a, b in zip(size, window, strict=True)]
        out = calls["proj"][0][0]
        return out, calls["qkv"][0][1], lambda v: last(join_windows(v, window, whole))
    if isinstance(module, AttentionLePE):
        lepe = calls["lepe"][0][1].flatten(2).mT
        out = (calls["proj"][0][0] - lepe).unflatten(1, size)
        return out, calls["qkv"][0][1], lambda v: last(v.unflatten(1, size))
    if isinstance(module, AttentionLePE2d):
        out = (calls["proj"][0][0] - calls["lepe"][0][1]).permute(0, 2, 3, 1)
        return out, calls["qkv"][0][1], lambda v: last(v.permute(0, 2, 3, 1))
    if isinstance(module, BiLevelRoutingAttention):
        side = module.num_windows
        window = tuple(-(-length // side) for length in size)
        whole = [side * length for length in window]
        lepe = calls["lepe"][0][1][..., : size[0], : size[1]].permute(0, 2, 3, 1)
        out = calls["wo"][0][0] - lepe
        return out, calls["values"][0], lambda v: join_windows(v, window, whole)
    if isinstance(module, BiLevelRoutingAttention2d):
        out = (calls["output_linear"][0][0] - calls["lepe"][0][1]).permute(0, 2, 3, 1)
        window = [max(length // module.num_windows, 1) for length in size]
        whole = [a + -a % b for a, b in zip(size, window, strict=True)]

        def pad(v):
            return join_windows(partition_windows(v.permute(0, 2, 3, 1), window), window, whole)

        return out, calls["qkv_linear"][0][1], lambda v: last(pad(v))
    if isinstance(module, XVolution):
        out = calls["attention_bn"][0][0].permute(0, 2, 3, 1)
        return out, calls["value"][0][1], lambda v: v.permute(0, 2, 3, 1)
    if isinstance(module, MergedXVolution):
        groups = module.qkv.groups
        out = calls["out"].permute(0, 2, 3, 1)
        static = calls["conv"][0][1].permute(0, 2, 3, 1)

        def values(v):
            return v.unflatten(1, (groups, 3, -1))[:, :, 2].flatten(1, 2).permute(0, 2, 3, 1)

        return out - static, calls["qkv"][0][1], values
    assert isinstance(module, LocalRelationAggregator)
    bias = module.attn.bias[:, None, None]
    out = (calls["attn"][0][1] - bias).permute(0, 2, 3, 1)
    return out, calls["conv1"][0][1], lambda v: v.permute(0, 2, 3, 1)


def derived_weights(module, x, position, num_heads):
    """Return weights ``(B, h, H, W)`` of a position by differentiation."""
    out, source, values = trace(module, x)
    per_head = out.shape[-1] // num_heads
    heads = []
    for head in range(num_heads):
        channel = head * per_head
        picked = out[:, position[0], position[1], channel].sum()
        (grad,) = torch.autograd.grad(picked, source, retain_graph=True)
        heads.append(values(grad)[..., channel])
    return torch.stack(heads, 1)


def weighted_values(module, x, weights):
    """Return the sum of values by weights ``(B, h, H, W)``, ``(B, C)``, and the true output."""
    out, source, values = trace(module, x)
    by_head = values(source).unflatten(-1, (weights.shape[1], -1))  # (B, H, W, h, d)
    return torch.einsum("bhyx,byxhd->bhd", weights, by_head).flatten(1), out
