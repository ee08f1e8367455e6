"""The one evaluator of values: `b`, `b[1]`, `b(hidden_states)` and such, see `surgery.rewriting.values`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from typing import Any

from surgery.errors import RewriteError
from surgery.rewriting.replacement import Call
from surgery.rewriting.values import parse
from surgery.rewriting.words import words


class Evaluator(ABC):
    """Evaluates values, and makes the calls of a rewiring, on whatever stands for a result.

    A subclass says what that is: nodes of a graph, meta tensors of the traced sizes, or activations.

    Attributes:
        made: the results of the calls made so far, by name.
    """

    def __init__(self) -> None:
        self.made: dict[str, Any] = {}

    @abstractmethod
    def result(self, name: str) -> Any:
        """The result of the matched node called `name`."""

    @abstractmethod
    def arguments(self, name: str) -> Mapping[str, Any]:
        """What the matched node called `name` is called with, by name."""

    @abstractmethod
    def where(self, name: str) -> str:
        """How messages call the node called `name`."""

    @abstractmethod
    def call(self, call: Call, given: dict[str, Any]) -> Any:
        """The result of `call`, whose own arguments are `given`."""

    def make(self, calls: Iterable[Call]) -> None:
        """Make `calls` in turn."""
        for call in calls:
            self.made[call.name] = self.call(call, {name: self.of(value) for name, value in call.arguments.items()})

    def of(self, value: str) -> Any:
        """What `value` is.

        Raises:
            RewriteError: the node has no such argument, or its result no such item.
        """
        name, argument, items, swapped = parse(value)
        if argument is not None:
            found = self._argument(name, argument)
        else:
            found = self.made[name] if name in self.made else self.result(name)
        for item in items:
            found = self.item(found, item, value)
        return found if swapped is None else self.transposed(found, swapped, value)

    def item(self, found: Any, item: int | str, value: str) -> Any:
        """The `item` of `found`, which `value` asks for."""
        try:
            if hasattr(found, "shape") and not isinstance(item, int):
                raise TypeError
            return found[item]
        except (LookupError, TypeError):
            where = self.where(parse(value)[0])
            raise RewriteError(
                f"{where}: its result has no item {item!r}, as {value} says; it is {words(found)}"
            ) from None

    def transposed(self, found: Any, axes: tuple[int, int], value: str) -> Any:
        """`found` with two axes in each other's place, as `value` asks for."""
        try:
            return found.transpose(*axes)
        except (AttributeError, IndexError):
            where = self.where(parse(value).name)
            raise RewriteError(f"{where}: {value} needs a tensor with such axes; it is {words(found)}") from None

    def _argument(self, name: str, argument: str) -> Any:
        arguments = self.arguments(name)
        if argument not in arguments:
            known = ", ".join(arguments) or "none"
            raise RewriteError(f"{self.where(name)} has no argument {argument!r}; it has {known}")
        return arguments[argument]
