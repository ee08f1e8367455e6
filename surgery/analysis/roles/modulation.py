"""Modulation: learned maps whose result scales, shifts or gates tokens and is not computed from these tokens."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import permutations

from torch import fx

from surgery.analysis.roles.flow import ScopedNode
from surgery.analysis.roles.operator import Recognised
from surgery.analysis.roles.primitives import (
    ADDS,
    EMBEDDING_MODULES,
    MULTIPLICATIONS,
    SPLITS,
    bare,
    inputs_of,
    is_activation,
    is_layout,
    is_learned,
    is_linear,
    is_module,
    name_of,
    shape_of,
    tensors,
)
from surgery.analysis.roles.structure import Structure


def find_modulation(structure: Structure, free: Callable[[str], bool]) -> list[Recognised]:
    """Each modulation: a module that computes nothing else, or the nodes around its linear map or its learned table.

    Args:
        structure: of the model.
        free: whether a module has no role yet.
    """
    tokens = _tokens(structure)
    sources = dict.fromkeys(s for gate in _gates(structure) for s in _sources(structure, gate) if s not in tokens)
    return list(dict.fromkeys(_operator(structure, source, free) for source in sources))


def _tokens(structure: Structure) -> set[ScopedNode]:
    """What carries tokens: the sublayers, and the linear maps that the residual streams come out of.

    Where every token has its own modulation, nothing else tells the two factors of a product apart.
    """
    found: set[ScopedNode] = set()
    for (path, _), residual in structure.residuals.items():
        start = (path, residual.stream)
        way = structure.flow.walk([start], lambda p: is_linear(p[1]) or p in structure.residuals, above=structure.spine)
        found.update(residual.sublayer, (place for place in way if is_linear(place[1])))
    return found


def _gates(structure: Structure) -> Iterator[ScopedNode]:
    """Everything that tokens are multiplied by or shifted by, and that does not come from the same tokens."""
    for path, node in structure.flow.order:
        if name_of(node) not in ADDS | MULTIPLICATIONS or len(shape_of(node)) < 3:
            continue
        for tokens, gate in permutations(inputs_of(node), 2):
            scales = name_of(node) in MULTIPLICATIONS or (path and _is_broadcast(gate, node))
            if (
                scales
                and shape_of(gate)
                and shape_of(tokens) == shape_of(node)
                and _is_independent(structure, path, tokens, gate)
            ):
                yield path, gate


def _is_broadcast(gate: fx.Node, result: fx.Node) -> bool:
    """Whether `gate` is the same for all tokens."""
    return shape_of(gate)[-2:-1] in ((), (1,)) and shape_of(result)[-2] > 1


def _is_independent(structure: Structure, path: str, tokens: fx.Node, gate: fx.Node) -> bool:
    """Whether `gate` is computed by learned maps, and from none of the inputs of its scope that `tokens` come from."""
    if not _sources(structure, (path, gate)):
        return False
    inputs = {p for p in structure.flow.walk([(path, gate)], within=path) if p[0] == path and p[1].op == "placeholder"}
    streams = {p for p in structure.streams([(path, tokens)], path) if len(shape_of(p[1])) >= 3}
    return bool(inputs and streams) and not inputs & streams


def _sources(structure: Structure, gate: ScopedNode) -> list[ScopedNode]:
    """The linear maps nearest above `gate`, and the tables that are added on the way.

    A vector that is added to a table is a modulation itself only if it holds more than one shift, scale or gate.
    """
    way = list(structure.flow.walk([gate], lambda p: is_linear(p[1]) or is_module(p[1], EMBEDDING_MODULES)))
    tables = [place for place in way if _adds_table(structure, place)]
    linears = [place for place in way if is_linear(place[1])]
    width = shape_of(gate[1])[-1]
    return [*tables, *(p for p in linears if not tables or shape_of(p[1])[-1] > width)]


def _adds_table(structure: Structure, place: ScopedNode) -> bool:
    """Whether at `place` a learned table is added to something that is none."""
    above = structure.flow.above(place) if name_of(place[1]) in ADDS else []
    learned = [_is_table(structure, source) for source in above]
    return any(learned) and not all(learned)


def _is_table(structure: Structure, place: ScopedNode) -> bool:
    """Whether a parameter is at `place`, or is passed to it by the caller of its scope."""
    above = structure.flow.above(place) if place[1].op == "placeholder" else []
    return is_learned(place[1]) or any(is_learned(node) for _, node in above)


def _operator(structure: Structure, source: ScopedNode, free: Callable[[str], bool]) -> Recognised:
    """The modulation around a linear map or a table: its module, if all of that is about it, or nodes."""
    path, node = source
    if structure.is_module(path) and free(path) and _is_all(structure, source):
        return Recognised("modulation", path)
    parts = {*_above(node), node, *_below(node)}
    return Recognised("modulation", path, structure.flow.in_order(path, parts))


def _is_all(structure: Structure, source: ScopedNode) -> bool:
    """Whether all results of the scope of `source` have to do with it."""
    path, node = source
    (output,) = structure.flow.scopes[path].graph.find_nodes(op="output")
    results = [each for each in output.all_input_nodes if tensors(each)]
    return all(structure.depends(path, each, node) or structure.depends(path, node, each) for each in results)


def _above(node: fx.Node) -> list[fx.Node]:
    """A linear map's activation, or a sum's table."""
    found: list[fx.Node] = []
    for source in inputs_of(node):
        *views, origin = bare(source)
        if is_activation(origin) or origin.op == "get_attr":
            found += [*views, origin]
    return found


def _below(node: fx.Node) -> Iterable[fx.Node]:
    """What takes the result of `node` apart."""
    for user in node.users:
        if is_layout(user) or name_of(user) in SPLITS:
            yield user
            yield from _below(user)
