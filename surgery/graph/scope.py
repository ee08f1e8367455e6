"""A scope: one opened module, and the graphs that were recorded of its forward.

Most scopes hold one recording. A forward that branches (on sizes, on `None`, on `return_dict`, on train or eval mode)
holds one for each way through it that has been met.
"""

from __future__ import annotations

import functools
import inspect
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx
from torch.utils import _pytree as pytree

from surgery.graph.guard import require

Signature = tuple[Hashable, ...]


@functools.cache
def _signature(forward: Callable[..., Any], bound: bool) -> inspect.Signature:
    signature = inspect.signature(forward)
    return signature.replace(parameters=list(signature.parameters.values())[1:]) if bound else signature


def forward_signature(module_class: type[torch.nn.Module], bound: bool = True) -> inspect.Signature:
    """The signature of `module_class.forward`, without `self` if `bound`."""
    return _signature(module_class.forward, bound)


def bind(module_class: type[torch.nn.Module], args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """The arguments of a call by parameter name, defaults filled in, in the order of the declaration."""
    call = forward_signature(module_class).bind(*args, **kwargs)
    call.apply_defaults()
    return dict(call.arguments)


def unbind(module_class: type[torch.nn.Module], arguments: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The inverse of `bind`: positional and keyword arguments."""
    call = inspect.BoundArguments(forward_signature(module_class), OrderedDict(arguments))
    return call.args, call.kwargs


def is_input(leaf: Any) -> bool:
    """Whether an argument's leaf is an input of the graph: a tensor, number or device. Others are in the signature."""
    kinds = torch.Tensor | int | float | torch.SymInt | torch.SymFloat | torch.device
    return isinstance(leaf, kinds) and not isinstance(leaf, bool)


def leaf_kind(leaf: Any) -> Hashable:
    """What a recording assumes of one input: rank and dtype of a tensor, the type of a number, the value of all else."""
    if isinstance(leaf, torch.Tensor):
        return ("tensor", leaf.dtype, leaf.dim())
    if isinstance(leaf, bool):
        return ("constant", bool, leaf)
    if isinstance(leaf, int | torch.SymInt):
        return ("int",)
    if isinstance(leaf, float | torch.SymFloat):
        return ("float",)
    if isinstance(leaf, torch.device):
        return ("device",)
    try:
        hash(leaf)
    except TypeError:
        return ("constant", type(leaf), id(leaf))
    return ("constant", type(leaf), leaf)


def signature_of(module: torch.nn.Module, leaves: list[Any], spec: pytree.TreeSpec) -> Signature:
    """The key under which a recording is found: structure and kinds of the inputs, and train or eval mode."""
    return (str(spec), module.training, *map(leaf_kind, leaves))


@dataclass
class Recording:
    """One way through a module's forward, as a `torch.fx.Graph`.

    `graph` has one placeholder for each tensor, number and device among the flattened inputs; its output is the flat
    list of the output's leaves, which `out_spec` puts together again.
    """

    signature: Signature
    graph: fx.Graph
    in_spec: pytree.TreeSpec
    out_spec: pytree.TreeSpec
    in_leaves: list[Any]
    out_leaves: list[Any]
    flops: int = 0

    @property
    def guards(self) -> list[str]:
        """The conditions that this recording depends on."""
        return [node.args[2] for node in self.graph.nodes if node.target is require]

    def same_as(self, other: Recording) -> bool:
        """Whether both stand for the same computation on the same kind of inputs."""
        return self is other or (self.signature == other.signature and self.code == other.code)

    @property
    def code(self) -> str:
        """The generated Python of the forward."""
        return self.graph.python_code("self").src


@dataclass
class Scope:
    """One opened module: its path in the model, its class, and its recordings, the first being of the traced inputs."""

    path: str
    module_class: type[torch.nn.Module]
    recordings: list[Recording] = field(default_factory=list)
    params: int = 0

    @property
    def name(self) -> str:
        """The path for messages; the root has none."""
        return self.path or self.module_class.__name__

    @property
    def graph(self) -> fx.Graph:
        """The graph of the traced inputs."""
        return self.recordings[0].graph

    def add(self, recording: Recording) -> None:
        """Keep `recording`, unless one that does the same is here."""
        if not any(known.same_as(recording) for known in self.recordings):
            self.recordings.append(recording)
