"""Sets that share elements come together, and no others."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from surgery.analysis.overlapping import overlapping

sets = st.lists(st.frozensets(st.integers(0, 12), max_size=3), max_size=8)


@given(sets)
def test_groups_share_nothing_and_cannot_be_parted(given_sets: list[frozenset[int]]) -> None:
    groups = overlapping(given_sets)
    assert sorted(number for group in groups for number in group) == list(range(len(given_sets)))
    unions = [frozenset().union(*(given_sets[number] for number in group)) for group in groups]
    assert all(not one & other for n, one in enumerate(unions) for other in unions[:n])
    for group in groups:
        reached, left = given_sets[group[0]], set(group[1:])
        while near := {number for number in left if given_sets[number] & reached}:
            reached, left = reached.union(*(given_sets[number] for number in near)), left - near
        assert not left


def test_sets_are_tied_by_others() -> None:
    assert overlapping([{1}, {2}, {3}, {2, 3}, set()]) == [[0], [1, 2, 3], [4]]
