"""Python objects among the inputs of a forward: which are followed, attribute by attribute, and which are constants."""

from __future__ import annotations

from enum import Enum
from typing import Any

import torch
from torch import nn
from torch.nn.attention.flex_attention import BlockMask

HEAP_TYPE = 1 << 9  # of a class that is written in Python


def is_object(value: Any) -> bool:
    """Whether all of `value` is in its `__dict__`, so that a graph can read and set its attributes: a cache is such."""
    others = torch.Tensor | torch.SymInt | torch.SymFloat | BlockMask | nn.Module | Enum | type
    if isinstance(value, others) or not type(value).__dictoffset__:
        return False
    return all(base is object or base.__flags__ & HEAP_TYPE for base in type(value).__mro__)
