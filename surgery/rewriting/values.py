"""The language of values.

Values of the matched nodes and of new calls are written as they would be in code: `b` is the result of the node that the
pattern calls `b`, `b[1]` an item of it, `b(hidden_states)` what that node is called with; of a function, `b(0)` is its
first positional argument; of an operator made of several nodes, `b(input)` is the one tensor that flows in. Of a tensor,
`b.transpose(1, 2)` has two axes in each other's place.
"""

from __future__ import annotations

import re
from functools import cache
from typing import Annotated, NamedTuple

from pydantic import AfterValidator

from surgery.errors import RewriteError

Items = tuple[int | str, ...]
"""Keys that lead into a result, the outermost first."""

_VALUE = re.compile(
    r"(?P<name>\w+)(\((?P<argument>\w+)\))?(?P<items>(\[\w+\])*)(\.transpose\((?P<first>-?\d+), (?P<second>-?\d+)\))?"
)


def _checked(value: str) -> str:
    if not _VALUE.fullmatch(value):
        raise RewriteError(
            f"{value!r} is no value; write b, b[1], b(hidden_states) or b.transpose(1, 2) for a node called b"
        )
    return value


Value = Annotated[str, AfterValidator(_checked)]


class Parsed(NamedTuple):
    """The node's name, the argument's name or None, items, and the axes that are swapped or None."""

    name: str
    argument: str | None
    items: Items
    swapped: tuple[int, int] | None


@cache
def parse(value: str) -> Parsed:
    """The parts that a value is written with."""
    found = _VALUE.fullmatch(value)
    assert found is not None
    items = re.findall(r"\[(\w+)\]", found["items"])
    swapped = (int(found["first"]), int(found["second"])) if found["first"] else None
    return Parsed(found["name"], found["argument"], tuple(int(i) if i.isdigit() else i for i in items), swapped)


def transposed(value: str, axes: tuple[int, int] | None) -> str:
    """How the value is written with these two axes in each other's place: done twice, as it was; None leaves it."""
    if axes is None:
        return value
    swapped = parse(value).swapped
    return value.partition(".")[0] if swapped == axes else f"{value}.transpose({axes[0]}, {axes[1]})"
