"""Sequence mixers other than attention: gated convolutions, scans and the like."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from surgery.analysis.roles.flow import ScopedNode
from surgery.analysis.roles.operator import Recognised
from surgery.analysis.roles.primitives import EMBEDDING_MODULES, has_weights, is_linear, is_module
from surgery.analysis.roles.structure import Structure
from surgery.recording.paths import child_path, outers


def find_mixers(structure: Structure, found: Collection[Recognised]) -> Iterator[Recognised]:
    """Each module that makes a residual branch by several linear maps, or is not opened, without attention or MLP.

    Args:
        structure: of the model.
        found: the attention and MLPs.
    """
    nodes = {(each.path, node) for each in found for node in each.nodes}
    modules = {each.path for each in found if not each.nodes}
    for residual in structure.residuals.values():
        around = {outer for path, _ in residual.sublayer for outer in outers(path)}
        if nodes & residual.sublayer or modules & around:
            continue
        whole = [child_path(*place) for place in residual.sublayer if _is_unopened(structure, place)]
        linear = [place for place in residual.sublayer if is_linear(place[1])]
        if whole:
            yield from (Recognised("sequence_mixer", path) for path in whole)
        elif len(linear) > 1 and structure.is_module(path := structure.flow.smallest_scope(linear)):
            yield Recognised("sequence_mixer", path)


def _is_unopened(structure: Structure, place: ScopedNode) -> bool:
    """Whether at `place` a module is called as a whole that has weights, but no linear map or table."""
    node = place[1]
    opened = structure.flow.entered(place) is not None
    plain = is_linear(node) or is_module(node, EMBEDDING_MODULES)
    return node.op == "call_module" and not opened and has_weights(node) and not plain
