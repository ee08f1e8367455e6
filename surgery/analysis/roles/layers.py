"""Layers: the blocks that a model stacks."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping

from torch import fx, nn

from surgery.analysis.roles.primitives import ADDS, inputs_of, name_of, shape_of
from surgery.recording.paths import below, names_of, opened, outers, parent_and_name, relative
from surgery.recording.recording import Scope

ITEM = re.compile(r".*?\.\d+(?=\.|$)")
"""The first item of a list on a path: "layers.3" of "layers.3.attention"."""


def block_layers(scopes: Mapping[str, Scope], root: str = "") -> dict[str, int]:
    """The paths of the blocks of the model at `root`, numbered in execution order.

    Blocks are items of lists in which something is added to the stream: no norms, no projections. They are looked for in
    the forward of the root, and one module deeper at a time while there are none. What has the class of a block and is
    called beside it is a block too, whatever its name. In a model without such lists blocks are modules of one class that
    are called side by side and add something, and if there are none either, the items of any list.
    """
    return {path: number for number, path in enumerate(_blocks(scopes, root))}


def blocks_by_holder(scopes: Mapping[str, Scope], root: str = "") -> dict[str, frozenset[str]]:
    """For the scopes of the model at `root` that blocks stand in, by path, the paths of these blocks from there."""
    found: dict[str, set[str]] = defaultdict(set)
    for block in _blocks(scopes, root):
        for holder in ("", *outers(parent_and_name(block)[0])):
            if holder in scopes:
                found[holder].add(relative(block, holder))
    return {holder: frozenset(blocks) for holder, blocks in found.items()}


def layer_of(path: str, layers: Mapping[str, int]) -> int | None:
    """The number of the block that the module at `path` is or stands in."""
    while path and path not in layers:
        path, _ = parent_and_name(path)
    return layers.get(path)


def _blocks(scopes: Mapping[str, Scope], root: str) -> list[str]:
    """The paths of the blocks, in execution order; see `block_layers`."""
    without_sum = list[str]()
    for candidates in (_items, _repeated):
        level = [root]
        while level:
            found = [each for path in level for each in candidates(scopes, path)]
            adding = [each for each in found if each in scopes and _adds(scopes, each)]
            if adding:
                return _with_their_like(scopes, level, adding)
            without_sum = without_sum or found
            level = [inner for path in level for inner in _inside(scopes, path)]
    return without_sum


def _items(scopes: Mapping[str, Scope], path: str) -> list[str]:
    """The items of lists that the scope at `path` calls, or calls parts of; not those that are a single step."""
    calls = scopes[path].graph.find_nodes(op="call_module")
    found = (_item(scopes, path, str(node.target)) for node in calls if opened(scopes, path, node))
    return list(dict.fromkeys(below(path, item) for item in found if item is not None))


def _item(scopes: Mapping[str, Scope], path: str, name: str) -> str | None:
    """The item of a list that what the scope at `path` calls `name` is or stands in; None if it is in no list."""
    if _is_stack(scopes, path):  # whatever its items are called
        return names_of(name)[0]
    match = ITEM.match(name)
    return match[0] if match else None


def _is_stack(scopes: Mapping[str, Scope], path: str) -> bool:
    """Whether the scope at `path` is an `nn.Sequential` of modules of one kind."""
    if not issubclass(scopes[path].module_class, nn.Sequential):
        return False
    inside = [opened(scopes, path, node) for node in scopes[path].graph.find_nodes(op="call_module")]
    return len({each and _kind(scopes, each) for each in inside}) == 1 and None not in inside


def _repeated(scopes: Mapping[str, Scope], path: str) -> list[str]:
    """The modules that the scope at `path` calls of whose class it calls several."""
    inside = _inside(scopes, path)
    count = Counter(scopes[each].module_class for each in inside)
    return [each for each in inside if count[scopes[each].module_class] > 1]


def _inside(scopes: Mapping[str, Scope], path: str) -> list[str]:
    """The scopes that the one at `path` calls."""
    calls = scopes[path].graph.find_nodes(op="call_module")
    return list(dict.fromkeys(inner for node in calls if (inner := opened(scopes, path, node)) is not None))


def _adds(scopes: Mapping[str, Scope], path: str) -> bool:
    """Whether something is added to the stream in the scope at `path`; if it only stacks blocks, these do not count."""
    if any(_is_sum(node) for node in scopes[path].graph.nodes):
        return True
    inside = _inside(scopes, path)
    items = {each for each in inside if _item(scopes, path, relative(each, path))}
    of_one_kind = len({_kind(scopes, each) for each in items}) == 1  # else they are the sublayers of one block
    return any(_adds(scopes, each) for each in inside if not (of_one_kind and each in items))


def _kind(scopes: Mapping[str, Scope], path: str) -> tuple[object, ...]:
    """The class of the module at `path` and of what it calls: sublayers may have one class around different ones."""
    return scopes[path].module_class, *(_kind(scopes, each) for each in _inside(scopes, path))


def _is_sum(node: fx.Node) -> bool:
    """Whether `node` adds two tensors (B, N, D) or larger of one shape."""
    if name_of(node) not in ADDS:
        return False
    shape = shape_of(node)
    return len(shape) >= 3 and [shape_of(source) for source in inputs_of(node)] == [shape, shape]


def _with_their_like(scopes: Mapping[str, Scope], level: list[str], blocks: list[str]) -> list[str]:
    """The blocks, and the modules of their classes that are called in the same forwards, in execution order."""
    classes = {scopes[path].module_class for path in blocks}
    called: Iterator[str] = (inner for path in level for inner in _inside(scopes, path))
    return [path for path in called if path in blocks or scopes[path].module_class in classes]
