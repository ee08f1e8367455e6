"""Everything that is private to PyTorch and used by recordings, analyses, graphs and tracing.

A release of PyTorch may take any of it away; then the import of this file says so.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import fx

try:
    from torch._C import DisableTorchFunction, ScriptFunction
    from torch._C import _set_grad_enabled as set_grad_enabled
    from torch.amp.autocast_mode import _enter_autocast as enter_autocast_region
    from torch.amp.autocast_mode import _exit_autocast as exit_autocast_region
    from torch.fx.graph import _custom_builtins as fx_globals
    from torch.nn.modules.batchnorm import _NormBase as BatchNormBase
    from torch.nn.modules.conv import _ConvNd as ConvBase
    from torch.nn.modules.dropout import _DropoutNd as DropoutBase
    from torch.utils import _pytree as pytree
    from torch.utils._device import _device_constructors as device_constructors
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils.checkpoint import CheckpointFunction
except ImportError as error:
    raise ImportError(
        f"surgery does not know PyTorch {torch.__version__} yet; install an older one: {error}"
    ) from error

__all__ = [
    "BatchNormBase",
    "CheckpointFunction",
    "ConvBase",
    "DisableTorchFunction",
    "DropoutBase",
    "ScriptFunction",
    "TorchDispatchMode",
    "device_constructors",
    "enter_autocast_region",
    "exit_autocast_region",
    "fx_globals",
    "is_erased",
    "pytree",
    "reorder",
    "set_grad_enabled",
]


def is_erased(node: fx.Node) -> bool:
    """Whether `node` was taken out of its graph."""
    return node._erased


def reorder(graph: fx.Graph, nodes: Iterable[fx.Node]) -> None:
    """Let the nodes of `graph` stand in the order of `nodes`, which are all of them."""
    for node in nodes:
        graph._root.prepend(node)
