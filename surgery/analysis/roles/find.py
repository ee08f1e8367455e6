"""All operators of a model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from surgery.analysis.roles.attention import find_attention, find_products
from surgery.analysis.roles.embedding import find_embeddings
from surgery.analysis.roles.flow import ScopedNode
from surgery.analysis.roles.layers import block_layers
from surgery.analysis.roles.mixer import find_mixers
from surgery.analysis.roles.mlp import find_mlps
from surgery.analysis.roles.modulation import find_modulation
from surgery.analysis.roles.norm import find_norms
from surgery.analysis.roles.operator import Operator, Recognised, Role, module_operator, subgraph_operator
from surgery.analysis.roles.primitives import is_linear
from surgery.analysis.roles.structure import Structure
from surgery.recording.paths import child_path, outers


def find_operators(structure: Structure) -> list[Operator]:
    """Every operator of the traced model, in execution order, outer before inner."""
    found = sorted(_Roles(structure).found, key=lambda each: (_start(structure, each), -len(each.nodes)))
    layers, named = block_layers(structure.flow.scopes), set[ScopedNode]()
    linear = _linear_flops(structure)
    operators = []
    for each in found:
        if each.nodes:
            operators.append(subgraph_operator(each.path, each.nodes, _name(each, named), each.role, layers))
        else:
            call = structure.flow.callers[each.path][0][1]
            operators.append(module_operator(each.path, call, each.role, layers, linear[each.path]))
    return operators


def _linear_flops(structure: Structure) -> Counter[str]:
    """What learned linear maps cost, by the paths of the modules that they stand in or are."""
    flops: Counter[str] = Counter()
    for path, node in structure.flow.order:
        if is_linear(node):
            module = child_path(path, node) if node.op == "call_module" else path
            flops.update(dict.fromkeys(outers(module), node.meta["flops"]))
    return flops


class _Roles:
    """What has a role, a module only one: what is recognised first counts."""

    def __init__(self, structure: Structure) -> None:
        self.found: list[Recognised] = []
        self._modules: dict[str, Role] = {}
        products = find_products(structure)
        self._add(find_attention(structure, products))
        self._add(find_mlps(structure, {product.place for product in products}, self._is_free))
        self._add(list(find_mixers(structure, self.found)))
        self._add(find_modulation(structure, self._is_free))
        self._add(find_norms(structure))
        self._add(find_embeddings(structure, self._modules, set(self._places())))
        self._add([Recognised("residual", path, (node,)) for path, node in structure.residuals])

    def _add(self, found: list[Recognised]) -> None:
        """Keep what is new: a module that has a role already gets no second one."""
        for each in found:
            if each.nodes:
                self.found.append(each)
            elif self._is_free(each.path):
                self.found.append(each)
                self._modules[each.path] = each.role

    def _is_free(self, path: str) -> bool:
        """Whether the module at `path` has no role yet."""
        return path not in self._modules

    def _places(self) -> Iterator[ScopedNode]:
        return ((each.path, node) for each in self.found for node in each.nodes)


def _start(structure: Structure, each: Recognised) -> int:
    """When in execution order it begins."""
    place = (each.path, each.nodes[0]) if each.nodes else structure.flow.callers[each.path][0]
    return structure.flow.order[place]


def _name(each: Recognised, named: set[ScopedNode]) -> str:
    """The name of the first node, or of the next one if another operator of the scope bears it."""
    free = [node for node in each.nodes if (each.path, node) not in named]
    named.add((each.path, (free or each.nodes)[0]))
    return (free or each.nodes)[0].name
