"""Running sums: all that is kept of what a model computes."""

from __future__ import annotations

from collections import defaultdict

from surgery.errors import AnalysisError

LARGEST = "largest"
"""Ends the names of the figures that are the largest of all values, not their mean."""


class Sums:
    """Means of figures over all forwards, two numbers for each.

    What one forward gives counts when it has come to its end: see `keep` and `drop`.
    """

    def __init__(self) -> None:
        self._sums: dict[tuple[str, str], list[float]] = {}
        self._pending: list[tuple[str, str, float, float]] = []

    def add(self, path: str, name: str, value: float, weight: float = 1.0) -> None:
        """Note `value` of the figure `name` of what is at `path`."""
        self._pending.append((path, name, value, weight))

    def keep(self) -> None:
        """Count what was noted since the last forward."""
        for path, name, value, weight in self._pending:
            if value != value:
                raise AnalysisError(
                    f"{path}: its {name} is not a number, as the model computes with numbers that are none"
                )
            known = self._sums.setdefault((path, name), [0.0, 0.0])
            if name.endswith(LARGEST):
                known[:] = max(known[0], value), 1.0
            else:
                known[0] += weight * value
                known[1] += weight
        self._pending.clear()

    def drop(self) -> None:
        """Forget what was noted since the last forward, which failed."""
        self._pending.clear()

    def __len__(self) -> int:
        """How many numbers are held."""
        return sum(map(len, self._sums.values())) + len(self._pending)

    def figures(self) -> dict[str, dict[str, float]]:
        """The means by path and name."""
        found: dict[str, dict[str, float]] = defaultdict(dict)
        for (path, name), (total, weight) in self._sums.items():
            found[path][name] = total / weight
        return dict(found)
