"""Attention that is written out on factors of any layout is replaced at its core."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import surgery
from surgery.errors import MatchError
from surgery.operators import Blend, FullAttention, HyenaX, LinearAttention, SlidingWindow
from surgery.rules import replace_attention
from surgery.testing import check_rule
from tests.nightly import examples

HEADS, WIDTH = 3, 8
DIM = HEADS * WIDTH
AXES = {"heads first": "bhnk", "tokens first": "bnhk", "features before tokens": "bhkn"}
"""How a factor, or the result, may be laid out."""


class Attention(nn.Module):
    """Queries, keys, values and the result in layouts of their own, by einsum."""

    def __init__(self, layouts: tuple[str, ...], norm: bool) -> None:
        super().__init__()
        self.layouts = layouts
        self.qkv, self.proj = nn.Linear(DIM, 3 * DIM), nn.Linear(DIM, DIM)
        self.norm = nn.LayerNorm(WIDTH) if norm else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).unflatten(2, (3, HEADS, WIDTH)).unbind(2)
        # A copy, so that no layout but this one is there to be found.
        q, k, v = (
            torch.einsum(f"bnhk->{axes}", y) + 0
            for y, axes in zip((self.norm(q), self.norm(k), v), self.layouts, strict=False)
        )
        of_queries, of_keys, of_values, of_result = self.layouts
        of_keys, of_values = (axes.replace("n", "m") for axes in (of_keys, of_values))
        weights = (torch.einsum(f"{of_queries},{of_keys}->bhnm", q, k) * WIDTH**-0.5).softmax(-1)
        y = torch.einsum(f"bhnm,{of_values}->{of_result}", weights, v)
        return self.proj(torch.einsum(f"{of_result}->bnhk", y).reshape(x.shape))


class GuidedDiffusion(nn.Module):
    """Heads that are samples, features before tokens, the scale on both sides."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.proj = nn.Linear(DIM, 3 * DIM), nn.Linear(DIM, DIM)

    def forward(self, x: Tensor) -> Tensor:
        batch, tokens, _ = x.shape
        q, k, v = self.qkv(x).mT.reshape(batch * HEADS, 3 * WIDTH, tokens).split(WIDTH, 1)
        weights = torch.einsum("bct,bcs->bts", q * WIDTH**-0.25, k * WIDTH**-0.25).softmax(-1)
        return self.proj(torch.einsum("bts,bcs->bct", weights, v).reshape(batch, -1, tokens).mT)


class LatentDiffusion(nn.Module):
    """One head by two batched products, values before weights, as in autoencoders of latent diffusion."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v, self.proj = (nn.Linear(DIM, DIM) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (linear(x).mT.contiguous() for linear in (self.q, self.k, self.v))
        weights = (torch.bmm(q.permute(0, 2, 1), k) * DIM**-0.5).softmax(2).permute(0, 2, 1)
        return self.proj(torch.bmm(v, weights).mT)


class KeysPermuted(nn.Module):
    """Keys that never were (B, H, M, K), as in the first GPT and its heirs."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v, self.proj = (nn.Linear(DIM, DIM) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (linear(x).view(*x.shape[:2], HEADS, WIDTH) for linear in (self.q, self.k, self.v))
        weights = torch.matmul(q.permute(0, 2, 1, 3), k.permute(0, 2, 3, 1)).div(WIDTH**0.5).softmax(-1)
        return self.proj(torch.matmul(weights, v.permute(0, 2, 1, 3)).permute(0, 2, 1, 3).flatten(2))


class ResultViewed(nn.Module):
    """The result of the product, which lies in memory as it is read, is given another shape without a copy."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.proj = nn.Linear(DIM, 3 * DIM), nn.Linear(DIM, DIM)

    def forward(self, x: Tensor) -> Tensor:
        batch, length, _ = x.shape
        q, k, v = self.qkv(x).view(batch, length, 3, HEADS, WIDTH).permute(2, 0, 3, 1, 4)
        y = (q @ k.mT * WIDTH**-0.5).softmax(-1) @ v
        return self.proj(
            y.view(batch * HEADS, length, WIDTH).view(batch, HEADS, length, WIDTH).transpose(1, 2).flatten(2)
        )


class WithBias(Attention):
    """Tokens first, with a bias of each head and pair."""

    def __init__(self) -> None:
        super().__init__((AXES["tokens first"],) * 4, norm=True)
        self.bias = nn.Parameter(torch.randn(HEADS, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).unflatten(2, (3, HEADS, WIDTH)).unbind(2)
        scores = torch.einsum("bqhd,bkhd->bhqk", self.norm(q), self.norm(k)) / WIDTH**0.5
        distance = torch.arange(x.shape[1], device=x.device, dtype=x.dtype)
        weights = (scores + self.bias * distance).softmax(-1)
        return self.proj(torch.einsum("bhqk,bkhd->bqhd", weights, v).flatten(2))


class Model(nn.Module):
    def __init__(self, make: Callable[[], nn.Module]) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(make() for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = x + block(x)
        return x


def tokens(batch: int, length: int) -> dict[str, Tensor]:
    return {"x": torch.randn(batch, length, DIM, generator=torch.Generator().manual_seed(length))}


def assert_kept(model: nn.Module) -> None:
    """Full attention in its place computes the same at every size, and the edit can be taken back."""
    example = tokens(2, 5)
    student = surgery.rewrite(model, [replace_attention(FullAttention())], example)
    for inputs in (example, tokens(3, 8), tokens(1, 3), tokens(2, 1)):  # 8 is the width of a head, 3 their number
        torch.testing.assert_close(student(**inputs), model(**inputs), atol=1e-5, rtol=1e-5)
    assert torch.equal(surgery.undo(student)(**example), model(**example))


@examples(20)
@given(st.tuples(*[st.sampled_from(sorted(AXES.values()))] * 4), st.booleans())
def test_full_attention_in_its_place_computes_the_same(layouts: tuple[str, ...], norm: bool) -> None:
    assert_kept(Model(lambda: Attention(layouts, norm)).eval())


@pytest.mark.parametrize("make", [GuidedDiffusion, LatentDiffusion, KeysPermuted, ResultViewed, WithBias])
def test_as_others_write_it(make: type[nn.Module]) -> None:
    assert_kept(Model(make).eval())


@pytest.mark.parametrize("length", [3, 8])
def test_as_many_tokens_as_heads_or_features(length: int) -> None:
    layouts = (AXES["tokens first"], AXES["features before tokens"], AXES["tokens first"], AXES["heads first"])
    model = Model(lambda: Attention(layouts, norm=False)).eval()
    student = surgery.rewrite(model, [replace_attention(FullAttention())], tokens(2, length))
    for inputs in (tokens(2, length), tokens(3, 5)):
        torch.testing.assert_close(student(**inputs), model(**inputs), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    "operator",
    [HyenaX(kernel=3), Blend(parts=(SlidingWindow(window=1), LinearAttention(features="learned", centre=True)))],
    ids=lambda operator: operator.kind,
)
@pytest.mark.parametrize("result", AXES.values())
def test_other_operators_in_its_place_obey_all_laws(operator: Any, result: str) -> None:
    layouts = (AXES["tokens first"], AXES["features before tokens"], AXES["tokens first"], result)
    model = Model(lambda: Attention(layouts, norm=True)).eval()
    check_rule(replace_attention(operator), model=model, inputs=tokens(2, 5))


def test_a_student_is_saved_and_loaded(tmp_path: Path) -> None:
    model = Model(lambda: Attention((AXES["tokens first"],) * 4, norm=True)).eval()
    student = surgery.rewrite(model, [replace_attention(SlidingWindow(window=1))], tokens(2, 5))
    loaded = surgery.load(surgery.save(student, tmp_path), base=copy.deepcopy(model))
    for inputs in (tokens(2, 5), tokens(1, 7)):
        assert torch.equal(loaded(**inputs), student(**inputs))


def other(what: str) -> Callable[[], nn.Module]:
    """Another scale, or a softmax over queries."""

    class Over(Attention):
        def forward(self, x: Tensor) -> Tensor:
            q, k, v = self.qkv(x).unflatten(2, (3, HEADS, WIDTH)).unbind(2)
            if what == "scale":
                weights = (torch.einsum("bnhk,bmhk->bhnm", q, k) / WIDTH).softmax(-1)
                y = torch.einsum("bhnm,bmhk->bnhk", weights, v)
            else:
                weights = (torch.einsum("bnhk,bmhk->bhnm", q, k) * WIDTH**-0.5).softmax(2)
                y = torch.einsum("bhnm,bmhk->bnhk", weights, v)
            return self.proj(y.flatten(2))

    return lambda: Over((AXES["tokens first"],) * 4, norm=True)


@pytest.mark.parametrize("what", ["scale", "queries"])
@pytest.mark.parametrize("length", [3, 5])
def test_what_computes_something_else_is_left_alone(what: str, length: int) -> None:
    with pytest.raises(MatchError):
        surgery.plan(Model(other(what)).eval(), [replace_attention(FullAttention())], tokens(2, length))


class SamplesAsHeads(nn.Module):
    """By one call on (H, B, N, K), or on (1, B H, N, K)."""

    def __init__(self, folded: bool) -> None:
        super().__init__()
        self.folded = folded
        self.qkv, self.proj = nn.Linear(DIM, 3 * DIM), nn.Linear(DIM, DIM)

    def forward(self, x: Tensor) -> Tensor:
        batch, length, _ = x.shape
        q, k, v = (y.view(batch, length, HEADS, WIDTH).permute(2, 0, 1, 3) for y in self.qkv(x).chunk(3, 2))
        if self.folded:
            q, k, v = (y.transpose(0, 1).reshape(1, -1, length, WIDTH) for y in (q, k, v))
        y = nn.functional.scaled_dot_product_attention(q, k, v)
        y = y.view(batch, HEADS, length, WIDTH).transpose(0, 1) if self.folded else y
        return self.proj(y.permute(1, 2, 0, 3).flatten(2))


@pytest.mark.parametrize("folded", [False, True])
@pytest.mark.parametrize("batch", [1, 2, HEADS])
def test_no_sample_gets_weights_of_its_own(folded: bool, batch: int) -> None:
    model = Model(lambda: SamplesAsHeads(folded)).eval()
    for operator in (LinearAttention(features="learned"), HyenaX(kernel=3)):
        with pytest.raises(MatchError, match="have samples or tokens where heads should be, in axis 1"):
            surgery.plan(model, [replace_attention(operator)], tokens(batch, 5))
    student = surgery.rewrite(model, [replace_attention(FullAttention())], tokens(batch, 5))
    torch.testing.assert_close(student(**tokens(4, 7)), model(**tokens(4, 7)), atol=1e-5, rtol=1e-5)


LOOKS_ALIKE: dict[str, Callable[..., Tensor]] = {
    "a band": lambda x, q, k, v: (q @ k.mT * WIDTH**-0.5).softmax(-1).tril(6).triu(-6) @ v,
    "rolled": lambda x, q, k, v: (q @ k.mT * WIDTH**-0.5).softmax(-1).roll(5, -1) @ v,
    "clamped": lambda x, q, k, v: (q @ k.mT * WIDTH**-0.5).clamp(-20, 20).softmax(-1) @ v,
    "scale by tokens": lambda x, q, k, v: (q @ k.mT * x.shape[1] ** -0.5).softmax(-1) @ v,
    "scale by tokens of the queries": lambda x, q, k, v: (q @ k.mT * q.shape[2] ** -0.5).softmax(-1) @ v,
    "scale by samples": lambda x, q, k, v: (q @ k.mT * x.shape[0] ** -0.5).softmax(-1) @ v,
    "over features": lambda x, q, k, v: ((q.mT @ k * WIDTH**-0.5).softmax(-1) @ v.mT).mT,
    "a boolean is added": lambda x, q, k, v: (
        q @ k.mT * WIDTH**-0.5 + torch.ones(q.shape[2], q.shape[2], dtype=torch.bool, device=q.device).tril()
    ).softmax(-1) @ v,
    "another scale in half precision": lambda x, q, k, v: (
        (q.bfloat16() @ k.bfloat16().mT * WIDTH**-0.5 * 1.08).softmax(-1) @ v.bfloat16()
    ).to(v.dtype),
}  # fmt: skip


class LooksAlike(nn.Module):
    def __init__(self, mix: Callable[..., Tensor]) -> None:
        super().__init__()
        self.mix, self.qkv, self.proj = mix, nn.Linear(DIM, 3 * DIM), nn.Linear(DIM, DIM)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).unflatten(2, (3, HEADS, WIDTH)).permute(2, 0, 3, 1, 4).unbind(0)
        return self.proj(self.mix(x, q, k, v).transpose(1, 2).flatten(2))


@pytest.mark.parametrize("name", LOOKS_ALIKE)
def test_what_is_attention_at_the_traced_sizes_only_is_left_alone(name: str) -> None:
    """Traced with as many samples and tokens as a head has features, where the scales are the usual one."""
    with pytest.raises(MatchError):
        surgery.plan(
            Model(lambda: LooksAlike(LOOKS_ALIKE[name])).eval(),
            [replace_attention(FullAttention())],
            tokens(WIDTH, WIDTH),
        )
