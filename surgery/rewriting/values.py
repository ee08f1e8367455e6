"""The language of values.

Values of the matched nodes and of new calls are written as they would be in code: `b` is the result of the node that the
pattern calls `b`, `b[1]` an item of it, `b(hidden_states)` what that node is called with; of a function, `b(0)` is its
first positional argument; of an operator made of several nodes, `b(input)` is the one tensor that flows in.
"""

from __future__ import annotations

import re
from functools import cache
from typing import Annotated

from pydantic import AfterValidator

from surgery.errors import RewriteError

Items = tuple[int | str, ...]
"""Keys that lead into a result, the outermost first."""

_VALUE = re.compile(r"(?P<name>\w+)(\((?P<argument>\w+)\))?(?P<items>(\[\w+\])*)")


def _checked(value: str) -> str:
    if not _VALUE.fullmatch(value):
        raise RewriteError(f"{value!r} is no value; write b, b[1] or b(hidden_states) for a node called b")
    return value


Value = Annotated[str, AfterValidator(_checked)]


@cache
def parse(value: str) -> tuple[str, str | None, Items]:
    """The node's name, the argument's name or None, and the items that a value is written with."""
    found = _VALUE.fullmatch(value)
    assert found is not None
    items = re.findall(r"\[(\w+)\]", found["items"])
    return found["name"], found["argument"], tuple(int(i) if i.isdigit() else i for i in items)
