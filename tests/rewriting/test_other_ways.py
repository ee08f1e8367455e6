"""An edit is made to another way through a forward only if what is replaced does the same there."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import surgery
from surgery.errors import GuardError, RewriteError
from surgery.operators import FullAttention
from surgery.rewriting import Rule
from surgery.rules import fuse_projections, mlp_ratio, replace_attention
from tests.nightly import examples

DIM, HEADS, WIDTH, SHORT = 16, 2, 8, 6
REPLACED = replace_attention(FullAttention())

Mix = Callable[..., Tensor]


class Attention(nn.Module):
    """Which calls `mix` on heads, and on a mask if there is one."""

    def __init__(self, mix: Mix) -> None:
        super().__init__()
        self.mix, self.qkv, self.proj = mix, nn.Linear(DIM, 3 * DIM), nn.Linear(DIM, DIM)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        q, k, v = self.qkv(x).unflatten(2, (3, HEADS, WIDTH)).permute(2, 0, 3, 1, 4).unbind(0)
        return self.proj(self.mix(q, k, v, mask).transpose(1, 2).flatten(2))


class Stock(nn.Module):
    """`nn.MultiheadAttention`, of itself or with a mask, or of other keys."""

    def __init__(self) -> None:
        super().__init__()
        self.attn = nn.MultiheadAttention(DIM, HEADS, batch_first=True)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        hidden = None if mask is None else mask[:, 0, 0] < 0
        keys = x if x.shape[1] <= SHORT else x.flip(1)
        y: Tensor = self.attn(x, keys, keys, key_padding_mask=hidden, need_weights=False)[0]
        return y


class Separate(nn.Module):
    """Projections of their own, of which those of keys and values read something else where there are many tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.to_q, self.to_k, self.to_v, self.to_out = (nn.Linear(DIM, DIM) for _ in range(4))

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        y = x if x.shape[1] <= SHORT else x.roll(1, 1)
        q, k, v = (to(z).unflatten(2, (HEADS, WIDTH)).transpose(1, 2) for to, z in self._maps(x, y))
        return self.to_out(F.scaled_dot_product_attention(q, k, v, mask).transpose(1, 2).flatten(2))

    def _maps(self, x: Tensor, y: Tensor) -> Any:
        return (self.to_q, x), (self.to_k, x), (self.to_v, y)


class Gated(nn.Module):
    """An MLP whose neurons are taken apart in other places where there are many tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(DIM, 64), nn.Linear(32, DIM)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        h = self.up(x)
        if x.shape[1] > SHORT:
            return self.down(h[..., :32].sigmoid() * h[..., 32:64])
        return self.down(h[..., :32].sigmoid() * h[..., 32:])


class Model(nn.Module):
    def __init__(self, make: Callable[[], nn.Module]) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(make() for _ in range(2))

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        for block in self.blocks:
            x = x + block(x, mask)
        return x


def written_out(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float = WIDTH**-0.5) -> Tensor:
    scores = q @ k.mT * scale
    return (scores if mask is None else scores + mask).softmax(-1) @ v


def tokens(length: int, masked: bool = False) -> dict[str, Tensor]:
    x = torch.randn(2, length, DIM, generator=torch.Generator().manual_seed(length))
    mask = torch.zeros(2, 1, 1, length).index_fill(3, torch.tensor([length - 1]), -torch.inf)
    return {"x": x, "mask": mask} if masked else {"x": x}


KEPT: dict[str, Mix] = {
    "by keyword": lambda q, k, v, mask: F.scaled_dot_product_attention(q, k, v, attn_mask=mask),
    "by position": lambda q, k, v, mask: F.scaled_dot_product_attention(q, k, v, mask),
    "a mask for many tokens": lambda q, k, v, mask: F.scaled_dot_product_attention(
        q, k, v, attn_mask=mask if q.shape[2] > SHORT else None
    ),
}
LOST: dict[str, tuple[Callable[[], nn.Module], Rule, str]] = {
    "a causal flag": (
        lambda: Attention(lambda q, k, v, m: F.scaled_dot_product_attention(q, k, v, is_causal=q.shape[2] > SHORT)),
        REPLACED, "given True as is_causal on this way through, and False where the edit was planned",
    ),
    "a scale": (
        lambda: Attention(
            lambda q, k, v, m: written_out(q, k, v, m, math.log(q.shape[2]) / math.log(SHORT) * WIDTH**-0.5)
        ),
        REPLACED, "as argument 1 on this way through",
    ),
    "a mask in a call of its own": (
        lambda: Attention(
            lambda q, k, v, m: F.scaled_dot_product_attention(q, k, v)
            if q.shape[2] <= SHORT
            else F.scaled_dot_product_attention(q, k, v, q.new_zeros(()).expand(q.shape[2], q.shape[2]).tril() - 1)
        ),
        REPLACED, "as argument 3 on this way through, and nothing where the edit was planned",
    ),
    "keys of something else": (Stock, REPLACED, "another tensor as key .* and what attn is given as query where"),
    "projections of something else": (Separate, fuse_projections(), "does not feed"),
}  # fmt: skip


@examples(20)
@given(st.sampled_from(sorted(KEPT)), st.booleans(), st.sampled_from([3, SHORT]))
def test_a_mask_counts_though_the_trace_had_none(name: str, masked: bool, length: int) -> None:
    model = Model(lambda: Attention(KEPT[name])).eval()
    student = surgery.rewrite(model, [REPLACED], tokens(length, masked))
    for inputs in (tokens(5), tokens(5, True), tokens(9), tokens(9, True)):
        torch.testing.assert_close(student(**inputs), model(**inputs), atol=1e-5, rtol=1e-5)


def test_a_mask_counts_in_a_loaded_student_too(tmp_path: Path) -> None:
    model = Model(lambda: Attention(KEPT["by keyword"])).eval()
    student = surgery.rewrite(model, [REPLACED], tokens(5))
    loaded = surgery.load(surgery.save(student, tmp_path), base=model)
    torch.testing.assert_close(loaded(**tokens(5, True)), student(**tokens(5, True)))
    assert not torch.equal(loaded(**tokens(5, True)), loaded(**tokens(5)))


@pytest.mark.parametrize("name", LOST)
def test_what_the_edit_would_lose_is_refused_and_named(name: str) -> None:
    make, rule, message = LOST[name]
    model = Model(make).eval()
    student = surgery.rewrite(model, [rule], tokens(SHORT))
    torch.testing.assert_close(student(**tokens(SHORT)), model(**tokens(SHORT)), atol=1e-5, rtol=1e-5)
    with pytest.raises(GuardError, match=f"the edit is not for these inputs: .*({message})"):
        student(**tokens(SHORT + 3))


def test_a_mask_of_an_attention_that_was_written_out_or_stock_is_refused_if_the_trace_had_none() -> None:
    for make, what in (
        (lambda: Attention(written_out), "softmax is given another tensor"),
        (Stock, "key_padding_mask"),
    ):
        student = surgery.rewrite(Model(make).eval(), [REPLACED], tokens(SHORT))
        with pytest.raises(GuardError, match=f"the edit is not for these inputs: .*{what}"):
            student(**tokens(SHORT, True))


def test_neurons_in_other_places_are_found_by_the_plan_which_tries_more_tokens() -> None:
    with pytest.raises(
        RewriteError, match=r"is given .*\(32, 64, None\).* on this way through, and .*\(32, None, None\)"
    ):
        surgery.plan(Model(Gated).eval(), [mlp_ratio(3)], tokens(SHORT))
