"""`ModelGraph`: the traced model."""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Hashable, Iterator, Mapping
from functools import cached_property

import networkx as nx
from torch import Tensor, fx, nn

from surgery.analysis.analysis import Analysis
from surgery.analysis.hidden_layer import HiddenLayer
from surgery.analysis.numbers import At
from surgery.analysis.outside import Outside
from surgery.analysis.remembered import remembered
from surgery.analysis.roles import Operator, Role
from surgery.analysis.roles.structure import Structure
from surgery.analysis.streams import Stream
from surgery.analysis.written_out import WrittenOut
from surgery.graph.view import OPERATOR, Key, flow_view, to_networkx
from surgery.recording.generated import RecordCall, forget, generate
from surgery.recording.paths import child_path, outers
from surgery.recording.recording import Scope
from surgery.recording.skeleton import computed_tensors


class ModelGraph:
    """A model as a tree of scopes, each an opened module with its `torch.fx` graphs.

    Attributes:
        model: the traced model; it is referred to, not copied, and never changed.
        scopes: by path, "" being the root, in the order in which the forward first enters them.
        proofs: what was found out about its modules by running them, by what that depends on.
        figures: of an analysis, by the paths of operators and blocks; whoever makes one sets them.
    """

    def __init__(self, model: nn.Module, scopes: dict[str, Scope], record: RecordCall) -> None:
        self.model = model
        self.scopes = scopes
        self.proofs: dict[Hashable, str | None] = {}
        self.figures: Mapping[str, Mapping[str, float]] = {}
        self._record = record
        self._analysis = Analysis(model, scopes)

    def __repr__(self) -> str:
        nodes = sum(len(scope.graph.nodes) for scope in self.scopes.values())
        name = self.root.module_class.__name__
        return f"ModelGraph({name}, {len(self.scopes)} scopes, {nodes:,} nodes, {self.flops:,} FLOPs)"

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
        return [operator for operator in self._analysis.operators if role in (None, operator.role)]

    @property
    def structure(self) -> Structure:
        """Dataflow and residual additions."""
        return self._analysis.structure

    @property
    def layers(self) -> dict[str, int]:
        """The paths of the model's blocks, numbered in execution order, see `block_layers`."""
        return self._analysis.layers

    def layer_of(self, path: str) -> int | None:
        """The number of the block that what is at `path` is or stands in."""
        return self._analysis.layer_of(path)

    def streams(self, path: str) -> tuple[Stream, ...] | None:
        """The token streams of the block at `path`; None if a result does not go on with a single argument."""
        return self._analysis.streams(path)

    def hidden_layer(self, key: Key) -> HiddenLayer:
        """The hidden layer of the MLP at `key`.

        Raises:
            AnalysisError: see `find_hidden_layer`.
        """
        scope, name = key
        operator = self.operator_at(key)
        last = operator.nodes[-1] if name.startswith(OPERATOR) else name
        return self._analysis.hidden_layer((scope, self.node(scope, last)), operator.scope)

    def numbers_for(self, key: Key, neurons: int) -> dict[Key, dict[At, int]]:
        """The whole numbers that change in a forward if the MLP at `key` has so many neurons: by node, and where.

        Raises:
            AnalysisError: it cannot have them, see `Analysis.resized`.
        """
        layer = self.hidden_layer(key)
        scopes = {node: path for path, node in layer.cuts}
        found: dict[Key, dict[At, int]] = {}
        for number in self._analysis.resized(layer, neurons):
            found.setdefault((scopes[number.node], number.node.name), {})[number.at] = number.value
        return found

    def alike_neurons(self, key: Key) -> bool:
        """Whether the MLP at `key` does the same to all of its neurons, see `are_alike`."""
        return self._analysis.alike_neurons(self.hidden_layer(key))

    def written_out(self, scope: str) -> list[WrittenOut]:
        """Every softmax attention that the forward of the scope at the path `scope` writes out."""
        return self._analysis.written_out(scope)

    def fixed(self, scope: str, node: fx.Node) -> Tensor | None:
        """What `node` gives for the traced sizes; None if the model's inputs have a say in it, see `fixed_tensor`."""
        return self._analysis.fixed((scope, node))

    def grows(self, root: str, scope: str, node: fx.Node, axis: int) -> bool:
        """Whether a size of what `node` gives depends on what the scope at `root` is given, see `growing`."""
        return self._analysis.grows(root, (scope, node), axis)

    def changed_in_place(self, path: str) -> set[str]:
        """Names of the arguments that the module at `path` changes in place; none if it has no graph."""
        return self._analysis.changed_in_place(path) if path in self.scopes else set()

    def feature_axis(self, path: str, argument: str) -> int | None:
        """The axis of an argument of the module at `path` that holds the features, if that is not the last one."""
        return self._analysis.feature_axis(path, argument) if path in self.scopes else None

    def outside(self, scope: str, call: fx.Node) -> Outside | None:
        """The residual addition around a block, see `find_outside`."""
        return self._analysis.outside(scope, call)

    @cached_property
    def view(self) -> nx.MultiDiGraph:
        """What `to_networkx` gives, made once; not to be changed."""
        return to_networkx(self.scopes, self._analysis)

    def node(self, scope: str, name: str) -> fx.Node:
        """The fx node called `name` in the graph of the traced inputs of the scope at the path `scope`."""
        return self._by_name(self.scopes[scope].graph)[name]

    @remembered
    def _by_name(self, graph: fx.Graph) -> dict[str, fx.Node]:
        """The nodes of `graph`, which identical blocks share."""
        return {node.name: node for node in graph.nodes}

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

    def operator_at(self, key: Key) -> Operator:
        """The node of the view at `key` as an operator; one without a role has the role "block" or "node"."""
        path, name = key
        if name.startswith(OPERATOR):
            return self._analysis.operators_by_path[f"{path}:{name.removeprefix(OPERATOR)}"]
        node = self.node(path, name)
        called = child_path(path, node) if node.op == "call_module" else f"{path}:{name}"
        return self._analysis.operators_by_path.get(called) or self._analysis.without_role(called, node)

    def part_at(self, key: Key) -> Operator:
        """As `operator_at`, but a function has the role "node" whatever it does, as recognising roles takes time."""
        path, name = key
        if name.startswith(OPERATOR) or self.node(path, name).op == "call_module":
            return self.operator_at(key)
        return self._analysis.without_role(f"{path}:{name}", self.node(path, name))

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
        tensors = {id(tensor): tensor for tensor in (*self.model.parameters(), *self.model.buffers())}
        twin = copy.deepcopy(self.model, computed_tensors(self.model) | tensors)
        for module in twin.modules():
            forget(module)
        generate(twin, self.scopes, "", self._record)
        return twin
