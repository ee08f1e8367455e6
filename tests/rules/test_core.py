"""Attention that a forward writes out, in the ways that people do."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

import surgery
from surgery.errors import MatchError
from surgery.operators import (
    Blend,
    FullAttention,
    GroupedQueryAttention,
    HyenaX,
    LinearAttention,
    Mamba2,
    SlidingWindow,
)
from surgery.rules import replace_attention
from surgery.testing import check_rule
from tests.nightly import examples

Step = Callable[..., Any]

SCALES: dict[str, tuple[Step, Step, Step]] = {  # of queries, of keys, of scores
    "queries": (lambda q: q * q.shape[-1] ** -0.5, lambda k: k, lambda s, q: s),
    "attribute": (lambda q: q * 8**-0.5, lambda k: k, lambda s, q: s),
    "both": (lambda q: q * 8**-0.25, lambda k: k * 8**-0.25, lambda s, q: s),
    "scores": (lambda q: q, lambda k: k, lambda s, q: s * 8**-0.5),
    "quotient": (lambda q: q, lambda k: k, lambda s, q: s / math.sqrt(q.size(-1))),
    "in place": (lambda q: q, lambda k: k, lambda s, q: s.mul_(8**-0.5)),
}
PRODUCTS: dict[str, Step] = {
    "@": lambda q, k: q @ k.transpose(-2, -1),
    "matmul": lambda q, k: torch.matmul(q, k.mT),
    "permute": lambda q, k: q.matmul(k.permute(0, 1, 3, 2)),
    "swapaxes": lambda q, k: q @ k.swapaxes(2, 3),
    "einsum": lambda q, k: torch.einsum("bhid,bhjd->bhij", q, k),
}
WEIGHTS: dict[str, Step] = {
    "function": lambda s, m: F.softmax(s, dim=-1),
    "method": lambda s, m: s.softmax(3),
    "module": lambda s, m: m.softmax(s),
    "single precision": lambda s, m: torch.softmax(s, dim=-1, dtype=torch.float32).to(s.dtype),
    "cast": lambda s, m: s.float().softmax(dim=-1).type_as(s),
    "dropout": lambda s, m: m.dropout(s.softmax(-1)),
    "dropped": lambda s, m: F.dropout(s.softmax(-1), 0.1, m.training),
}
MIXED: dict[str, Step] = {
    "@": lambda a, v: a @ v,
    "matmul": lambda a, v: torch.matmul(a, v),
    "einsum": lambda a, v: torch.einsum("bhij,bhjd->bhid", a, v),
}


def folded(product: Step) -> Step:
    """Heads that are samples by themselves, as in einops' "b n (h d) -> (b h) n d"."""

    def mix(q: Tensor, k: Tensor, v: Tensor, m: nn.Module) -> Tensor:
        batch, heads, tokens, width = q.shape
        q, k, v = (t.reshape(batch * heads, -1, width) for t in (q, k, v))
        mixed = torch.bmm(product(q, k).softmax(-1), v)
        return mixed.reshape(mixed.shape[0] // heads, heads, tokens, width)

    return mix


ODD: dict[str, Step] = {
    "another scale": lambda q, k, v, m: (q @ k.mT / 8).softmax(-1) @ v,
    "no scale": lambda q, k, v, m: (q @ k.mT).softmax(-1) @ v,
    "a bias before the scale": lambda q, k, v, m: (
        ((q @ k.mT + m.bias * k[:, :, :, 0].unsqueeze(2)) / 8).softmax(-1) @ v
    ),
    "over queries": lambda q, k, v, m: (q @ k.mT * 8**-0.5).softmax(-2) @ v,
    "weights read": lambda q, k, v, m: _used_twice((q @ k.mT * 8**-0.5).softmax(-1), v),
    "no softmax": lambda q, k, v, m: (q @ k.mT * 8**-0.5).relu() @ v,
    "another scale of folded heads": folded(lambda q, k: torch.bmm(q, k.mT) / 8),
    "other product": lambda q, k, v, m: (q @ k.mT * 8**-0.5).softmax(-1).mT @ v,
}


def _added_to_nothing(q: Tensor, k: Tensor) -> Tensor:
    empty = torch.empty(q.shape[0], q.shape[1], k.shape[1], dtype=q.dtype, device=q.device)
    return torch.baddbmm(empty, q, k.transpose(-1, -2), beta=0, alpha=8**-0.5)


FOLDED: dict[str, Step] = {
    "bmm": lambda q, k: torch.bmm(q, k.transpose(1, 2)) * 8**-0.5,
    "method": lambda q, k: (q * q.shape[-1] ** -0.5).bmm(k.permute(0, 2, 1)),
    "baddbmm": _added_to_nothing,
    "einsum": lambda q, k: torch.einsum("b i d, b j d -> b i j", q, k) / math.sqrt(8),
}


def _used_twice(weights: Tensor, v: Tensor) -> Tensor:
    return weights @ v + weights.sum()


class Attention(nn.Module):
    def __init__(self, mix: Step) -> None:
        super().__init__()
        self.mix = mix
        self.qkv, self.proj = nn.Linear(16, 48), nn.Linear(16, 16)
        self.softmax, self.dropout = nn.Softmax(dim=-1), nn.Dropout(0.1)
        self.bias = nn.Parameter(torch.randn(2, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).reshape(x.shape[0], x.shape[1], 3, 2, 8).permute(2, 0, 3, 1, 4).unbind(0)
        return self.proj(self.mix(q, k, v, self).transpose(1, 2).reshape(x.shape))


class Model(nn.Module):
    def __init__(self, mix: Step) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Attention(mix) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = x + block(x)
        return x


def written(scale: str, product: str, weights: str, mixed: str) -> Step:
    of_queries, of_keys, of_scores = SCALES[scale]

    def mix(q: Tensor, k: Tensor, v: Tensor, m: nn.Module) -> Tensor:
        scores = of_scores(PRODUCTS[product](of_queries(q), of_keys(k)), q)
        return MIXED[mixed](WEIGHTS[weights](scores, m), v)

    return mix


WAYS = st.builds(written, *(st.sampled_from(sorted(each)) for each in (SCALES, PRODUCTS, WEIGHTS, MIXED)))
EXAMPLE = {"x": torch.randn(2, 5, 16)}


@examples(20)
@given(WAYS)
def test_full_attention_in_its_place_computes_the_same(mix: Step) -> None:
    model = Model(mix).eval()
    student = surgery.rewrite(model, [replace_attention(FullAttention())], EXAMPLE)
    for tokens in (5, 8, 1):  # 8 is the width of a head, too
        x = torch.randn(3, tokens, 16)
        torch.testing.assert_close(student(x), model(x), atol=1e-5, rtol=1e-5)
    assert torch.equal(surgery.undo(student)(**EXAMPLE), model(**EXAMPLE))


@pytest.mark.parametrize("name", FOLDED)
def test_heads_that_are_samples_are_mixed_one_by_one(name: str) -> None:
    model = Model(folded(FOLDED[name])).eval()
    for example in (EXAMPLE, {"x": torch.randn(2, 4, 16)}):  # as many tokens as samples and heads
        student = surgery.rewrite(model, [replace_attention(FullAttention())], example)
        for batch, tokens in ((3, 5), (1, 8), (2, 1)):
            x = torch.randn(batch, tokens, 16)
            torch.testing.assert_close(student(x), model(x), atol=1e-5, rtol=1e-5)
    plan = surgery.plan(model, [replace_attention(FullAttention())], EXAMPLE)
    assert plan.total.flops.after == plan.total.flops.before == surgery.trace(student, EXAMPLE).flops


@pytest.mark.parametrize(
    "operator",
    [HyenaX(kernel=3), SlidingWindow(window=1), LinearAttention(), GroupedQueryAttention(groups=1), Mamba2()],
    ids=lambda operator: operator.kind,
)
def test_other_operators_in_its_place_obey_all_laws(operator: Any) -> None:
    mix = written("queries", "@", "dropout", "@")
    check_rule(replace_attention(operator), model=Model(mix).eval(), inputs=EXAMPLE)


@pytest.mark.parametrize("tokens", [5, 8])
@pytest.mark.parametrize("name", ODD)
def test_what_computes_something_else_is_left_alone(name: str, tokens: int) -> None:
    with pytest.raises(
        MatchError, match=r"nor can its core be replaced: it does not compute softmax|no self-attention"
    ):
        surgery.plan(Model(ODD[name]).eval(), [replace_attention(FullAttention())], {"x": torch.randn(2, tokens, 16)})


def test_in_half_precision_and_on_the_meta_device() -> None:
    model = Model(written("scores", "@", "single precision", "@")).to(torch.bfloat16).eval()
    rules = [replace_attention(SlidingWindow())]
    assert len(surgery.plan(model, rules, {"x": EXAMPLE["x"].bfloat16()}).edits) == 2
    with torch.device("meta"):
        empty = Model(written("scores", "@", "single precision", "@")).eval()
        assert len(surgery.plan(empty, rules, {"x": torch.empty(2, 5, 16)}).edits) == 2


BIASES: dict[str, Callable[[int], Tensor]] = {
    "of heads": lambda n: torch.randn(2, 1, 1),
    "of pairs": lambda n: torch.randn(n, n),
    "of heads and pairs": lambda n: torch.randn(1, 2, n, n),
}


class Biased(nn.Module):
    """Adds learned numbers to the scores, before or after another addend of the sum."""

    def __init__(self, bias: Tensor, first: bool) -> None:
        super().__init__()
        self.qkv, self.proj, self.bias, self.first = nn.Linear(16, 48), nn.Linear(16, 16), nn.Parameter(bias), first

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (h.unflatten(2, (2, 8)).transpose(1, 2) for h in self.qkv(x).chunk(3, -1))
        scores = q @ k.mT / 8**0.5
        scores = self.bias + scores if self.first else scores + self.bias
        return x + self.proj((scores.softmax(-1) @ v).transpose(1, 2).flatten(2))


@pytest.mark.parametrize("first", [False, True])
@pytest.mark.parametrize("name", BIASES)
def test_a_bias_of_the_scores_stays(name: str, first: bool) -> None:
    model = Biased(BIASES[name](5), first).eval()
    student = surgery.rewrite(model, [replace_attention(FullAttention())], EXAMPLE)
    torch.testing.assert_close(student(**EXAMPLE), model(**EXAMPLE))
    assert dict(student.named_parameters())["bias"].shape == model.bias.shape
    with pytest.raises(MatchError, match="cannot keep its function"):
        surgery.plan(model, [replace_attention(GroupedQueryAttention(groups=1), inherit="exact")], EXAMPLE)


class WithToQ(nn.Module):
    """Named as in diffusers, but doing something of its own to queries and keys, or within the softmax."""

    def __init__(self, does: str) -> None:
        super().__init__()
        self.does, self.heads = does, 2
        self.to_q, self.to_k, self.to_v = (nn.Linear(16, 16) for _ in range(3))
        self.to_out = nn.ModuleList([nn.Linear(16, 16)])

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (to(x).unflatten(2, (2, 8)).transpose(1, 2) for to in (self.to_q, self.to_k, self.to_v))
        if self.does == "rotary":
            angle = torch.arange(x.shape[1], device=x.device)[:, None] * 0.1
            q, k = (h * angle.cos() + h.flip(3) * angle.sin() for h in (q, k))
        mask = torch.ones(x.shape[1], x.shape[1], device=x.device).tril().bool() if self.does == "mask" else None
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=self.does == "causal")
        return self.to_out[0](mixed.transpose(1, 2).flatten(2))


class Around(nn.Module):
    def __init__(self, does: str) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(WithToQ(does) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = x + block(x)
        return x


@pytest.mark.parametrize("does", ["rotary", "mask"])
def test_what_names_do_not_tell_is_kept(does: str) -> None:
    model = Around(does).eval()
    student = surgery.rewrite(model, [replace_attention(FullAttention())], EXAMPLE)
    torch.testing.assert_close(student(**EXAMPLE), model(**EXAMPLE))
    with pytest.raises(MatchError, match="full_attention would lose; its core can be replaced"):
        surgery.plan(model, [replace_attention(FullAttention(), inherit="random")], EXAMPLE)


CAUSAL = [
    SlidingWindow(window=64, causal=True),
    HyenaX(kernel=4, causal=True),
    Mamba2(causal=True),
    Blend(parts=(SlidingWindow(window=2, causal=True), Mamba2(causal=True))),
]


@pytest.mark.parametrize("operator", CAUSAL, ids=lambda operator: operator.kind)
def test_causal_attention_is_for_causal_operators(operator: Any) -> None:
    model = Around("causal").eval()
    student = surgery.rewrite(model, [replace_attention(operator)], EXAMPLE)
    (x,) = EXAMPLE.values()
    after = x.clone()
    after[:, 3:] = torch.nan
    assert torch.equal(student(after)[:, :3], student(x)[:, :3])
    if operator == CAUSAL[0]:
        torch.testing.assert_close(student(x), model(x))


NOT_CAUSAL = {
    "a window": (SlidingWindow(window=2), r"write SlidingWindow\(causal=True\)"),
    "a scan": (Mamba2(), r"write Mamba2\(causal=True\)"),
    "no field": (LinearAttention(), "LinearAttention cannot be causal"),
    "a part": (
        Blend(parts=(SlidingWindow(window=2, causal=True), SlidingWindow(window=2))),
        r"write SlidingWindow\(causal=True\)",
    ),
    "parts": (
        Blend(parts=(SlidingWindow(window=2), LinearAttention())),
        r"write SlidingWindow\(causal=True\), LinearAttention cannot be causal",
    ),
}


@pytest.mark.parametrize("case", NOT_CAUSAL)
def test_what_is_not_causal_is_told_how_to_be(case: str) -> None:
    operator, advice = NOT_CAUSAL[case]
    with pytest.raises(MatchError, match=f"with is_causal=True; {advice}$"):
        surgery.plan(Around("causal").eval(), [replace_attention(operator)], EXAMPLE)


def test_causal_attention_stays() -> None:
    with pytest.raises(MatchError, match=r"has is_causal=True, .* would lose; nor can its core .* with is_causal=True"):
        surgery.plan(Around("causal").eval(), [replace_attention(FullAttention())], EXAMPLE)
