"""What differs between two traced models: modules, dataflow between modules, and counts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from torch import fx, nn

from surgery.analysis.roles.primitives import inputs_of, tensors
from surgery.graph.model_graph import ModelGraph
from surgery.recording.paths import below
from surgery.recording.recording import Scope
from surgery.recording.state import own_class

REMOVED = "Removed"  # what a student holds where a module was taken out


@dataclass(frozen=True)
class Part:
    """A module: path, name of its class, number of parameters."""

    path: str
    module_class: str
    params: int


@dataclass(frozen=True)
class Flow:
    """One call that reads something else than before.

    Attributes:
        scope: path of the module whose forward makes the call.
        call: path of the called module in it.
        before, after: what it reads: nearest calls and inputs.
    """

    scope: str
    call: str
    before: tuple[str, ...]
    after: tuple[str, ...]


@dataclass(frozen=True)
class Difference:
    """What is removed, added or changed from the first model to the second, and which calls read other things.

    `params` and `flops` are counts of the first and of the second model.
    """

    removed: list[Part] = field(default_factory=list)
    added: list[Part] = field(default_factory=list)
    changed: list[tuple[Part, Part]] = field(default_factory=list)
    flow: list[Flow] = field(default_factory=list)
    params: tuple[int, int] = (0, 0)
    flops: tuple[int, int] = (0, 0)

    @property
    def is_empty(self) -> bool:
        """Whether the two models are alike but for their weights."""
        return not (self.removed or self.added or self.changed or self.flow)

    @property
    def labels(self) -> dict[str, str]:
        """A word for each path of the first model at which something differs."""
        words = {below(f.scope, f.call): "reads other" for f in self.flow}
        words |= {old.path: new.module_class.removesuffix("Mixer") for old, new in self.changed}
        return words | {part.path: "removed" for part in self.removed}


def diff(a: ModelGraph, b: ModelGraph) -> Difference:
    """Compare two traced models. Of modules that differ only the outermost are named; weights are not compared."""
    found = Difference(params=(a.root.params, b.root.params), flops=(a.flops, b.flops))
    _compare(a.model, b.model, "", found)
    for path in a.scopes:
        if path in b.scopes and a.scopes[path].module_class is b.scopes[path].module_class:
            found.flow.extend(_flow(path, a.scopes[path], b.scopes[path]))
    return found


def _compare(a: nn.Module, b: nn.Module, path: str, found: Difference) -> None:
    """Note where the modules at `path`, or those below, differ."""
    if own_class(a) is not own_class(b) or _own_shapes(a) != _own_shapes(b):
        if path:
            _note(a, b, path, found)
            return
        found.changed.append((_part(a, "(model)"), _part(b, "(model)")))
    children = dict.fromkeys([*a._modules, *b._modules])
    for name in children:
        old, new = a._modules.get(name), b._modules.get(name)
        if old is not None and new is not None:
            _compare(old, new, below(path, name), found)
        elif old is not None or new is not None:
            _note(old, new, below(path, name), found)


def _note(old: nn.Module | None, new: nn.Module | None, path: str, found: Difference) -> None:
    """Sort a difference into removed, added or changed."""
    gone, there = (module is None or type(module).__name__ == REMOVED for module in (new, old))
    if gone and old is not None:
        found.removed.append(_part(old, path))
    elif there and new is not None:
        found.added.append(_part(new, path))
    elif old is not None and new is not None:
        found.changed.append((_part(old, path), _part(new, path)))


def _own_shapes(module: nn.Module) -> dict[str, tuple[int, ...]]:
    """Shapes of the module's own tensors, which tell two modules of one class apart."""
    own = {**module._parameters, **module._buffers}
    return {name: tuple(tensor.shape) for name, tensor in own.items() if tensor is not None}


def _part(module: nn.Module, path: str) -> Part:
    return Part(path, own_class(module).__name__, sum(p.numel() for p in module.parameters()))


def _flow(path: str, a: Scope, b: Scope) -> Iterator[Flow]:
    """The calls in one scope that read other things than before."""
    if a.graph is b.graph or a.recordings[0].code == b.recordings[0].code:
        return
    before, after = _reads(a.graph), _reads(b.graph)
    for call in after:
        if call in before and before[call] != after[call]:
            yield Flow(path, call, before[call], after[call])


def _reads(graph: fx.Graph) -> dict[str, tuple[str, ...]]:
    """What each module call, and the end of the forward, reads: the nearest calls and inputs above, past all else."""
    above: dict[fx.Node, dict[str, None]] = {}
    reads: dict[str, tuple[str, ...]] = {}
    for node in graph.nodes:
        sources = node.all_input_nodes if node.op == "output" else inputs_of(node)
        near = {label: None for source in sources for label in above.get(source, ())}
        if node.op in ("call_module", "output"):
            name = str(node.target) if node.op == "call_module" else "result"
            reads[name] = tuple(near)
            above[node] = {name: None}
        elif node.op == "placeholder":
            above[node] = {node.name: None} if tensors(node) else {}
        else:
            above[node] = near
    return reads
