"""The bytes of tensors."""

from __future__ import annotations

import torch
from torch import Tensor


def raw_bytes(tensor: Tensor) -> memoryview:
    """The bytes of the elements of `tensor`, (...) of any strides and device, row by row.

    What lies so on the CPU is not copied: a write into the bytes is one into the tensor.
    """
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    if not flat.numel():
        return memoryview(b"")
    if flat.stride() != (1,):  # a single element keeps the stride 0 of an expanded tensor
        flat = flat.clone(memory_format=torch.contiguous_format)
    return flat.view(torch.uint8).numpy().data
