"""A scope: one opened module, and the graphs that were recorded of its forward.

Most scopes hold one recording. A forward that branches (on sizes, on `None`, on `return_dict`, on attributes such as
train or eval mode) holds one for each way through it that has been met.
"""

from __future__ import annotations

import linecache
import weakref
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import torch
from torch import fx

from surgery.errors import TraceError
from surgery.recording.attribute_change import AttributeChange
from surgery.recording.autocast import enter_autocast
from surgery.recording.containers import ContainerChange
from surgery.recording.emit import emit
from surgery.recording.guard import require
from surgery.recording.signature import Signature
from surgery.recording.state import State
from surgery.recording.torch_private import pytree

Function = Callable[..., list[Any]]


def not_compiled(*_: Any) -> list[Any]:
    """The function of a recording that no module runs yet."""
    raise RuntimeError("this recording is not compiled")


@dataclass
class Recording:
    """One way through a module's forward, as a `torch.fx.Graph`.

    `graph` has one placeholder for each tensor, number and device among the flattened inputs; its output is the flat
    list of the output's leaves, which `out_spec` puts together again, and then of the leaves of `changes`, made to lists
    and dicts among the arguments, and of `kept`, attributes that the forward sets. `state` is what the forward read of
    the module, and `function` the graph as a function of the module and the graph's inputs. A forward with effects
    changes inputs or buffers, or draws random numbers; guards are late if they come after. `blocks` are the paths, in
    the module, of the model's blocks.
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
    changes: tuple[ContainerChange, ...] = ()
    kept: tuple[AttributeChange, ...] = ()
    blocks: frozenset[str] = frozenset()
    has_autocast: bool = field(default=False, init=False, repr=False, compare=False)
    function: Function = field(default_factory=lambda: not_compiled, init=False, repr=False, compare=False)

    @property
    def guards(self) -> list[str]:
        """The conditions that this recording depends on."""
        return [node.args[2] for node in self.graph.nodes if node.target is require]

    def same_as(self, other: Recording) -> bool:
        """Whether both stand for the same computation on the same kind of inputs."""
        ours, theirs = ((r.signature, r.state) for r in (self, other))
        return self is other or (ours == theirs and self.code == other.code)

    def result(self, outputs: list[Any], arguments: Mapping[str, Any], module: torch.nn.Module) -> Any:
        """What the forward returns, from the outputs of the graph.

        Containers among `arguments` get their new items, and `module` the attributes that the forward sets.
        """
        rest = iter(outputs)
        leaves = list(islice(rest, self.out_spec.num_leaves))
        for change in self.changes:
            change.apply(arguments, list(islice(rest, change.spec.num_leaves)))
        for attribute in self.kept:
            attribute.apply(module, list(islice(rest, attribute.spec.num_leaves)))
        return pytree.tree_unflatten(leaves, self.out_spec)

    @property
    def assumed_result(self) -> Hashable:
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
        weakref.finalize(self, linecache.cache.pop, name, None).atexit = False
        exec(compile(source, name, "exec"), namespace)
        self.has_autocast = any(node.target is enter_autocast for node in self.graph.nodes)
        self.function = namespace["forward"]  # last: another thread may run it from here on

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
        if self.path and any(known.assumed_result != recording.assumed_result for known in alike):
            raise TraceError(f"module {self.path!r}: the structure of its result varies; trace the model again")
        self.recordings.append(recording)
