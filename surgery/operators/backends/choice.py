"""The table of optional kernels, and the choice of one for a call."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from surgery.errors import RewriteError
from surgery.operators.backends.recurrent import CAUSAL_CONV1D, FLA, MAMBA_SSM
from surgery.operators.backends.softmax import FLASH_2, FLASH_4, FLEX, NATTEN
from surgery.operators.backends.table import Backend, KernelCall

BACKENDS = (FLASH_2, FLASH_4, NATTEN, CAUSAL_CONV1D, MAMBA_SSM, FLEX, FLA)
"""All known kernels; "auto" takes the first that serves a call."""


def kernel(wanted: str, operator: str, like: Tensor, **traits: Any) -> Callable[..., Tensor] | None:
    """The kernel for a call; None for the plain PyTorch form, which is always there.

    Args:
        wanted: "auto", "torch" or the name of a kernel.
        operator: see `KernelCall`.
        like: gives device, dtype and shape, and whether gradients are wanted.
        traits: the rest of `KernelCall`.

    Raises:
        RewriteError: the kernel that was asked for by name cannot serve the call.
    """
    # Shapes are computed without any kernel, so that a plan can be made on a machine that has none. No kernel runs on a
    # CPU; to know that from the device alone keeps sizes out of what is compiled there.
    if wanted == "torch" or like.device.type == "meta" or (wanted == "auto" and like.device.type == "cpu"):
        return None
    grad = torch.is_grad_enabled() and like.requires_grad
    call = KernelCall(operator, like.device, like.dtype, tuple(like.shape), grad=grad, **traits)
    if wanted == "auto":
        found = auto_choice(call)
        return found.runs[operator] if found else None
    backend = next(each for each in BACKENDS if each.name == wanted)
    reason = backend.serves(call)
    if reason is not None:
        raise RewriteError(f"{operator}: backend {wanted!r} cannot be used: {reason}; use backend='auto' or 'torch'")
    return backend.runs[operator]


def auto_choice(call: KernelCall, among: Sequence[Backend] = BACKENDS) -> Backend | None:
    """The first kernel that serves the call; None for the plain PyTorch form."""
    usable = (each for each in among if call.operator in each.runs and not each.by_name_only)
    return next((each for each in usable if each.serves(call) is None), None)
