"""Tells how many features inputs have from what the layers that they reach say."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

# Inputs of unknown width are given these: primes so far apart that sums and multiples of them tell which they are of.
MARKS = (1009, 1117, 1223, 1327, 1429, 1531, 1637, 1741, 1847, 1949, 2053, 2161, 2267, 2371, 2473, 2579, 2683, 2789)
REST = 64  # at most this many features of known width stand beside those of unknown width


def solve(pairs: Sequence[tuple[int, int]], marks: Mapping[str, int]) -> dict[str, int]:
    """The widths by name of inputs of which a layer was `given` features where it `expected` another number.

    Args:
        pairs: given and expected numbers of features, any of which may be the one that tells.
        marks: by name, the stand-ins for the widths that are still unknown.
    """
    for rule in (_one, _two, _part):
        for given, expected in pairs:
            found = rule(given, expected, marks)
            if found:
                return found
    return {}


def _one(given: int, expected: int, marks: Mapping[str, int]) -> dict[str, int]:
    """The layer is given one input, perhaps as patches."""
    for name, mark in marks.items():
        times, rest = divmod(given, mark)
        if times and rest == 0 and expected >= times and expected % times == 0:
            return {name: expected // times}
    return {}


def _two(given: int, expected: int, marks: Mapping[str, int]) -> dict[str, int]:
    """The layer is given two inputs side by side: any split of what it expects will do."""
    for (first, mark), (second, other) in itertools.combinations(marks.items(), 2):
        if given == mark + other and expected > 1:
            return {first: expected // 2, second: expected - expected // 2}
    return {}


def _part(given: int, expected: int, marks: Mapping[str, int]) -> dict[str, int]:
    """The layer is given an input beside known features."""
    for name, mark in marks.items():
        times, rest = divmod(given, mark)
        if times and rest < min(expected, REST) and (expected - rest) % times == 0:
            return {name: (expected - rest) // times}
    return {}
