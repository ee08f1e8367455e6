"""One tensor given twice is another call than two tensors."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import surgery
from surgery.operators import FullAttention
from surgery.rules import replace_attention


class Up(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(16, 8)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        return self.linear(torch.cat([x, skip], -1)).tanh()


class Attention(nn.Module):
    """Self-attention if it is given the same tokens twice."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.kv = nn.Linear(8, 8), nn.Linear(8, 16)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        k, v = self.kv(context)[:, None].chunk(2, -1)
        return F.scaled_dot_product_attention(self.q(x)[:, None], k, v)[:, 0]


class Twice(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor, other: Tensor) -> Tensor:
        return self.inner(self.inner(x, x), other)


@pytest.mark.parametrize(("inner", "tokens"), [(Up, 4), (Attention, 4), (Attention, 3)])
@torch.no_grad()
def test_a_module_called_with_one_tensor_and_then_with_two(inner: type[nn.Module], tokens: int) -> None:
    model = Twice(inner()).eval()
    inputs = {"x": torch.randn(2, 4, 8), "other": torch.randn(2, tokens, 8)}
    traced = surgery.trace(model, inputs).module()
    assert torch.equal(traced(**inputs), model(**inputs))
    same = {"x": inputs["x"], "other": inputs["x"]}
    assert torch.equal(traced(**same), model(**same))


def test_its_student() -> None:
    model = Twice(Attention()).eval()
    inputs = {"x": torch.randn(2, 4, 8), "other": torch.randn(2, 3, 8)}
    student = surgery.rewrite(model, [replace_attention(FullAttention())], inputs)
    torch.testing.assert_close(student(**inputs), model(**inputs))
