"""`Analysis`: what is known of a traced model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from functools import cached_property

from torch import Tensor, fx, nn

from surgery.analysis.entries import changed_in_place, feature_axis
from surgery.analysis.fixed import fixed_tensor
from surgery.analysis.growing import grows
from surgery.analysis.hidden_layer import HiddenLayer, find_hidden_layer
from surgery.analysis.neuron_wise import are_alike, require_neuron_wise
from surgery.analysis.numbers import Number
from surgery.analysis.outside import Outside, find_outside
from surgery.analysis.remembered import remembered
from surgery.analysis.resized import numbers_for
from surgery.analysis.roles.find import find_operators
from surgery.analysis.roles.flow import ScopedNode
from surgery.analysis.roles.layers import block_layers, layer_of
from surgery.analysis.roles.operator import Operator, mixes, params_of
from surgery.analysis.roles.primitives import inputs_of, is_linear, shape_of
from surgery.analysis.roles.structure import Structure
from surgery.analysis.streams import Stream, find_streams
from surgery.analysis.written_out import WrittenOut, find_written_out
from surgery.errors import AnalysisError
from surgery.recording.paths import below, child_path, is_inside, module_part, outers, relative
from surgery.recording.recording import Scope


class Analysis:
    """Roles, blocks, streams and the like, each found when it is first asked for.

    Args:
        model: the traced model; attention that is written out is tried with its modules that have no weights.
        scopes: by path.
    """

    def __init__(self, model: nn.Module, scopes: Mapping[str, Scope]) -> None:
        self._model = model
        self._scopes = scopes
        self._layers_of: dict[fx.Node, tuple[str, HiddenLayer]] = {}
        self._resized: dict[tuple[fx.Node, int], tuple[Number, ...] | AnalysisError] = {}
        self._alike: dict[fx.Node, bool] = {}
        self._feature_axes: dict[tuple[fx.Graph, str], int | None] = {}
        self._growing: dict[tuple[fx.Node, int], bool] = {}

    @cached_property
    def structure(self) -> Structure:
        """Dataflow and residual additions."""
        return Structure(self._scopes)

    @cached_property
    def operators(self) -> list[Operator]:
        """Every operator, in execution order."""
        return find_operators(self.structure)

    @cached_property
    def operators_by_path(self) -> dict[str, Operator]:
        """The operators by their paths."""
        return {operator.path: operator for operator in self.operators}

    @cached_property
    def layers(self) -> dict[str, int]:
        """The blocks by path, numbered in execution order."""
        return block_layers(self._scopes)

    def layer_of(self, path: str) -> int | None:
        """The number of the block that what is at `path` is or stands in."""
        return layer_of(module_part(path), self.layers)

    @cached_property
    def flops_mixing(self) -> Counter[str]:
        """What mixing tokens or features costs in each module, by its path."""
        flops: Counter[str] = Counter()
        for operator in self.operators:
            if mixes(operator.role):
                flops.update(dict.fromkeys(outers(operator.scope), operator.flops_mixing))
        return flops

    def without_role(self, path: str, node: fx.Node) -> Operator:
        """What `node` computes, that is at `path`, as an operator with the role "block" or "node"."""
        cls, flops = node.meta.get("module_class"), node.meta.get("flops", 0)
        is_call = node.op == "call_module"
        return Operator(
            path=path,
            role="block" if path in self.layers else "node",
            module_class="" if cls is None else cls.__name__,
            layer=self.layer_of(path),
            in_shape=next((shape_of(source) for source in inputs_of(node)), ()),
            out_shape=shape_of(node),
            params=params_of(node),
            flops=flops,
            # Of a function it is not worth finding all operators for.
            flops_mixing=self.flops_mixing[path] if is_call else (not is_linear(node)) * flops,
            nodes=() if is_call else (node.name,),
        )

    @remembered
    def streams(self, path: str) -> tuple[Stream, ...] | None:
        """The token streams of the block at `path`, see `find_streams`."""
        return find_streams(self.structure, path)

    @remembered
    def changed_in_place(self, path: str) -> set[str]:
        """The arguments of the scope at `path` that it changes, see `entries`."""
        return changed_in_place(self._scopes, self._model, path)

    def feature_axis(self, path: str, argument: str) -> int | None:
        """Where the features of an argument are, if not last, see `entries`; tried once for identical blocks."""
        key = self._scopes[path].graph, argument
        if key not in self._feature_axes:
            self._feature_axes[key] = feature_axis(self._scopes[path], self._model.get_submodule(path), argument)
        return self._feature_axes[key]

    def hidden_layer(self, end: ScopedNode, where: str) -> HiddenLayer:
        """The hidden layer of the MLP, at the path `where`, whose result is that of the node at `end`."""
        return self._hidden_layer((end, where))

    @remembered
    def _hidden_layer(self, asked: tuple[ScopedNode, str]) -> HiddenLayer:
        """See `hidden_layer`; blocks that are alike share their nodes, and are searched once."""
        (path, node), where = asked
        if node in self._layers_of:
            known_at, known = self._layers_of[node]
            to = {seen: below(path, relative(seen, known_at)) for seen in known.seen}
            graphs = ((self._scopes.get(new), self._scopes[old]) for old, new in to.items())
            if all(new is not None and new.graph is old.graph for new, old in graphs):
                return known.moved(to.__getitem__)
        found = find_hidden_layer(self.structure.flow, (path, node), where)
        if all(is_inside(seen, path) for seen in found.seen):
            self._layers_of[node] = path, found
        return found

    def resized(self, layer: HiddenLayer, neurons: int) -> tuple[Number, ...]:
        """The numbers of the forward that change if `layer` has so many neurons; tried once for identical blocks.

        Raises:
            AnalysisError: it cannot have them, see `numbers_for` and `require_neuron_wise`.
        """
        tried = layer.down.node, neurons
        if tried not in self._resized:
            try:
                self._resized[tried] = self._numbers(layer, neurons)
            except AnalysisError as error:
                self._resized[tried] = error
        found = self._resized[tried]
        if isinstance(found, AnalysisError):
            raise found
        return found

    def _numbers(self, layer: HiddenLayer, neurons: int) -> tuple[Number, ...]:
        """See `resized`."""
        flow = self.structure.flow
        numbers = numbers_for(flow, layer, neurons)
        require_neuron_wise(flow, layer, neurons, numbers, self._model.get_submodule)
        return numbers

    def alike_neurons(self, layer: HiddenLayer) -> bool:
        """Whether the same is done to all neurons of `layer`, see `are_alike`; tried once for identical blocks."""
        node = layer.down.node
        if node not in self._alike:
            self._alike[node] = are_alike(self.structure.flow, layer, self._model.get_submodule)
        return self._alike[node]

    def outside(self, scope: str, call: fx.Node) -> Outside | None:
        """The residual addition around a block, see `find_outside`."""
        return find_outside(self.structure, scope, call)

    def fixed(self, place: ScopedNode) -> Tensor | None:
        """What is at `place` if only sizes and the model's own tensors make it, see `fixed_tensor`."""
        return fixed_tensor(self.structure.flow, self._model, place)

    def grows(self, root: str, place: ScopedNode, axis: int) -> bool:
        """Whether a size of what is at `place` depends on what the scope at `root` is given, see `growing.grows`."""
        key = place[1], axis
        if key not in self._growing:
            self._growing[key] = grows(self.structure.flow, self._model, root, place, axis)
        return self._growing[key]

    def written_out(self, scope: str) -> list[WrittenOut]:
        """Every softmax attention that the forward of the scope at the path `scope` writes out."""
        return self._written_out(self._scopes[scope].graph)

    @remembered
    def _written_out(self, graph: fx.Graph) -> list[WrittenOut]:
        """Those in `graph`, which identical blocks share, so that it is tried once."""
        scope = next(path for path, each in self._scopes.items() if each.graph is graph)
        return find_written_out(graph, lambda node: self._model.get_submodule(child_path(scope, node)))
