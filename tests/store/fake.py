"""Sources for stores, and what their samples are made of."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor
from torch.utils import _pytree as pytree

from surgery.store import Sample, Skipped

DTYPES = [torch.float32, torch.bfloat16, torch.uint8, torch.int64, torch.bool, torch.float16, torch.float64]


class Made:
    """A source that makes its samples with a function of the number, and notes which it was asked for."""

    def __init__(self, count: int, make: Callable[[int], Sample]) -> None:
        self.count, self.make = count, make
        self.asked: list[int] = []

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, number: int) -> Sample:
        self.asked.append(number)
        return self.make(number)


def plain(number: int) -> Sample:
    """Latents of two shapes; conditions of three kinds; every seventh sample is skipped."""
    if number % 7 == 6:
        raise Skipped(f"{number}.png: is no image")
    generator = torch.Generator().manual_seed(number)
    latents = torch.randn(2, 3, 4 + number % 2, generator=generator)
    return Sample(latents, {"text": torch.full((5, 2), float(number % 3)), "size": (number % 2, 8)})


@st.composite
def tensors(draw: st.DrawFn) -> Tensor:
    """Tensors of any bits, NaN of all sorts included, some with gaps in memory."""
    dtype = draw(st.sampled_from(DTYPES))
    shape = draw(st.lists(st.integers(0, 3), max_size=3))
    count = torch.Size(shape).numel() * dtype.itemsize
    content = torch.tensor(list(draw(st.binary(min_size=count, max_size=count))), dtype=torch.uint8)
    tensor = (content % 2 if dtype == torch.bool else content).view(dtype).reshape(shape)
    return tensor.mT if len(shape) > 1 and draw(st.booleans()) else tensor


constants = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
    | st.sampled_from([torch.bfloat16, torch.int64, torch.device("cpu"), torch.device("cuda:1")])
)  # fmt: skip
conditions = st.recursive(
    tensors() | constants,
    lambda inside: st.lists(inside, max_size=3) | st.tuples(inside, inside)
    | st.dictionaries(st.text(max_size=5), inside, max_size=3),
    max_leaves=8,
)  # fmt: skip
samples = st.lists(st.builds(Sample, tensors(), conditions), min_size=1, max_size=6)


def same(a: Any, b: Any) -> bool:
    """Whether two nested values are equal in kind and to the bit."""
    leaves_a, tree_a = pytree.tree_flatten(a)
    leaves_b, tree_b = pytree.tree_flatten(b)
    return tree_a == tree_b and all(map(_same_leaf, leaves_a, leaves_b))


def _same_leaf(a: Any, b: Any) -> bool:
    if not isinstance(a, Tensor):
        return type(a) is type(b) and repr(a) == repr(b)
    return a.dtype == b.dtype and a.shape == b.shape and bytes_of(a) == bytes_of(b)


def bytes_of(tensor: Tensor) -> bytes:
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes() if tensor.numel() else b""
