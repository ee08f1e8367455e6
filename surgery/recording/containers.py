"""Lists and dicts among the arguments of the model's forward that hold something else when it ends."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from surgery.recording.torch_private import pytree

Container = list[Any] | dict[Any, Any]


@dataclass(frozen=True)
class ContainerChange:
    """What a forward does to one container.

    Attributes:
        path: keys that lead to the container, the first being the argument's name.
        keys: the keys, or indices, that it has afterwards, in their order.
        spec: structure of the new items by key; all others stay.
    """

    path: tuple[Any, ...]
    keys: tuple[Any, ...]
    spec: pytree.TreeSpec

    def apply(self, arguments: Mapping[str, Any], leaves: Sequence[Any]) -> None:
        """Change the container among `arguments` in place; `leaves` are those of the new items."""
        container: Any = arguments
        for key in self.path:
            container = container[key]
        items = dict(keyed_items(container)) | pytree.tree_unflatten(leaves, self.spec)
        if isinstance(container, dict):
            container.clear()
            container.update((key, items[key]) for key in self.keys)
        else:
            container[:] = [items[key] for key in self.keys]


def keyed_items(container: Container) -> list[tuple[Any, Any]]:
    """The items of a dict, and those of a list by their index."""
    return list(container.items()) if isinstance(container, dict) else list(enumerate(container))


def change_of(
    path: tuple[Any, ...], container: Container, before: Container
) -> tuple[ContainerChange, list[Any]] | None:
    """How `container` differs from what it was `before`, with the leaves of its new items; None if it does not."""
    old, now = dict(keyed_items(before)), dict(keyed_items(container))
    new = {key: item for key, item in now.items() if key not in old or old[key] is not item}
    if not new and list(old) == list(now):
        return None
    leaves, spec = pytree.tree_flatten(new)
    return ContainerChange(path, tuple(now), spec), leaves
