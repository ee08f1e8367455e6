"""What matched nodes are called with: an edit is made to other ways through a forward only where they give them the same.

A scale, a causal flag or a mask may be others on another branch, of which what takes the place of a node does not know.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import fx

from surgery.analysis.arguments import bound_arguments
from surgery.analysis.roles.primitives import name_of
from surgery.errors import RewriteError
from surgery.recording.recording import Scope
from surgery.rewriting.replacement import New, Rewiring
from surgery.rewriting.values import parse

Nodes = Mapping[str, Sequence[fx.Node]]
Given = tuple[dict[str, str], ...]
"""The arguments of each node of a matched operator: constants as Python writes them, tensors by who reads them first."""


def given_to(scopes: Mapping[str, Scope], scope: str, nodes: Nodes) -> dict[str, Given]:
    """What each of the matched `nodes` of a scope is called with, by the names of the pattern."""
    made = {node: name for name, group in nodes.items() for node in group}
    seen: dict[fx.Node, str] = {}

    def word(value: Any, where: str) -> str:
        if isinstance(value, fx.Node):
            is_tensor = isinstance(value.meta.get("val"), torch.Tensor)
            return made.get(value) or seen.setdefault(value, where if is_tensor else computed(value))
        if isinstance(value, tuple | list):
            return f"({', '.join(word(item, where) for item in value)})"
        if isinstance(value, slice):
            return word((value.start, value.stop, value.step), where)
        return repr(value) if isinstance(value, bool | int | float | str | None) else "..."

    def computed(number: fx.Node) -> str:
        """How a number is, up to the sizes of tensors."""
        if any(isinstance(source.meta.get("val"), torch.Tensor) for source in number.all_input_nodes):
            return "a size"
        return f"{name_of(number)}{word(number.args, '')}"

    def words(name: str, node: fx.Node) -> dict[str, str]:
        return {key: word(value, f"{name}({key})") for key, value in bound_arguments(scopes, scope, [node]).items()}

    return {name: tuple(words(name, node) for node in group) for name, group in nodes.items()}


def taken_place_of(rewiring: Rewiring, names: Iterable[str]) -> set[str]:
    """Those of the matched nodes that go because new operators do what they did."""
    if not any(isinstance(new, New) for new in rewiring.modules.values()):
        return set()
    again = {name for call in rewiring.calls for name in (call.module, call.like)}
    return set(names) - again - rewiring.read - set(rewiring.keeps)


def require_same(rewiring: Rewiring, planned: Mapping[str, Given], now: Mapping[str, Given], nodes: Nodes) -> None:
    """Raise RewriteError if one of `nodes` that is replaced is called with something else than when the edit was planned.

    What the new calls read they have in either case.
    """
    values = [parse(value) for call in rewiring.calls for value in call.arguments.values()]
    read = {(value.name, value.argument) for value in values}

    def said(word: str, own: str) -> str:
        if word == own:
            return "another tensor"
        owner, _, argument = word.partition("(")
        if owner not in nodes:
            return word
        callee = _callee(nodes[owner][0])
        return f"what {callee} is given as {argument[:-1]}" if argument else f"the result of {callee}"

    for name, groups in planned.items():
        for node, before, after in zip(nodes[name], groups, now[name], strict=True):
            for key in sorted({*before, *after} - {argument for owner, argument in read if owner == name}):
                was, is_now = (said(given.get(key, "nothing"), f"{name}({key})") for given in (before, after))
                if was != is_now:
                    where = f"argument {key}" if key.isdigit() else key
                    raise RewriteError(
                        f"{_callee(node)} is given {is_now} as {where} on this way through, "
                        f"and {was} where the edit was planned"
                    )


def _callee(node: fx.Node) -> str:
    return name_of(node) or str(node.target)
