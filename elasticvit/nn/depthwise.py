"""Depthwise convolution whose weight gradient is fast on the CPU.

oneDNN has a direct kernel for weight gradients of depthwise convolutions, but not for kernels wider than 3 nor for maps
of one or two pixels per side: there it falls back to dense kernels, six to ten times slower, and in small networks a
quarter of a training step. The same sums are composed here of calls that do have a direct kernel. Forward is untouched.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Depthwise(nn.Conv2d):
    """Depthwise convolution without bias, padded to keep the side (halved by a stride of 2, rounded up)."""

    def __init__(self, width: int, kernel: int, stride: int = 1) -> None:
        super().__init__(width, width, kernel, stride, kernel // 2, groups=width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        if _composes(x, self.weight, self.stride[0]):
            return _Depthwise.apply(x, self.weight, self.stride[0])  # type: ignore[no-any-return, no-untyped-call]
        return super().forward(x)


def _composes(x: Tensor, weight: Tensor, stride: int) -> bool:
    """Whether autograd will need a gradient that the library computes slowly."""
    return (
        torch.is_grad_enabled()
        and weight.requires_grad
        and weight.device.type == "cpu"
        and weight.dtype == x.dtype == torch.float32
        and (weight.shape[-1] > 3 or _is_tiny((x.shape[-1] - 1) // stride + 1, weight.shape[-1]))
        and not torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_compiling()
    )


class _Depthwise(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, stride: int) -> Tensor:  # noqa: ANN401
        ctx.save_for_backward(x, weight)
        ctx.stride = stride
        return F.conv2d(x, weight, None, stride, weight.shape[-1] // 2, 1, weight.shape[0])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor, None]:  # noqa: ANN401
        x, weight = ctx.saved_tensors
        grad_x = _library(x, grad, weight, ctx.stride, (True, False))[0] if ctx.needs_input_grad[0] else None
        return grad_x, weight_grad(x, grad, weight, ctx.stride), None


def weight_grad(x: Tensor, grad: Tensor, weight: Tensor, stride: int) -> Tensor:
    """Gradient (C, 1, K, K) of the weights, from inputs (B, C, H, H) and gradients (B, C, H', H') of the outputs."""
    kernel = weight.shape[-1]
    if _is_tiny(grad.shape[-1], kernel):
        return _by_taps(x, grad, kernel, stride)
    if kernel == 5:
        return _by_columns(x, grad) if stride == 1 else _by_phases(x, grad)
    return _library(x, grad, weight, stride, (False, True))[1]


def _by_taps(x: Tensor, grad: Tensor, kernel: int, stride: int) -> Tensor:
    """A product and a sum for every tap that meets the map at all."""
    total = x.new_zeros(x.shape[1], 1, kernel, kernel)
    reach = [_reach(x.shape[-1], grad.shape[-1], tap - kernel // 2, stride) for tap in range(kernel)]
    for i, (ys, oys) in enumerate(reach):
        for j, (xs, oxs) in enumerate(reach):
            total[:, 0, i, j] = (x[:, :, ys, xs] * grad[:, :, oys, oxs]).sum((0, 2, 3))
    return total


def _reach(side: int, out: int, offset: int, stride: int) -> tuple[slice, slice]:
    """The inputs that a tap at this offset sees, and the outputs it contributes to."""
    seen = [o for o in range(out) if 0 <= o * stride + offset < side]
    if not seen:
        return slice(0, 0), slice(0, 0)
    first, last = seen[0], seen[-1]
    return slice(first * stride + offset, last * stride + offset + 1, stride), slice(first, last + 1)


def _by_columns(x: Tensor, grad: Tensor) -> Tensor:
    """A 5×5 kernel as its three middle columns and its two outer ones."""
    left = _stride_one(x[..., :-2], grad[..., 2:], (5, 1))
    middle = _stride_one(x, grad, (5, 3))
    right = _stride_one(x[..., 2:], grad[..., :-2], (5, 1))
    return torch.cat([left, middle, right], 3)


def _by_phases(x: Tensor, grad: Tensor) -> Tensor:
    """A 5×5 kernel of stride 2 as four 3×3 kernels of stride 1: on the even and odd rows and columns of the input."""
    total = x.new_empty(x.shape[1], 1, 5, 5)
    side = grad.shape[-1]
    for row in range(2):
        for column in range(2):
            phase = x[:, :, row::2, column::2]
            phase = F.pad(phase, (0, side - phase.shape[3], 0, side - phase.shape[2]))
            taps = _stride_one(phase, grad, (3, 3))
            # Even rows are seen by taps 0, 2, 4 and odd ones by taps 1 and 3.
            total[:, :, row::2, column::2] = taps[:, :, : 3 - row, : 3 - column]
    return total


def _stride_one(x: Tensor, grad: Tensor, kernel: tuple[int, int]) -> Tensor:
    return _library(x, grad, x.new_empty(x.shape[1], 1, *kernel), 1, (False, True))[1]


def _library(x: Tensor, grad: Tensor, weight: Tensor, stride: int, wanted: tuple[bool, bool]) -> tuple[Tensor, Tensor]:
    padding = [side // 2 for side in weight.shape[2:]]
    grads = torch.ops.aten.convolution_backward(
        grad, x, weight, None, [stride] * 2, padding, [1, 1], False, [0, 0], weight.shape[0], [*wanted, False]
    )
    return grads[0], grads[1]


def _is_tiny(side: int, kernel: int) -> bool:
    """Whether a sum per tap beats any convolution kernel at this side of output."""
    return side <= kernel // 2 + 1
