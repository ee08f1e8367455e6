"""The bytes of tensors, however they lie in memory."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from surgery.raw import raw_bytes
from surgery.store.shard import content_of
from surgery.training.checkpoint import digest

DTYPES = (torch.float32, torch.bfloat16, torch.int64, torch.bool)


@given(st.lists(st.integers(0, 4), max_size=3), st.sampled_from(DTYPES), st.booleans(), st.booleans())
def test_strides_make_no_difference(shape: list[int], dtype: torch.dtype, turned: bool, expanded: bool) -> None:
    tensor = torch.arange(torch.Size(shape).numel()).reshape(shape).to(dtype)
    if turned and shape:
        tensor = tensor.permute(*reversed(range(tensor.ndim)))
    if expanded:
        tensor = tensor.flatten()[:1].sum().to(dtype).expand(1, *shape)
    plain = torch.tensor(tensor.tolist(), dtype=dtype).reshape(tensor.shape)
    assert bytes(raw_bytes(tensor)) == bytes(raw_bytes(plain))
    assert len(raw_bytes(tensor)) == tensor.nbytes
    assert content_of(tensor) == content_of(plain)
    assert digest({"x": tensor}) == digest({"x": plain})


def test_what_lies_so_already_is_not_copied() -> None:
    tensor = torch.zeros(3)
    raw_bytes(tensor)[:] = bytes(range(12))
    assert tensor.view(torch.uint8).tolist() == list(range(12))


@pytest.mark.parametrize("size", [(), (1,), (1, 1)])
def test_a_single_element_of_an_expanded_tensor(size: tuple[int, ...]) -> None:
    assert bytes(raw_bytes(torch.tensor(2.0).expand(size))) == bytes(raw_bytes(torch.tensor([2.0])))
