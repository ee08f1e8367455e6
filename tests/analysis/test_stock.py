"""Subclasses of torch's modules: those that change nothing of a call are what they inherit from."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import surgery
from surgery.recording.stock import stock_class
from surgery.rules import mlp_ratio


class Small(nn.Linear):
    """Another start only, and an attribute of its own."""

    kind = "small"

    def reset_parameters(self) -> None:
        nn.init.normal_(self.weight, std=0.1)
        nn.init.zeros_(self.bias)

    def norm(self) -> Tensor:
        return self.weight.norm()


class Doubled(nn.Linear):
    def forward(self, input: Tensor) -> Tensor:
        return 2 * super().forward(input)


class Called(nn.Linear):
    def __call__(self, input: Tensor) -> Tensor:
        return 2 * super().__call__(input)


class Computed(nn.Linear):
    @property
    def scale(self) -> int:
        return 2


class Block(nn.Module):
    def __init__(self, linear: type[nn.Linear]) -> None:
        super().__init__()
        self.up, self.down = linear(8, 16), linear(16, 8)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(nn.functional.gelu(self.up(x)))


def test_what_is_stock() -> None:
    assert stock_class(Small) is stock_class(nn.Linear) is nn.Linear
    assert [stock_class(cls) for cls in (Doubled, Called, Computed, Block, nn.Module)] == 5 * [None]
    assert stock_class(type("More", (Small,), {})) is nn.Linear
    assert stock_class(type("Late", (Doubled,), {})) is None


@pytest.mark.parametrize("linear", [nn.Linear, Small])
def test_mlps_of_a_subclass_are_widened(linear: type[nn.Linear]) -> None:
    model, x = nn.Sequential(Block(linear), Block(linear)).eval(), torch.randn(2, 3, 8)
    student = surgery.rewrite(model, [mlp_ratio(3)], {"input": x})
    assert student[0].up.out_features == 24
    torch.testing.assert_close(student(x), model(x))
