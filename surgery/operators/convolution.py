"""Depthwise convolution along the tokens, or over the grid that they lie on.

Shape legend: B batch, N tokens, C channels, G one or more axes of the grid, O those of the output, K one or more axes of
the filter.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.grad import conv2d_weight, conv3d_weight
from typing_extensions import override

from surgery.operators.backends import kernel
from surgery.operators.grid import sizes

SHORT = {1: 12, 2: 6, 3: 4}
"""By the number of axes, up to which length the gradient of a filter is summed up tap by tap.

It takes an eighth of the time of a correlation through the Fourier transform at 4 taps, half of it at 5 x 5, and three
times as much at 65 taps (32 samples of 64 tokens, a core).
"""

FilterBackend = Literal["auto", "torch", "causal-conv1d"]


class TokenConvolution(nn.Module):
    """One filter per channel, with bias: (B, N, C) -> (B, N, C), zeros beyond the ends.

    Causal: token i sees i - kernel + 1 .. i. Else the filter is centred; an even one, which has no middle,
    reaches one token further to the right: i - (kernel - 1) // 2 .. i + kernel // 2. Over a grid this holds for each
    axis. Weight (C, 1, kernel, ..) and bias (C,) start as those of `nn.Conv1d`.
    """

    def __init__(
        self,
        channels: int,
        kernel: int,
        *,
        causal: bool = False,
        axes: int = 1,
        grid: tuple[int, ...] | None = None,
        backend: FilterBackend = "torch",
    ) -> None:
        super().__init__()
        self.kernel = kernel
        self.axes = axes
        self.grid = grid
        self.backend = backend
        self.left = kernel - 1 if causal else (kernel - 1) // 2
        self.right = kernel - 1 - self.left
        bound = kernel ** (-axes / 2)
        self.weight = nn.Parameter(torch.empty(channels, 1, *[kernel] * axes).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(channels).uniform_(-bound, bound))

    def start_as_identity(self) -> None:
        """Make the filter return its input: one at the current token, zero elsewhere, zero bias."""
        self.start_as_zero()
        with torch.no_grad():
            self.weight.flatten(2)[:, 0, sum(self.left * self.kernel**axis for axis in range(self.axes))] = 1.0

    def start_as_zero(self) -> None:
        """Make the filter return zeros."""
        with torch.no_grad():
            self.weight.zero_()
            self.bias.zero_()

    @override
    def forward(self, x_BNC: Tensor, grid: tuple[int, ...] | None = None) -> Tensor:
        """Convolve (B, N, C) over `grid`, or over the grid given at first, or over a square.

        Raises:
            RewriteError: the tokens do not lie on that grid.
        """
        batch, tokens, channels = x_BNC.shape
        found = sizes(grid or self.grid, tokens, self.axes)
        run = kernel(self.backend, "filter", x_BNC, window=self.kernel, grid=found, causal=self.right == 0)
        if run is not None:
            return run(x_BNC, self.weight.squeeze(1), self.bias)
        reach = max(self.left, self.right)
        longer_BOC: Tensor = _Convolution.apply(  # type: ignore[no-untyped-call]
            x_BNC.reshape(batch, *found, channels), self.weight.squeeze(1), self.bias, reach
        )
        for axis, size in enumerate(found, 1):
            longer_BOC = longer_BOC.narrow(axis, reach - self.left, size)
        return longer_BOC.flatten(1, -2)


class _Convolution(torch.autograd.Function):
    """The convolution of (B, G, C) with filters (C, K), zeros up to `reach` beyond the ends of each axis.

    An axis of the output has length G + 2 reach + 1 - K.
    """

    @staticmethod
    def forward(ctx: Any, x_BGC: Tensor, weight_CK: Tensor, bias_C: Tensor, reach: int) -> Tensor:
        ctx.save_for_backward(x_BGC, weight_CK)
        ctx.reach = reach
        return _convolve(x_BGC, weight_CK, bias_C, reach)

    @staticmethod
    def backward(ctx: Any, grad_BOC: Tensor) -> tuple[Tensor | None, ...]:
        x_BGC, weight_CK = ctx.saved_tensors
        axes = tuple(range(1, weight_CK.ndim))
        kernel = weight_CK.shape[1]
        grad_x = grad_weight = grad_bias = None
        if ctx.needs_input_grad[0]:
            grad_x = _convolve(grad_BOC, weight_CK.flip(axes), None, kernel - 1 - ctx.reach)
        if ctx.needs_input_grad[1]:
            gradient = _summed if kernel <= SHORT[len(axes)] else _correlate
            grad_weight = gradient(x_BGC, grad_BOC, ctx.reach, kernel).to(weight_CK.dtype)
        if ctx.needs_input_grad[2]:
            grad_bias = grad_BOC.sum((0, *axes))
        return grad_x, grad_weight, grad_bias, None


def _convolve(x_BGC: Tensor, weight_CK: Tensor, bias_C: Tensor | None, padding: int) -> Tensor:
    """An image one pixel high in channels-last layout needs no transposed copy: up to 3 times faster here.

    On a CPU half precision is computed in float32: the bfloat16 kernel never returns if the padding exceeds the tokens
    (20 tokens, 2 channels, K = 25, padding 24, torch 2.13).
    """
    if x_BGC.device.type == "cpu" and x_BGC.dtype in (torch.bfloat16, torch.float16):
        bias = None if bias_C is None else bias_C.float()
        return _convolve(x_BGC.float(), weight_CK.float(), bias, padding).to(x_BGC.dtype)
    x_BCG, weight_C1K, groups = x_BGC.movedim(-1, 1), weight_CK.unsqueeze(1), len(weight_CK)
    if weight_CK.ndim == 2:
        image_BC1O = F.conv2d(x_BCG.unsqueeze(2), weight_C1K.unsqueeze(2), bias_C, padding=(0, padding), groups=groups)
        return image_BC1O.squeeze(2).movedim(1, -1)
    convolution = F.conv2d if weight_CK.ndim == 3 else F.conv3d
    return convolution(x_BCG, weight_C1K, bias_C, padding=padding, groups=groups).movedim(1, -1)


def _summed(x_BGC: Tensor, y_BOC: Tensor, reach: int, kernel: int) -> Tensor:
    """What `_correlate` gives, summed up tap by tap."""
    rank, channels = x_BGC.ndim - 2, x_BGC.shape[-1]
    x_BCG, y_BCO = (each.movedim(-1, 1).to(_at_least_float(each.dtype)) for each in (x_BGC, y_BOC))
    if rank == 1:  # an image one pixel high, as in `_convolve`
        x_BCG, y_BCO = x_BCG.unsqueeze(2), y_BCO.unsqueeze(2)
    size = (channels, 1, *[1] * (rank == 1), *[kernel] * rank)
    padding = (*[0] * (rank == 1), *[reach] * rank)
    gradient: Callable[..., Tensor] = conv3d_weight if rank == 3 else conv2d_weight
    weight = gradient(x_BCG, size, y_BCO, padding=padding, groups=channels)
    return weight.reshape(channels, *[kernel] * rank)


def _correlate(x_BGC: Tensor, y_BOC: Tensor, reach: int, kernel: int) -> Tensor:
    """The sum over B and o of x[o + k - reach] y[o], for k < kernel in each axis: (C, K)."""
    axes = tuple(range(-len(x_BGC.shape[1:-1]), 0))
    # Shifts that wrap around meet zeros only.
    lengths = [max(size + reach, kernel) for size in x_BGC.shape[1:-1]]
    x_BCF, y_BCF = (
        torch.fft.rfftn(each.movedim(-1, 1).contiguous().to(_at_least_float(each.dtype)), s=lengths, dim=axes)
        for each in (x_BGC, y_BOC)
    )
    shifts_CL: Tensor = torch.fft.irfftn((x_BCF * y_BCF.conj()).sum(0), s=lengths, dim=axes)
    return shifts_CL.roll([reach] * len(axes), dims=axes)[(slice(None), *[slice(kernel)] * len(axes))]


def _at_least_float(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)
