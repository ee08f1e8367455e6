"""A scope: one opened module, and the graphs that were recorded of its forward.

Most scopes hold one recording. A forward that branches (on sizes, on `None`, on `return_dict`, on attributes such as
train or eval mode) holds one for each way through it that has been met.
"""

from __future__ import annotations

import functools
import inspect
import linecache
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx
from torch.nn.attention.flex_attention import BlockMask
from torch.utils import _pytree as pytree

from surgery.errors import TraceError
from surgery.recording.autocast import enter_autocast
from surgery.recording.containers import Change
from surgery.recording.emit import emit
from surgery.recording.guard import require
from surgery.recording.objects import is_object
from surgery.recording.state import State

Signature = tuple[Any, ...]
Function = Callable[..., list[Any]]


@functools.cache
def _signature(forward: Callable[..., Any]) -> inspect.Signature:
    signature = inspect.signature(forward)
    return signature.replace(parameters=list(signature.parameters.values())[1:])


def forward_signature(module_class: type[torch.nn.Module]) -> inspect.Signature:
    """The signature of `module_class.forward`, without `self`."""
    return _signature(module_class.forward)


class _Default:
    """Stands for the default of a parameter in a signature that is printed as code."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __repr__(self) -> str:
        return f"defaults[{self.name!r}]"


def binder(module_class: type[torch.nn.Module]) -> Callable[..., dict[str, Any]]:
    """A function with the parameters of `module_class.forward` that gives its arguments by name, in their order.

    It is compiled, as `inspect.Signature.bind` is slow and torch.compile does not follow it.
    """
    return _binder(module_class.forward)


@functools.cache
def _binder(forward: Callable[..., Any]) -> Callable[..., dict[str, Any]]:
    parameters = _signature(forward).parameters.values()
    defaults = {p.name: p.default for p in parameters if p.default is not p.empty}
    shown = {name: _Default(name) for name in defaults}
    bare = [p.replace(annotation=p.empty, default=shown.get(p.name, p.empty)) for p in parameters]
    names = ", ".join(f"{p.name!r}: {p.name}" for p in parameters)
    namespace: dict[str, Any] = {"defaults": defaults}
    exec(f"def forward{inspect.Signature(bare)}: return {{{names}}}", namespace)
    bind: Callable[..., dict[str, Any]] = namespace["forward"]
    return bind


def unbind(
    module_class: type[torch.nn.Module], arguments: dict[str, Any], positional: int
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The inverse of binding, for a call with `positional` positional arguments."""
    args: list[Any] = []
    kwargs: dict[str, Any] = {}
    for index, (name, p) in enumerate(forward_signature(module_class).parameters.items()):
        if p.kind is p.VAR_POSITIONAL:
            args += arguments[name]
        elif p.kind is p.VAR_KEYWORD:
            kwargs |= arguments[name]
        elif p.kind is p.POSITIONAL_ONLY or (index < positional and p.kind is not p.KEYWORD_ONLY):
            args.append(arguments[name])
        else:
            kwargs[name] = arguments[name]
    return tuple(args), kwargs


def is_input(leaf: Any) -> bool:
    """Whether an argument's leaf is an input of the graph: a tensor, number, device, block mask of FlexAttention, object.

    Others are in the signature.
    """
    kinds = torch.Tensor | int | float | torch.SymInt | torch.SymFloat | torch.device | BlockMask
    return (isinstance(leaf, kinds) and not isinstance(leaf, bool)) or is_object(leaf)


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
    if isinstance(leaf, BlockMask):
        return ("block mask", leaf.BLOCK_SIZE)
    if is_object(leaf):
        return ("object", type(leaf).__module__, type(leaf).__name__)
    try:
        hash(leaf)
    except TypeError:
        return ("constant", type(leaf), id(leaf))
    return ("constant", type(leaf), leaf)


def signature_of(
    module_class: type[torch.nn.Module], leaves: list[Any], spec: pytree.TreeSpec, autocast: Hashable
) -> Signature:
    """The key under which a recording is found: the class, structure and kinds of the inputs, and autocast around it.

    One tensor that is given twice is another kind of input than two: a graph does not tell which of its readers reads
    which.
    """
    return (module_class, autocast, str(spec), *map(leaf_kind, leaves), *_again(leaves))


def _again(leaves: list[Any]) -> list[Hashable]:
    """Which of the tensors among `leaves` are which of those before them."""
    first: dict[int, int] = {}
    places = ((first.setdefault(id(leaf), n), n) for n, leaf in enumerate(leaves) if isinstance(leaf, torch.Tensor))
    return [pair for pair in places if pair[0] != pair[1]]


def not_compiled(*_: Any) -> list[Any]:
    """The function of a recording that no module runs yet."""
    raise RuntimeError("this recording is not compiled")


@dataclass
class Recording:
    """One way through a module's forward, as a `torch.fx.Graph`.

    `graph` has one placeholder for each tensor, number and device among the flattened inputs; its output is the flat
    list of the output's leaves, which `out_spec` puts together again, and then of the leaves of `changes`, made to lists
    and dicts among the arguments. `state` is what the forward read of the module, and `function` the graph as a function
    of the module and the graph's inputs. A forward with effects changes inputs or buffers, or draws random numbers;
    guards are late if they come after. Regions are those under autocast.
    """

    signature: Signature
    graph: fx.Graph
    in_spec: pytree.TreeSpec
    out_spec: pytree.TreeSpec
    in_leaves: list[Any]
    out_leaves: list[Any]
    flops: int = 0
    state: State = ()
    has_effects: bool = False
    has_late_guards: bool = False
    changes: tuple[Change, ...] = ()
    has_regions: bool = field(default=False, init=False, repr=False, compare=False)
    function: Function = field(default_factory=lambda: not_compiled, init=False, repr=False, compare=False)

    @property
    def guards(self) -> list[str]:
        """The conditions that this recording depends on."""
        return [node.args[2] for node in self.graph.nodes if node.target is require]

    def same_as(self, other: Recording) -> bool:
        """Whether both stand for the same computation on the same kind of inputs."""
        ours, theirs = ((r.signature, r.state) for r in (self, other))
        return self is other or (ours == theirs and self.code == other.code)

    def result(self, outputs: list[Any], arguments: Mapping[str, Any]) -> Any:
        """What the forward returns, from the outputs of the graph; containers among `arguments` get their new items."""
        start = self.out_spec.num_leaves
        for change in self.changes:
            end = start + change.spec.num_leaves
            change.apply(arguments, outputs[start:end])
            start = end
        return pytree.tree_unflatten(outputs[: self.out_spec.num_leaves], self.out_spec)

    @property
    def outline(self) -> Hashable:
        """What callers' graphs take for granted of the result: that it is a tensor of some rank; else they check it."""
        result = pytree.tree_unflatten(self.out_leaves, self.out_spec)
        return ("tensor", result.dim()) if isinstance(result, torch.Tensor) else ()

    @property
    def code(self) -> str:
        """The generated Python of the forward."""
        return self.graph.python_code("self").src

    def compile(self) -> None:
        """Make `function`, unless it is there."""
        if self.function is not not_compiled:
            return
        source, namespace = emit(self.graph)
        name = f"<surgery {id(self):x}>"
        linecache.cache[name] = (len(source), None, source.splitlines(keepends=True), name)
        exec(compile(source, name, "exec"), namespace)
        self.function = namespace["forward"]
        self.has_regions = any(node.target is enter_autocast for node in self.graph.nodes)

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "function": not_compiled}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self.compile()


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
        """Keep `recording`, unless one that does the same is here.

        Raises:
            TraceError: on the same kind of inputs it gives another structure, which the callers' graphs do not expect.
        """
        if any(known.same_as(recording) for known in self.recordings):
            return
        alike = [known for known in self.recordings if known.signature == recording.signature]
        if self.path and any(known.outline != recording.outline for known in alike):
            raise TraceError(f"module {self.path!r}: the structure of its result varies; trace the model again")
        self.recordings.append(recording)
