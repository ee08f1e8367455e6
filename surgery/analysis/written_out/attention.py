"""Softmax attention that a forward writes out, as nodes of its graph.

Shape legend: B batch, H heads, N queries, M keys, K features of a head.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import fx

from surgery.analysis.arguments import argument_of
from surgery.analysis.roles.primitives import inputs_of, name_of, shape_of

Place = tuple[int, str]
"""Of an argument: its position, and its name."""
Swapped = tuple[int, int] | None
"""Two axes that stand in each other's place; None if all are in the order (B, H, N, K), or (B H, N, K)."""
LAYOUTS: dict[int, tuple[Swapped, ...]] = {3: (None, (1, 2)), 4: (None, (1, 2), (2, 3))}
"""By the number of axes: as above, (B, N, H, K), and (B, H, K, N)."""


class Layout(NamedTuple):
    """How factors and result are laid out."""

    query: Swapped = None
    key: Swapped = None
    value: Swapped = None
    result: Swapped = None


PLAIN_LAYOUT = Layout()


CONSTANTS = {"tensor": (0, "data"), "full": (1, "fill_value"), "full_like": (1, "fill_value")}
"""Functions that make a tensor of one number, and where they take it."""


@dataclass(frozen=True)
class Hiding:
    """A `masked_fill` or a `where` of scores, which gives those of hidden keys a number.

    Attributes:
        node: what it is.
        scores: what it changes.
        mask: which scores; boolean.
        mask_at: where the node takes the mask.
        fill_at: where it takes the number.
        tells_seen: whether the mask is true where a key is seen; else where it is hidden.
    """

    node: fx.Node
    scores: fx.Node
    mask: fx.Node
    mask_at: Place
    fill_at: Place
    tells_seen: bool

    @classmethod
    def of(cls, node: fx.Node) -> Hiding | None:
        """What `node` hides by a number; None if it does not."""
        if name_of(node) == "masked_fill":
            return cls._of(node, (0, "input"), (1, "mask"), (2, "value"), tells_seen=False)
        if name_of(node) != "where" or len(node.args) + len(node.kwargs) != 3:
            return None
        first, mask = (0, 1) if node.op == "call_method" else (1, 0)
        branches = ((first, "input"), (2, "other"))
        condition = (mask, "condition")
        seen = cls._of(node, branches[0], condition, branches[1], tells_seen=True)
        return seen or cls._of(node, branches[1], condition, branches[0], tells_seen=False)

    @classmethod
    def _of(cls, node: fx.Node, scores_at: Place, mask_at: Place, fill_at: Place, *, tells_seen: bool) -> Hiding | None:
        scores, mask, fill = (argument_of(node, place) for place in (scores_at, mask_at, fill_at))
        if not (isinstance(scores, fx.Node) and isinstance(mask, fx.Node)) or number_of(fill) is None:
            return None
        return None if number_of(scores) is not None else cls(node, scores, mask, mask_at, fill_at, tells_seen)

    @property
    def given(self) -> Any:
        """The score that a hidden key gets, as the node is given it: a number, or a node that makes a tensor of one."""
        return argument_of(self.node, self.fill_at)

    @property
    def fill(self) -> float:
        """That number."""
        number = number_of(self.given)
        assert number is not None
        return number

    @property
    def made(self) -> list[fx.Node]:
        """What makes a tensor of the number from the scores, as `full_like` does."""
        return [self.given] if isinstance(self.given, fx.Node) and inputs_of(self.given) else []


def number_of(argument: Any) -> float | None:
    """The number that an argument is, or that a tensor is made of; None if it is neither."""
    if isinstance(argument, fx.Node) and name_of(argument) in CONSTANTS:
        argument = argument_of(argument, CONSTANTS[name_of(argument)])
    return argument if isinstance(argument, int | float) else None


@dataclass(frozen=True)
class WrittenOut:
    """One attention.

    Attributes:
        nodes: what computes it from the factors, in execution order; the last gives the result.
        query, key, value: what makes the factors: in their `layout` (B, H, N, K) and twice (B, H, M, K), or (B H, N, K)
            and such.
        bias: what is added to the scores, of a shape that can be expanded to theirs; None if nothing is.
        hiding: what hides keys from queries; None if nothing does.
        layout: of each of these, and of the result.
    """

    nodes: tuple[fx.Node, ...]
    query: fx.Node
    key: fx.Node
    value: fx.Node
    bias: fx.Node | None = None
    hiding: Hiding | None = None
    layout: Layout = PLAIN_LAYOUT

    @property
    def shapes(self) -> list[tuple[int, ...]]:
        """Those of query, key, value and result, were they laid out as (B, H, N, K)."""
        nodes = (self.query, self.key, self.value, self.nodes[-1])
        return [_swapped(shape_of(node), swap) for node, swap in zip(nodes, self.layout, strict=True)]

    def readers(self, factor: fx.Node) -> Iterator[tuple[fx.Node, str]]:
        """Which of the nodes read `factor`, and by which position or name they do."""
        for node in self.nodes:
            for name, argument in (*enumerate(node.args), *node.kwargs.items()):
                if argument is factor:
                    yield node, str(name)


def _swapped(sizes: tuple[int, ...], swap: Swapped) -> tuple[int, ...]:
    if swap is None:
        return sizes
    changed, (first, second) = list(sizes), swap
    changed[first], changed[second] = sizes[second], sizes[first]
    return tuple(changed)
