"""Attention whose groups of heads share a key and a value is replaced at its core."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import surgery
from surgery.errors import MatchError
from surgery.operators import Blend, FullAttention, GroupedQueryAttention, HyenaX, LinearAttention, SlidingWindow
from surgery.rules import replace_attention
from surgery.testing import check_rule

HEADS, WIDTH = 4, 8


class Attention(nn.Module):
    """Attention of 4 heads in `groups`, under a mask that is given, or a causal one of its own."""

    def __init__(self, groups: int, causal: bool) -> None:
        super().__init__()
        self.groups, self.causal = groups, causal
        self.q, self.k, self.v = (nn.Linear(32, WIDTH * heads) for heads in (HEADS, groups, groups))
        self.norm, self.out = nn.LayerNorm(WIDTH), nn.Linear(32, 32)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        q = self.norm(self.q(x).unflatten(2, (HEADS, WIDTH)))
        k, v = (linear(x).unflatten(2, (self.groups, WIDTH)) for linear in (self.k, self.v))
        if self.causal:
            mask = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool, device=x.device).tril()
        heads = (y.transpose(1, 2) for y in (q, self.norm(k), v))
        y = F.scaled_dot_product_attention(*heads, attn_mask=mask, enable_gqa=True)
        return x + self.out(y.transpose(1, 2).flatten(2))


class Model(nn.Module):
    def __init__(self, groups: int, causal: bool = False) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Attention(groups, causal) for _ in range(2))

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        for block in self.blocks:
            x = block(x, mask)
        return x


def inputs(batch: int, tokens: int, masked: bool) -> dict[str, Tensor]:
    given = {"x": torch.randn(batch, tokens, 32)}
    return given | ({"mask": (torch.arange(tokens) < tokens - 2).expand(batch, 1, 1, -1)} if masked else {})


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("groups", [1, 2, 4])
def test_full_attention_in_its_place_computes_the_same(groups: int, masked: bool) -> None:
    model = Model(groups).eval()
    student = surgery.rewrite(model, [replace_attention(FullAttention(), inherit="exact")], inputs(2, 6, masked))
    for given in (inputs(2, 6, masked), inputs(3, 9, masked)):
        torch.testing.assert_close(student(**given), model(**given), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    "operator",
    [
        HyenaX(kernel=3),
        GroupedQueryAttention(groups=2),
        Blend(parts=(SlidingWindow(window=1), LinearAttention(features="learned"))),
    ],
    ids=lambda operator: operator.kind,
)
def test_other_operators_in_its_place_obey_all_laws(operator: Any) -> None:
    check_rule(replace_attention(operator), model=Model(2).eval(), inputs=inputs(2, 6, masked=False))


def test_a_mask_of_its_own_is_for_those_that_can_use_it() -> None:
    model, given = Model(2, causal=True).eval(), inputs(2, 6, masked=False)
    with pytest.raises(MatchError, match="differs between queries"):
        surgery.plan(model, [replace_attention(LinearAttention())], given)
    student = surgery.rewrite(model, [replace_attention(FullAttention())], given)
    torch.testing.assert_close(student(**given), model(**given), atol=1e-5, rtol=1e-5)
