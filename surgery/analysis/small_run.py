"""Running a part of a graph on few samples and tokens, with values of any kind."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor, fx

from surgery.analysis.numbers import At, Number, with_numbers
from surgery.analysis.roles.flow import Flow, ScopedNode
from surgery.analysis.roles.primitives import name_of, tensors


class SmallRun(ABC):
    """Finds what is at a place from what leads to it; subclasses say what stands for a tensor, and where it begins.

    Args:
        flow: of the model.
        prefix: the traced sizes of samples and tokens.
        numbers: whole numbers that take the places of others.

    Attributes:
        known: what was found.
        few_sizes: samples and tokens that are tried.
    """

    few_sizes = (2, 3, 4, 5)

    def __init__(self, flow: Flow, prefix: tuple[int, ...], numbers: Iterable[Number] = ()) -> None:
        self.known: dict[ScopedNode, Any] = {}
        self._flow, self._prefix = flow, prefix
        self._numbers: dict[fx.Node, list[tuple[At, int]]] = {}
        for number in numbers:
            self._numbers.setdefault(number.node, []).append((number.at, number.value))

    @abstractmethod
    def given(self, place: ScopedNode) -> Any:
        """What is at a place where the run begins; None elsewhere."""

    @abstractmethod
    def call(self, place: ScopedNode, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """What the node at `place` gives for these values."""

    def value(self, place: ScopedNode) -> Any:
        """What is at `place`."""
        if place not in self.known:
            self.known[place] = self._found(place)
        return self.known[place]

    def _found(self, place: ScopedNode) -> Any:
        """See `value`."""
        path, node = place
        given = self.given(place)
        if given is not None:
            return given
        above = self._flow.above(place)
        if len(above) == 1 and above[0][0] != path and tensors(node):  # an argument of a scope, or its result
            return self.value(above[0])
        if node.op in ("placeholder", "get_attr", "output") or self._flow.entered(place) is not None:
            return node.meta["val"]
        args, kwargs = with_numbers(node, self._numbers.get(node, ()))
        args = fx.node.map_arg(args, lambda n: self.value((path, n)))
        kwargs = fx.node.map_arg(kwargs, lambda n: self.value((path, n)))
        return self.call(place, args, kwargs)

    def few(self, shape: Iterable[int]) -> tuple[int, ...]:
        """`shape`, but of few samples and tokens."""
        sizes = list(shape)
        pairs = zip(sizes, self._prefix, self.few_sizes, strict=False)
        small = [new if size == old != 1 else size for size, old, new in pairs]
        return (*small, *sizes[len(small) :])


def evaluated(node: fx.Node, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """What the function or method of `node` gives."""
    if node.op == "call_method":
        return getattr(args[0], str(node.target))(*args[1:], **kwargs)
    return node.target(*args, **kwargs)  # type: ignore[operator]


def is_written(node: fx.Node) -> bool:
    """Whether parts of the result of `node` are written afterwards."""
    return any(name_of(user) == "setitem" and user.args[0] is node for user in node.users)


def is_tensor(node: fx.Node) -> bool:
    """Whether `node` gives a single tensor."""
    return isinstance(node.meta.get("val"), Tensor)
