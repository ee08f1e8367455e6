"""Masks that a forward makes itself: an operator that cannot use one is refused while the plan is made."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import surgery
from surgery.errors import MatchError
from surgery.operators import LinearAttention, SlidingWindow
from surgery.rules import replace_attention

OF_PAIRS = {
    "made": lambda m, x: torch.ones(x.shape[1], x.shape[1], dtype=torch.bool, device=x.device).tril(),
    "added": lambda m, x: torch.full((x.shape[1], x.shape[1]), float("-inf"), device=x.device).triu(1),
    "kept": lambda m, x: m.triangle[: x.shape[1], : x.shape[1]],
    "compared": lambda m, x: torch.arange(x.shape[1]).unsqueeze(1) >= torch.arange(x.shape[1]),
    "learned": lambda m, x: m.bias[: x.shape[1], : x.shape[1]],
}
OF_KEYS = {
    "first ones": lambda m, x: (torch.arange(x.shape[1], device=x.device) < 9).expand(x.shape[1], x.shape[1]),
    "learned": lambda m, x: m.bias[0, : x.shape[1]],
    "of the input": lambda m, x: (x.sum(2) > 0)[:, None, None],
}


class Block(nn.Module):
    """Attention under a mask of its own."""

    def __init__(self, mask) -> None:
        super().__init__()
        self.mask = mask
        self.qkv, self.out = nn.Linear(16, 48), nn.Linear(16, 16)
        self.register_buffer("triangle", torch.ones(32, 32, dtype=torch.bool).tril())
        self.bias = nn.Parameter(torch.zeros(32, 32))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (each.unflatten(2, (2, 8)).transpose(1, 2) for each in self.qkv(x).chunk(3, 2))
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=self.mask(self, x))
        return x + self.out(y.transpose(1, 2).flatten(2))


def planned(mask, operator):
    model = nn.Sequential(Block(mask), Block(mask))
    inputs = {"input": torch.randn(2, 12, 16)}
    return model, inputs, surgery.plan(model, [replace_attention(operator)], inputs)


@pytest.mark.parametrize("mask", OF_PAIRS)
def test_a_mask_of_pairs_is_for_operators_with_scores(mask):
    with pytest.raises(MatchError, match="differs between queries"):
        planned(OF_PAIRS[mask], LinearAttention())


@pytest.mark.parametrize("mask", OF_PAIRS)
def test_such_operators_run(mask):
    model, inputs, plan = planned(OF_PAIRS[mask], SlidingWindow(window=2))
    assert len(plan.edits) == 2
    assert surgery.rewrite(model, [replace_attention(SlidingWindow(window=2))], inputs)(**inputs).isfinite().all()


@pytest.mark.parametrize("mask", OF_KEYS)
def test_a_mask_of_keys_is_for_all(mask):
    model, inputs, plan = planned(OF_KEYS[mask], LinearAttention())
    assert len(plan.edits) == 2
    assert surgery.rewrite(model, [replace_attention(LinearAttention())], inputs)(**inputs).isfinite().all()
