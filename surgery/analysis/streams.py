"""The token streams of a block: which of its results goes on with which of its arguments."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from torch import fx

from surgery.analysis.entries import entries_of
from surgery.analysis.roles.primitives import shape_of, tensors
from surgery.analysis.roles.structure import Structure
from surgery.recording.recording import Recording
from surgery.recording.torch_private import pytree


@dataclass(frozen=True)
class Stream:
    """One stream of tokens through a block.

    Attributes:
        argument: name of the argument that it enters by.
        items: where it leaves: keys into the result, none if the result is the stream itself.
        shape: of its tokens, (B, N, D) or the like, on the traced inputs.
    """

    argument: str
    items: tuple[int | str, ...]
    shape: tuple[int, ...]

    def result(self, name: str) -> str:
        """The stream as the result of the node `name`, as rules write it."""
        return name + "".join(f"[{item}]" for item in self.items)

    def entry(self, name: str) -> str:
        """The stream as what the node `name` gets, as rules write it."""
        return f"{name}({self.argument})"


def find_streams(structure: Structure, path: str) -> tuple[Stream, ...] | None:
    """The streams of the scope at `path`; None if some result goes on with no argument, or it is not clear with which."""
    recording = structure.flow.scopes[path].recordings[0]
    entries = entries_of(structure.flow.scopes[path].module_class, recording)
    found = []
    for items, node in _results(recording):
        sources = structure.streams({(path, node)}, path)
        names = [entries[n] for _, n in sources if n in entries and shape_of(n) == shape_of(node)]
        if len(names) != 1:
            return None
        found.append(Stream(names[0], items, shape_of(node)))
    distinct = {stream.argument for stream in found}
    return tuple(found) if found and len(distinct) == len(found) else None


def _results(recording: Recording) -> Iterator[tuple[tuple[int | str, ...], fx.Node]]:
    """The tensors in the result, with the keys that lead to them."""
    output = next(iter(recording.graph.find_nodes(op="output")))
    leaves = output.args[0][: recording.out_spec.num_leaves]
    result = pytree.tree_unflatten(leaves, recording.out_spec)
    named, _ = pytree.tree_flatten_with_path(result)
    for keys, leaf in named:
        if isinstance(leaf, fx.Node) and tensors(leaf):
            yield tuple(_items(result, keys)), leaf


def _items(value: Any, keys: Sequence[Any]) -> Iterator[int | str]:
    """What leads into `value`, of a named tuple its positions."""
    for key in keys:
        name = getattr(key, "name", None)
        item: int | str = getattr(key, "idx", getattr(key, "key", "")) if name is None else value._fields.index(name)
        yield item
        value = value[item]
