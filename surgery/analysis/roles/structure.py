"""What all roles are told from: dataflow, residual additions, and which modules are blocks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from torch import fx

from surgery.analysis.roles.flow import Flow, ScopedNode
from surgery.analysis.roles.primitives import (
    ADDS,
    ELEMENTWISE,
    bare,
    has_weights,
    inputs_of,
    is_activation,
    is_attention,
    is_product,
    name_of,
    shape_of,
)
from surgery.recording.paths import outers
from surgery.recording.reach import reach
from surgery.recording.recording import Scope

SCALINGS = {"mul", "rmul", "imul", "div", "truediv"}


@dataclass(frozen=True)
class Residual:
    """An addition of a sublayer's result to the stream that the sublayer reads.

    Attributes:
        stream, branch: the two things that are added; the stream is the one that the branch is computed from.
        sublayer: every place on the ways from the stream to the addition.
    """

    stream: fx.Node
    branch: fx.Node
    sublayer: frozenset[ScopedNode]

    @property
    def is_nonlinear(self) -> bool:
        """Whether the sublayer is more than one linear map."""
        return any(is_attention(n) or is_product(n) or is_activation(n) for _, n in self.sublayer)


class Structure:
    """Dataflow of a model, and where it is joined.

    Attributes:
        flow: dataflow.
        residuals: by the place of the addition, in execution order.
        joined: paths of the scopes that hold the residual addition of a nonlinear sublayer: the blocks.
        blocks: these, the root, and what holds blocks.
    """

    def __init__(self, scopes: Mapping[str, Scope]) -> None:
        self.flow = Flow(scopes)
        self.residuals: dict[ScopedNode, Residual] = {}
        for place in self.flow.order:
            residual = self._residual(place)
            if residual is not None:
                self.residuals[place] = residual
        self.joined = {place[0] for place, residual in self.residuals.items() if residual.is_nonlinear}
        self.blocks = {outer for path in self.joined for outer in outers(path) if outer in scopes} | {""}

    def _residual(self, place: ScopedNode) -> Residual | None:
        """The residual addition at `place`, if it is one."""
        path, node = place
        added = inputs_of(node)
        if name_of(node) not in ADDS or [shape_of(n) for n in added] != 2 * [shape_of(node)]:
            return None
        for stream, branch in (added, added[::-1]):
            for origin in self.origins(path, stream):
                sublayer = self._sublayer(path, origin, branch)
                if sublayer:
                    return Residual(stream, branch, sublayer)
        return None

    def origins(self, path: str, stream: fx.Node) -> Iterator[fx.Node]:
        """What `stream` is a view or multiple of, and, if that is a residual sum, what that added to, and so on."""
        following: fx.Node | None = stream
        while following is not None:
            *_, origin = bare(following)
            yield origin
            known = self.residuals.get((path, origin))
            following = known.stream if known is not None else _scaled(origin)

    def _sublayer(self, path: str, top: fx.Node, bottom: fx.Node) -> frozenset[ScopedNode]:
        """The places between two nodes of one graph, if learned weights are among them."""
        if not self.depends(path, bottom, top):
            return frozenset()
        places = self.flow.between({(path, top)}, (path, bottom), path)
        return frozenset(places if any(has_weights(node) for _, node in places) else ())

    def depends(self, path: str, node: fx.Node, other: fx.Node) -> bool:
        """Whether `node` may be computed from `other`, of the same graph; what comes before that need not be searched."""
        order, first = self.flow.order, self.flow.order[path, other]
        return other in reach([node], lambda n: [s for s in inputs_of(n) if order[path, s] >= first])

    def spine(self, place: ScopedNode) -> list[ScopedNode]:
        """One step up along the tokens: past gates, biases and whatever else a sublayer or a modulation brings in."""
        above = self.flow.above(place)
        if place in self.residuals:
            return [(place[0], self.residuals[place].stream)]
        if is_attention(place[1]):
            return above[:1]
        if name_of(place[1]) in ELEMENTWISE:
            shape = shape_of(place[1])
            return [source for source in above if shape_of(source[1]) == shape] or above
        return above

    def streams(self, starts: Iterable[ScopedNode], within: str) -> set[ScopedNode]:
        """The inputs (B, N, D) of the scope at `within` that are the tokens which `starts` are computed from."""
        ends = {p for p in self.flow.walk(starts, within=within, above=self.spine) if _enters(p, within)}
        return {place for place in ends if len(shape_of(place[1])) >= 3} or ends

    def is_module(self, path: str) -> bool:
        """Whether the scope at `path` can be one operator: blocks, and what holds blocks, cannot."""
        return path not in self.blocks


def _enters(place: ScopedNode, within: str) -> bool:
    return place[0] == within and place[1].op == "placeholder"


def _scaled(node: fx.Node) -> fx.Node | None:
    """What `node` multiplies by numbers or features; None if it does something else, or multiplies two streams."""
    if name_of(node) not in SCALINGS:
        return None
    streams = [source for source in inputs_of(node) if shape_of(source) == shape_of(node)]
    return streams[0] if len(streams) == 1 else None
