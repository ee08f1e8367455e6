"""`ModelGraph`: the traced model."""

from __future__ import annotations

import copy
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterator
from functools import cached_property

import networkx as nx
from torch import fx, nn

from surgery.analysis.hidden_layer import HiddenLayer, find_hidden_layer
from surgery.analysis.neuron_wise import why_not_neuron_wise
from surgery.analysis.outside import Outside, find_outside
from surgery.analysis.roles import Operator, Role, find_operators
from surgery.analysis.roles.layers import block_layers, layer_of
from surgery.analysis.roles.operator import mixes, params_of
from surgery.analysis.roles.primitives import inputs_of, is_linear, shape_of
from surgery.analysis.roles.structure import Structure
from surgery.analysis.streams import Stream, find_streams
from surgery.analysis.written_out import WrittenOut, find_written_out
from surgery.graph.view import OPERATOR, Key, flow_view, to_networkx
from surgery.recording.generated import Record, forget, generate
from surgery.recording.paths import child_path, outers
from surgery.recording.scope import Scope


class ModelGraph:
    """A model as a tree of scopes, each an opened module with its `torch.fx` graphs.

    Attributes:
        model: the traced model; it is referred to, not copied, and never changed.
        scopes: by path, "" being the root, in the order in which the forward first enters them.
        proofs: what was found out about its modules by running them, by what that depends on.
    """

    def __init__(self, model: nn.Module, scopes: dict[str, Scope], record: Record) -> None:
        self.model = model
        self.scopes = scopes
        self.proofs: dict[Hashable, str | None] = {}
        self._record = record
        self._streams: dict[str, tuple[Stream, ...] | None] = {}
        self._hidden: dict[Key, HiddenLayer] = {}
        self._written_out: dict[int, list[WrittenOut]] = {}
        self._nodes: dict[int, dict[str, fx.Node]] = {}

    @property
    def root(self) -> Scope:
        """The scope of the whole model."""
        return self.scopes[""]

    @property
    def flops(self) -> int:
        """Floating point operations of one forward on the traced inputs; a multiply-add counts as two."""
        return self.root.recordings[0].flops

    @property
    def guards(self) -> list[str]:
        """Every condition on sizes that the recordings depend on, as `path: condition`."""
        return [f"{s.name}: {guard}" for s in self.scopes.values() for r in s.recordings for guard in r.guards]

    def operators(self, role: Role | None = None) -> list[Operator]:
        """The operators in execution order, recognised by what they do; only those of `role` if it is given."""
        return [operator for operator in self._operators if role in (None, operator.role)]

    @cached_property
    def _operators(self) -> list[Operator]:
        return find_operators(self._structure)

    @cached_property
    def _structure(self) -> Structure:
        return Structure(self.scopes)

    def streams(self, path: str) -> tuple[Stream, ...] | None:
        """The token streams of the block at `path`; None if a result does not go on with a single argument."""
        if path not in self._streams:
            self._streams[path] = find_streams(self._structure, path)
        return self._streams[path]

    def outside(self, scope: str, call: fx.Node) -> Outside | None:
        """The residual addition around a block, see `find_outside`."""
        return find_outside(self._structure, scope, call)

    @cached_property
    def view(self) -> nx.MultiDiGraph:
        """What `to_networkx` gives, made once; not to be changed."""
        return to_networkx(self.scopes, self._operators)

    def node(self, scope: str, name: str) -> fx.Node:
        """The fx node called `name` in the graph of the traced inputs of the scope at the path `scope`."""
        graph = self.scopes[scope].graph  # that of an identical block, too
        if id(graph) not in self._nodes:
            self._nodes[id(graph)] = {node.name: node for node in graph.nodes}
        return self._nodes[id(graph)][name]

    def nodes_below(self, path: str) -> Iterator[tuple[str, fx.Node]]:
        """Every fx node in the scopes at and below `path`, with the path of its scope."""
        for name in self._scopes_below[path]:
            yield from ((name, node) for node in self.scopes[name].graph.nodes)

    @cached_property
    def _scopes_below(self) -> dict[str, list[str]]:
        """The paths of the scopes at and below each path."""
        found: dict[str, list[str]] = defaultdict(list)
        for path in self.scopes:
            for outer in ("", *outers(path)):
                found[outer].append(path)
        return found

    def hidden_layer(self, key: Key) -> HiddenLayer:
        """The hidden layer of the MLP at `key`, see `find_hidden_layer`."""
        if key not in self._hidden:
            scope, name = key
            operator = self.operator_at(key)
            last = operator.nodes[-1] if name.startswith(OPERATOR) else name
            self._hidden[key] = find_hidden_layer(self._structure.flow, (scope, self.node(scope, last)), operator.scope)
        return self._hidden[key]

    def why_not_neurons(self, key: Key, neurons: int) -> str | None:
        """Why the MLP at `key` cannot have so many neurons, see `why_not_neuron_wise`; tried once for alike ones."""
        layer = self.hidden_layer(key)
        tried = layer.down.node, neurons
        if tried not in self.proofs:
            self.proofs[tried] = why_not_neuron_wise(self._structure.flow, layer, neurons, self.model.get_submodule)
        return self.proofs[tried]

    def written_out(self, scope: str) -> list[WrittenOut]:
        """Every softmax attention that the forward of the scope at the path `scope` writes out."""
        graph = self.scopes[scope].graph
        if id(graph) not in self._written_out:
            self._written_out[id(graph)] = find_written_out(
                graph, lambda node: self.model.get_submodule(child_path(scope, node))
            )
        return self._written_out[id(graph)]

    def operator_at(self, key: Key) -> Operator:
        """The node of the view at `key` as an operator; one without a role has the role "block" or "node"."""
        path, name = key
        if name.startswith(OPERATOR):
            return self._operators_at[f"{path}:{name.removeprefix(OPERATOR)}"]
        node = self.node(path, name)
        called = child_path(path, node) if node.op == "call_module" else f"{path}:{name}"
        return self._operators_at.get(called) or self._as_operator(called, key, node)

    def part_at(self, key: Key) -> Operator:
        """As `operator_at`, but a function has the role "node" whatever it does, as recognising roles takes time."""
        path, name = key
        is_function = not name.startswith(OPERATOR) and self.node(path, name).op != "call_module"
        return self._as_operator(f"{path}:{name}", key, self.node(path, name)) if is_function else self.operator_at(key)

    def _as_operator(self, path: str, key: Key, node: fx.Node) -> Operator:
        cls, flops = node.meta.get("module_class"), node.meta.get("flops", 0)
        return Operator(
            path=path,
            role="block" if path in self._layers else "node",
            module_class="" if cls is None else cls.__name__,
            layer=self.layer_of(path),
            in_shape=next((shape_of(source) for source in inputs_of(node)), ()),
            out_shape=shape_of(node),
            params=params_of(node),
            flops=flops,
            flops_mixing=self._mixing[path] if node.op == "call_module" else (not is_linear(node)) * flops,
            nodes=() if node.op == "call_module" else (key[1],),
        )

    def layer_of(self, path: str) -> int | None:
        """The number of the block that what is at `path` is or stands in."""
        return layer_of(path.partition(":")[0], self._layers)

    @cached_property
    def _layers(self) -> dict[str, int]:
        return block_layers(self.scopes)

    @cached_property
    def _mixing(self) -> Counter[str]:
        """What mixing costs in each module, by its path."""
        flops: Counter[str] = Counter()
        for operator in self._operators:
            if mixes(operator.role):
                parts = operator.scope.split(".")
                flops.update({".".join(parts[:depth]): operator.flops_mixing for depth in range(1, len(parts) + 1)})
        return flops

    @cached_property
    def _operators_at(self) -> dict[str, Operator]:
        return {operator.path: operator for operator in self._operators}

    @cached_property
    def flow_view(self) -> nx.DiGraph:
        """The view without roles, for patterns that ask for none; not to be changed."""
        return flow_view(self.scopes)

    def to_networkx(self) -> nx.MultiDiGraph:
        """All scopes as one graph: a node for each graph node, edges for dataflow and for entering a scope."""
        return self.view.copy()

    def module(self) -> nn.Module:
        """The model again, every scope running the forward generated from its graphs.

        It is an instance of the model's class, has the same `state_dict` keys and shares its parameters. Where no
        recording covers the inputs and the module's attributes, the scope's own class is recorded once more on the meta
        device. While gradients are checkpointed, under autocast, and in what torch.compile meets unrecorded, a module
        runs its own code.

        Raises (when called):
            GuardError: the model itself does not accept the inputs; the message names input, size and condition.
        """
        tensors = (*self.model.parameters(), *self.model.buffers())
        twin = copy.deepcopy(self.model, {id(tensor): tensor for tensor in tensors})
        for module in twin.modules():
            forget(module)
        generate(twin, self.scopes, "", self._record)
        return twin
