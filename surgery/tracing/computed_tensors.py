"""Tensors that a module keeps and that autograd computed, such as the weight under the old `weight_norm`."""

from __future__ import annotations

import torch
from torch import nn

from surgery.errors import TraceError
from surgery.recording.skeleton import owned_tensors


def require_own_tensors(model: nn.Module) -> None:
    """Refuse a model that keeps computed tensors: they cannot be copied, and a graph would keep their old values.

    Raises:
        TraceError: there is one; the message names it.
    """
    for owned in owned_tensors(model).values():
        if isinstance(owned.tensor, torch.Tensor) and not owned.tensor.is_leaf:
            raise TraceError(
                f"{owned.path} is computed from parameters and kept by the module, so it cannot be recorded; make it "
                "a parameter (torch.nn.utils.remove_weight_norm), or compute it in the forward "
                "(torch.nn.utils.parametrizations.weight_norm)"
            )
