"""Lists and dicts that a forward is given while it is recorded, which it may change."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

from surgery.errors import TraceError
from surgery.recording.containers import Container, ContainerChange, change_of


class LentContainers:
    """Remembers what was in them.

    Args:
        borrower: who got them, in words.
    """

    def __init__(self, borrower: str) -> None:
        self._borrower = borrower
        self._lent: list[tuple[str, tuple[Any, ...], Container, Container]] = []

    def lend(self, text: str, container: Container, path: tuple[Any, ...] = ()) -> None:
        """Remember what is in `container`, called `text` in messages; see `changes` for `path`."""
        self._lent.append((text, path, container, copy.copy(container)))

    def changes(self) -> Iterator[tuple[ContainerChange, list[Any]]]:
        """What has changed since, with the leaves of the new items, by the path among the arguments.

        Raises:
            TraceError: a container that has no path has changed, so that a graph could not say which it is.
        """
        for text, path, container, before in self._lent:
            change = change_of(path, container, before)
            if change is not None and not path:
                kind = type(container).__name__
                raise TraceError(
                    f"{self._borrower} changes the {kind} {text} in place; let it make a new {kind} instead"
                )
            if change is not None:
                yield change
