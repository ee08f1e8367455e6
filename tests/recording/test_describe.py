"""What tells two values apart: a description is equal for equal values, and differs where it must."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from torch.nn.attention.flex_attention import create_block_mask

from surgery.recording.describe import DEEPEST
from surgery.recording.guard import layout
from surgery.recording.signature import leaf_kind
from surgery.recording.state import describe

plain = st.none() | st.booleans() | st.integers(-3, 3) | st.sampled_from([0.5, "a", torch.float16, slice])
tensors = st.builds(
    lambda shape, dtype: torch.zeros(shape, dtype=dtype),
    st.lists(st.integers(1, 3), max_size=3),
    st.sampled_from([torch.float32, torch.int64]),
)
values = st.recursive(
    plain | tensors | st.frozensets(st.integers(0, 2) | st.booleans()),
    lambda inner: st.lists(inner, max_size=2) | st.tuples(inner) | st.dictionaries(st.sampled_from("ab"), inner),
    max_leaves=4,
)


def facts(value: Any) -> Any:
    """`value` with tensors by shape and dtype, and every type beside the value: what `describe` is to tell, spelt out."""
    if isinstance(value, torch.Tensor):
        return "tensor", tuple(value.shape), value.dtype
    if isinstance(value, dict):
        return "dict", list(map(facts, value.items()))
    if isinstance(value, frozenset):
        return "set", sorted(map(repr, value))
    return type(value), list(map(facts, value)) if isinstance(value, list | tuple) else value


def resized(value: Any) -> Any:
    """`value` with other sizes: what a layout must not tell."""
    if isinstance(value, torch.Tensor):
        return value.new_zeros([size + 1 for size in value.shape])
    if isinstance(value, dict):
        return {key: resized(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(map(resized, value))
    return value + 1 if isinstance(value, int | float) and not isinstance(value, bool) else value


@given(values, values)
@example([True], [1])
@example({"a": 1}, {"a": 1.0})
def test_state_tells_values_apart_exactly_where_they_differ(a: Any, b: Any) -> None:
    assert (describe(a) == describe(b)) == (facts(a) == facts(b))
    assert describe(a) == describe(copy.deepcopy(a))


@given(values)
def test_a_layout_holds_at_other_sizes(value: Any) -> None:
    assert layout(value) == layout(resized(value))


@given(values, values)
def test_a_layout_tells_structure_and_constants(a: Any, b: Any) -> None:
    pair = (layout([a, "x"]), layout([b, "x"]))
    if layout(a) != layout(b):
        assert pair[0] != pair[1]
    assert layout([a]) != layout((a,))
    assert layout({"k": a}) != layout({"l": a})


@pytest.mark.parametrize("pair", [(True, 1), (1, 1.0), ({1}, {True}), ([1], (1,)), (torch.zeros(2), torch.zeros(3))])
def test_what_looks_equal_is_told_apart_in_state(pair: tuple[Any, Any]) -> None:
    assert describe(pair[0]) != describe(pair[1])


def test_a_signature_tells_kinds_and_not_values():
    assert leaf_kind(2) == leaf_kind(3) != leaf_kind(2.0)
    assert leaf_kind(True) not in (leaf_kind(False), leaf_kind(1))
    assert leaf_kind(torch.device("cpu")) == leaf_kind(torch.device("meta"))
    assert leaf_kind(torch.zeros(2)) == leaf_kind(torch.zeros(3)) != leaf_kind(torch.zeros(2, 2))
    assert leaf_kind(torch.float16) != leaf_kind(torch.float32)


def test_masks_of_other_lengths_are_other_masks():
    short, long = (create_block_mask(lambda b, h, q, k: q >= k, 1, 1, n, n, device="cpu") for n in (128, 256))
    for tell in (describe, leaf_kind):
        assert tell(short) != tell(long)


def test_objects_are_told_by_their_attributes_as_deep_as_it_goes():
    class Cache:
        def __init__(self, inner: Any) -> None:
            self.inner = inner

    def nested(value: Any, depth: int) -> Any:
        return value if not depth else [nested(value, depth - 1)]

    assert describe(Cache(1)) != describe(Cache(2))
    assert layout(Cache(1)) == layout(Cache(2))  # reads of its attributes are guarded themselves
    assert describe(nested(1, DEEPEST)) != describe(nested(2, DEEPEST))
    assert layout(nested("a", 3 * DEEPEST)) != layout(nested("b", 3 * DEEPEST))
