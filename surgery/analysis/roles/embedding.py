"""Embedding: what makes features of the model's inputs before a block has touched them."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

from torch import fx

from surgery.analysis.roles.flow import ScopedNode
from surgery.analysis.roles.operator import Recognised, Role
from surgery.analysis.roles.primitives import EMBEDDING_MODULES, WAVES, inputs_of, is_linear, is_module, name_of
from surgery.analysis.roles.structure import Structure
from surgery.recording.paths import child_path


def find_embeddings(structure: Structure, roles: Mapping[str, Role], used: Collection[ScopedNode]) -> list[Recognised]:
    """Each embedding: the largest module before the blocks that learns or computes features and has no other role.

    Args:
        structure: of the model.
        roles: of the modules that have one; embeddings are looked for inside modulations.
        used: places that are part of another operator.
    """
    roots = ["", *(path for path, role in roles.items() if role == "modulation")]
    paths = dict.fromkeys(p for root in roots for p in _search(structure, root, roles, used))
    return [Recognised("embedding", path) for path in paths]


def _search(structure: Structure, path: str, roles: Mapping[str, Role], used: Collection[ScopedNode]) -> Iterator[str]:
    """The embeddings that the scope at `path` calls, or that something which holds blocks calls before them."""
    touched: set[fx.Node] = set()
    for node in structure.flow.scopes[path].graph.nodes if path in structure.flow.scopes else ():
        inner = child_path(path, node) if node.op == "call_module" else ""
        if (path, node) in structure.residuals or touched & set(inputs_of(node)):
            touched.add(node)
        elif inner in structure.blocks and inner:
            touched.add(node)
            yield from () if inner in structure.joined else _search(structure, inner, roles, used)
        elif inner and inner not in roles and (path, node) not in used and not (is_linear(node) and path in roles):
            yield from (inner,) if _makes_features(structure, (path, node)) else ()


def _makes_features(structure: Structure, call: ScopedNode) -> bool:
    """Whether there are learned maps, tables or waves in a call."""
    node = call[1]
    inner = structure.flow.entered(call)
    if inner is not None:
        return any(_makes_features(structure, (inner, n)) for n in structure.flow.scopes[inner].graph.nodes)
    learned = is_linear(node) or node.op == "get_attr" or is_module(node, EMBEDDING_MODULES)
    return learned or name_of(node) in WAVES
