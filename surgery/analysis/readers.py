"""What reads the result of a node."""

from __future__ import annotations

import operator
from collections.abc import Sequence

from torch import fx

from surgery.analysis.roles.primitives import SPLITS, is_layout, name_of, tensors
from surgery.recording.guard import layout, require


def takes(user: fx.Node, node: fx.Node, item: int | str) -> bool:
    """Whether `user` takes `item` out of the result of `node`."""
    return user.target is operator.getitem and user.args[0] is node and user.args[1] == item


def items_of(node: fx.Node, items: Sequence[int | str]) -> list[fx.Node]:
    """The nodes that hold what `items` lead to in the result of `node`."""
    nodes = [node]
    for item in items:
        nodes = [user for node in nodes for user in node.users if takes(user, node, item)]
    return nodes


def is_guard(node: fx.Node) -> bool:
    """Whether `node` only checks something."""
    return node.target in (layout, require)


def is_view(node: fx.Node) -> bool:
    """Whether `node` may go when nothing reads it."""
    return is_layout(node) or name_of(node) in SPLITS | {"size", "getattr"}


def asks(node: fx.Node) -> bool:
    """Whether `node` gives no tensor, and what it gives is for guards only, such as whether a gradient is needed."""
    return bool(node.users) and not tensors(node) and not readers_of(node)


def readers_of(node: fx.Node) -> list[fx.Node]:
    """What reads `node`: no guards, nothing that only asks for them, and no views that nothing reads."""
    users = [user for user in node.users if not is_guard(user) and not asks(user)]
    return [user for user in users if not is_view(user) or readers_of(user)]
