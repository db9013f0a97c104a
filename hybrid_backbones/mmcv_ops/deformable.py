"""Deformable convolutions of both versions, by torchvision, and deformable attention."""

from typing import Any

import torch
from torch import Tensor

from .support import gradients, widen

# mmcv's setting names in torchvision's order, for versions 1 and 2
_V1 = ("dH", "dW", "padH", "padW", "dilationH", "dilationW", "group", "deformable_group")
_V2 = ("stride_h", "stride_w", "pad_h", "pad_w", "dilation_h", "dilation_w", *_V1[-2:])


def _prefix(tensor: Tensor, channels: int, size: tuple[int, int]) -> Tensor:
    """Return the first values of each sample as maps `(B, channels, H', W')`.

    mmcv's second version takes offsets and masks that are larger than the output, as DyHead passes
    them, and reads the memory of each sample from its start.

    Raises:
        ValueError: if a sample has fewer values.
    """
    number = channels * size[0] * size[1]
    if tensor.shape[1:].numel() < number:
        raise ValueError(
            f"deformable convolution needs offsets and masks for {size[0]}×{size[1]} positions, "
            f"{number} values, got {tuple(tensor.shape)}"
        )
    return tensor.flatten(1)[:, :number].unflatten(1, (channels, *size))


def _fill_prefix(whole: Tensor, prefix: Tensor) -> Tensor:
    """Return the gradient of a tensor of which :func:`_prefix` took a part, zero elsewhere."""
    grad = prefix.new_zeros(whole.shape)
    grad.flatten(1)[:, : prefix.shape[1:].numel()] = prefix.flatten(1)
    return grad


def _output_size(input: Tensor, kernel: tuple[int, int], layout: list[int]) -> tuple[int, int]:
    """Return the height and width of a convolution's output."""
    stride, padding, dilation = layout[:2], layout[2:4], layout[4:6]
    height, width = (
        (input.shape[2 + i] + 2 * padding[i] - dilation[i] * (kernel[i] - 1) - 1) // stride[i] + 1
        for i in (0, 1)
    )
    return height, width


def _is_outside(offset: Tensor, kernel: tuple[int, int], layout: list[int]) -> Tensor:
    """Return which taps sample at -1 or before on either axis, in the shape of the offset."""
    stride, padding, dilation = layout[:2], layout[2:4], layout[4:6]
    taps = offset.unflatten(1, (-1, *kernel, 2))  # (B, groups, K, K, 2, H', W')
    y, x = taps.unbind(4)
    axes = [(kernel[i], dilation[i], offset.shape[2 + i], stride[i], padding[i]) for i in (0, 1)]
    (p, rows), (q, columns) = (
        (
            torch.arange(taps_of_axis, device=offset.device) * step,
            torch.arange(length, device=offset.device) * jump - border,
        )
        for taps_of_axis, step, length, jump, border in axes
    )
    # whole numbers are added first, as torchvision does
    y = y + (p.view(-1, 1, 1, 1) + rows[:, None])
    x = x + (q.view(-1, 1, 1) + columns)
    outside = (y <= -1) | (x <= -1)
    return outside.unsqueeze(4).expand_as(taps).flatten(1, 4)


def _deform_conv(settings: dict[str, Any], grad: Tensor | None, *tensors: Tensor) -> Any:
    """Return the output, or with `grad` the gradients of input, weight, offset, mask and bias.

    The offset is `(B, 2 * deform_groups * K * K, H', W')`, y before x. v1 has no mask and no bias.
    """
    input, weight, offset, *others = tensors
    # torchvision requires mask and bias; mmcv's v2 passes an empty bias for none
    mask, bias = others or (input.new_zeros(len(input), 1), input.new_zeros(0))
    bias = bias if bias.numel() else input.new_zeros(len(weight))
    layout = [settings[name] for name in (_V2 if others else _V1)]
    kernel = weight.shape[2], weight.shape[3]
    whole = offset, mask
    if others:
        size, taps = _output_size(input, kernel, layout), layout[-1] * kernel[0] * kernel[1]
        offset, mask = _prefix(offset, 2 * taps, size), _prefix(mask, taps, size)
    widened = widen(input, weight, offset, mask, bias)
    arguments = (*widened, *layout, bool(others))
    if grad is None:
        return torch.ops.torchvision.deform_conv2d(*arguments)
    grads = list(
        torch.ops.torchvision._deform_conv2d_backward(grad.to(widened[0].dtype), *arguments)
    )
    # at -1 the slope differs from both sides; mmcv's is zero, torchvision's is that of the inside
    grads[2] = grads[2].masked_fill(_is_outside(widened[2], kernel, layout), 0)
    if others:
        grads[2:4] = (_fill_prefix(*pair) for pair in zip(whole, grads[2:4], strict=True))
    return grads


def deform_conv_forward(*tensors: Tensor, **settings: Any) -> None:
    input, weight, offset, output, _, _ = tensors
    output.copy_(_deform_conv(settings, None, input, weight, offset))


def deform_conv_backward_input(*tensors: Tensor, **settings: Any) -> None:
    input, offset, grad_output, grad_input, grad_offset, weight, _ = tensors
    grads = _deform_conv(settings, grad_output, input, weight, offset)
    grad_input.copy_(grads[0])
    grad_offset.copy_(grads[2])


def deform_conv_backward_parameters(*tensors: Tensor, scale: float, **settings: Any) -> None:
    input, offset, grad_output, grad_weight, _, _ = tensors
    # mmcv does not pass the weight, whose gradient does not depend on its values
    grads = _deform_conv(settings, grad_output, input, torch.zeros_like(grad_weight), offset)
    grad_weight.add_(grads[1], alpha=scale)


def modulated_deform_conv_forward(*tensors: Tensor, **settings: Any) -> None:
    input, weight, bias, _, offset, mask, output, _ = tensors
    output.copy_(_deform_conv(settings, None, input, weight, offset, mask, bias))


def modulated_deform_conv_backward(*tensors: Tensor, **settings: Any) -> None:
    input, weight, bias, _, offset, mask, _, *outputs, grad_output = tensors
    grads = _deform_conv(settings, grad_output, input, weight, offset, mask, bias)
    # mmcv expects the bias third, and an empty gradient if there is no bias
    for output, index in zip(outputs, (0, 1, 4, 2, 3), strict=True):
        output.copy_(grads[index][: len(output)])


def _attend(value: Tensor, locations: Tensor, weights: Tensor, shapes: Tensor) -> Tensor:
    """Compute deformable attention, `(B, num_queries, C)`, by mmcv's formula on `grid_sample`."""
    # imported late: mmcv.ops cannot be imported before the stand-in is installed
    from mmcv.ops.multi_scale_deform_attn import multi_scale_deformable_attn_pytorch

    value, locations, weights = widen(value, locations, weights)
    return multi_scale_deformable_attn_pytorch(value, shapes.tolist(), locations, weights)


def ms_deform_attn_forward(*tensors: Tensor, im2col_step: int) -> Tensor:
    value, shapes, _, locations, weights = tensors
    return _attend(value, locations, weights, shapes).to(value.dtype)


def ms_deform_attn_backward(*tensors: Tensor, im2col_step: int) -> None:
    value, shapes, _, locations, weights, grad_output, *outputs = tensors
    grads = gradients(_attend, value, locations, weights, grad=grad_output, shapes=shapes)
    for output, grad in zip(outputs, grads, strict=True):
        output.copy_(grad)
