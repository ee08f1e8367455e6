"""`int` and `float` in the code of a model, which has some of them itself, as types and as dtypes."""

from __future__ import annotations

import torch
from torch import Tensor, nn

import surgery
from tests.tracing.test_exact import assert_same


class Net(nn.Module):
    def __init__(self, patch: int | tuple[int, int]) -> None:
        super().__init__()
        self.patch = patch

    def forward(self, x: Tensor) -> Tensor:
        tall, wide = (self.patch,) * 2 if type(self.patch) is int else self.patch
        side = int(x.shape[1] ** 0.5)
        steps = torch.arange(side, device=x.device).to(int) + torch.ones(side, dtype=int, device=x.device)
        return x[:, :side] * steps[:, None] * tall + wide + int("11", base=2)


def test_a_model_that_asks_whether_something_is_an_int() -> None:
    for patch in (2, (2, 3)):
        model = Net(patch)
        traced = surgery.trace(model, {"x": torch.randn(1, 16, 3)}).module()
        for tokens in (16, 17, 25):
            x = torch.randn(2, tokens, 3)
            assert_same(traced(x=x), model(x=x))


class AsksForTypes(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.map = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.shape[1]
        return self.map(x) * (tokens if type(tokens) is int and isinstance(tokens, int) else -1)


def test_code_that_asks_for_the_type_of_a_size_gets_a_bare_one():
    model = AsksForTypes().eval()
    traced = surgery.trace(model, {"x": torch.randn(2, 6, 4)}).module()
    for tokens in (6, 9):
        x = torch.randn(2, tokens, 4)
        assert torch.equal(traced(x=x), model(x=x))
