"""MLPs: linear maps, an activation, and a linear map whose result joins a residual stream."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable

from surgery.analysis.roles.flow import ScopedNode
from surgery.analysis.roles.operator import Recognised
from surgery.analysis.roles.primitives import MULTIPLICATIONS, is_activation, is_linear, name_of
from surgery.analysis.roles.structure import Residual, Structure
from surgery.recording.reach import reach


def find_mlps(structure: Structure, products: set[ScopedNode], free: Callable[[str], bool]) -> list[Recognised]:
    """Each MLP: the smallest module that encloses it, if that is free and no block, or its nodes.

    Args:
        structure: of the model.
        products: where attention has its results.
        free: whether a module has no role yet.
    """
    found, known = [], set[ScopedNode]()
    for place, residual in structure.residuals.items():
        places = _Sublayer(structure, place[0], residual, products).mlp() - known
        if places:
            known |= places
            path = structure.flow.smallest_scope(places)
            is_module = structure.is_module(path) and free(path)
            found.append(Recognised("mlp", path, () if is_module else structure.flow.nodes_in(path, places)))
    return found


class _Sublayer:
    """What stands between a residual stream and the addition that joins it again."""

    def __init__(self, structure: Structure, path: str, residual: Residual, products: set[ScopedNode]) -> None:
        self._flow = structure.flow
        self._inside = residual.sublayer
        self._products = products & self._inside
        self._end = (path, residual.branch)
        self._below: dict[ScopedNode, list[ScopedNode]] = defaultdict(list)
        for place in self._inside:
            for source in self._above(place):
                self._below[source].append(place)
        self._mixed = set(reach(self._products, lambda p: () if is_linear(p[1]) else self._below[p]))

    def mlp(self) -> set[ScopedNode]:
        """All linear, activation, linear that ends in the addition, be it one such chain or several; maybe empty."""
        last = [place for place in self._up([self._end]) if is_linear(place[1])]
        return {place for linear in last for place in self._chain(linear)}

    def _chain(self, last: ScopedNode) -> set[ScopedNode]:
        """From the linear maps nearest above `last`, through an activation, to `last`; empty if there are none."""
        way = self._up(self._above(last))
        activations = [place for place in way if is_activation(place[1])]
        if not activations or not any(is_linear(place[1]) for place in way):
            return set()
        activated = set(reach(activations, lambda p: self._below[p]))
        return {last, *(place for place in way if place in activated or place not in self._mixed)}

    def _up(self, starts: Iterable[ScopedNode]) -> list[ScopedNode]:
        """`starts` and all above, as far as the next linear maps and attentions."""
        return list(self._flow.walk(starts, lambda p: is_linear(p[1]) or p in self._products, above=self._ungated))

    def _ungated(self, place: ScopedNode) -> list[ScopedNode]:
        """One step up; of a product with an attention's result only the attention's side, the other being its gate."""
        above = self._above(place)
        mixed = [source for source in above if source in self._mixed]
        return mixed if mixed and name_of(place[1]) in MULTIPLICATIONS else above

    def _above(self, place: ScopedNode) -> list[ScopedNode]:
        """One step up inside the sublayer."""
        return [source for source in self._flow.above(place) if source in self._inside]
