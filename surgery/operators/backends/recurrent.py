"""Kernels along the tokens: causal-conv1d, the scan of mamba-ssm, and why flash-linear-attention serves nothing here.

Shape legend: B batch, N tokens, C channels, T taps, H heads, P features of a head, S features of the state.
"""

from __future__ import annotations

from importlib import import_module

import torch
import torch.nn.functional as F
from torch import Tensor

from surgery.operators.backends.table import FLOAT, Backend, KernelCall, wants

CHUNK = 256
"""Tokens of a chunk of mamba-ssm's scan, the default of its layers."""
NOT_CAUSAL = (
    "its chunk_linear_attn is causal, and linear attention here sums over all keys before a query reads them, "
    "which two matrix products do"
)


def _convolve(x_BNC: Tensor, weight_CT: Tensor, bias_C: Tensor) -> Tensor:
    """The causal filter of each channel: (B, N, C)."""
    convolve = import_module("causal_conv1d").causal_conv1d_fn
    # Contiguous tokens, seen as (B, C, N), are the channels-last layout that the kernel takes without a copy.
    y_BCN: Tensor = convolve(x_BNC.contiguous().transpose(1, 2), weight_CT, bias_C)
    return y_BCN.transpose(1, 2)


def _refuses_convolution(call: KernelCall) -> str | None:
    reason = wants(call, FLOAT)
    if reason is None and (len(call.grid) > 1 or not call.causal):
        reason = "it is causal along the raster order, and this filter is not"
    if reason is None and not 2 <= call.window <= 4:
        reason = f"it takes 2 to 4 taps, and this filter has {call.window}"
    if reason is None and call.shape[2] % 8:
        reason = f"it takes a multiple of 8 channels, and this filter has {call.shape[2]}"
    return reason


def _scan(
    x_BNHP: Tensor, step_BNH: Tensor, rate_H: Tensor, b_BNS: Tensor, c_BNS: Tensor, bias_H: Tensor, causal: bool
) -> Tensor:
    """The scan of Mamba-2, without what skips it: (B, N, H, P).

    Both ways each token would count twice, so it is taken away once.
    """
    forth_BNHP = _combined(x_BNHP, step_BNH, rate_H, b_BNS, c_BNS, bias_H)
    if causal:
        return forth_BNHP
    x_flipped, step_flipped, b_flipped, c_flipped = (each.flip(1) for each in (x_BNHP, step_BNH, b_BNS, c_BNS))
    back_BNHP = _combined(x_flipped, step_flipped, rate_H, b_flipped, c_flipped, bias_H).flip(1)
    exact = torch.promote_types(x_BNHP.dtype, torch.float32)
    own_BNH = (b_BNS.to(exact) * c_BNS.to(exact)).sum(2, keepdim=True) * F.softplus(step_BNH.to(exact) + bias_H)
    return forth_BNHP + back_BNHP - own_BNH.unsqueeze(3).to(x_BNHP.dtype) * x_BNHP


def _combined(x_BNHP: Tensor, step_BNH: Tensor, rate_H: Tensor, b_BNS: Tensor, c_BNS: Tensor, bias_H: Tensor) -> Tensor:
    scan = import_module("mamba_ssm.ops.triton.ssd_combined").mamba_chunk_scan_combined
    groups = (b_BNS.unsqueeze(2), c_BNS.unsqueeze(2))
    y_BNHP: Tensor = scan(x_BNHP, step_BNH, rate_H, *groups, CHUNK, dt_bias=bias_H, dt_softplus=True)
    return y_BNHP


def _refuses_scan(call: KernelCall) -> str | None:
    return wants(call, FLOAT)


CAUSAL_CONV1D = Backend(
    name="causal-conv1d",
    package="causal-conv1d",
    module="causal_conv1d",
    runs={"filter": _convolve},
    refuses=_refuses_convolution,
)
MAMBA_SSM = Backend(
    name="mamba-ssm",
    package="mamba-ssm",
    module="mamba_ssm",
    runs={"scan": _scan},
    refuses=_refuses_scan,
)
FLA = Backend(
    name="flash-linear-attention",
    package="flash-linear-attention",
    module="fla",
    runs={},
    refuses=lambda _: NOT_CAUSAL,
    note=f"serves nothing: {NOT_CAUSAL}",
)
