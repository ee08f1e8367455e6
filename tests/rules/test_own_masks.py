"""Masks that a forward makes itself, or in attention that it writes out: who cannot use one is refused by the plan."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

import surgery
from surgery.errors import MatchError
from surgery.operators import FullAttention, HyenaX, LinearAttention, SlidingWindow
from surgery.rules import replace_attention
from surgery.testing import check_rule
from tests.nightly import examples

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


HIDES = {
    "method": lambda s, hidden, m: s.masked_fill(hidden, -torch.inf),
    "function": lambda s, hidden, m: torch.masked_fill(s, mask=hidden, value=torch.finfo(s.dtype).min),
    "in place": lambda s, hidden, m: s.masked_fill_(hidden, float("-inf")),
    "of what is seen": lambda s, hidden, m: s.masked_fill(~hidden.logical_not(), -torch.finfo(s.dtype).max),
    "after a bias": lambda s, hidden, m: (s + m.bias[0, :1]).masked_fill(hidden, -torch.inf),
    "where": lambda s, hidden, m: torch.where(hidden, -torch.inf, s),
    "where it is seen": lambda s, hidden, m: torch.where(~hidden, s, float("-inf")),
    "where, by method": lambda s, hidden, m: s.where(hidden.logical_not(), -torch.inf),
    "where, by name": lambda s, hidden, m: torch.where(condition=hidden, other=s, input=torch.tensor(-torch.inf)),
    "where, lowest number": lambda s, hidden, m: torch.where(~hidden, s, torch.full([], torch.finfo(s.dtype).min)),
    "where, of their shape": lambda s, hidden, m: torch.where(~hidden, s, torch.full_like(s, -torch.inf)),
    "before a bias": lambda s, hidden, m: s.masked_fill(hidden, -torch.inf) + m.bias[0, :1],
}
HIDES_OTHERWISE = {
    "some weight is left": lambda s, hidden, m: s.masked_fill(hidden, -3.0),
    "a score that is computed": lambda s, hidden, m: s.masked_fill(hidden, s.detach().mean()),
    "after the softmax": lambda s, hidden, m: s.softmax(-1).masked_fill(hidden, 0.0),
    "zeros": lambda s, hidden, m: s.masked_fill(hidden, 0.0),
    "where, another": lambda s, hidden, m: torch.where(hidden, s.flip(-1), s),
    "where, no score": lambda s, hidden, m: torch.where(hidden, m.bias[:1, :1], s),
    "where, low of their shape": lambda s, hidden, m: torch.where(hidden, torch.full_like(s, -1e9), s),
    "where, after the softmax": lambda s, hidden, m: torch.where(hidden, 0.0, s.softmax(-1)),
    "twice": lambda s, hidden, m: s.masked_fill(hidden, -torch.inf).masked_fill(hidden.flip(-1), -1e30),
}


class Written(Block):
    """Writes its attention out; keys of padded tokens are hidden, or those after a query."""

    def __init__(self, hide, causal: bool = False) -> None:
        super().__init__(hide)
        self.causal = causal
        nn.init.normal_(self.bias)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (each.unflatten(2, (2, 8)).transpose(1, 2) for each in self.qkv(x).chunk(3, 2))
        later = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool, device=x.device).triu(1)
        hidden = later if self.causal else (x[..., 0] > 0.5)[:, None, None]
        y = self.mask(q @ k.mT * 8**-0.5, hidden, self).softmax(-1) @ v
        return x + self.out(y.transpose(1, 2).flatten(2))


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("hide", HIDES)
def test_what_fills_scores_is_a_mask(hide, causal):
    model, inputs = nn.Sequential(Written(HIDES[hide], causal)).eval(), {"input": torch.randn(2, 5, 16)}
    student = surgery.rewrite(model, [replace_attention(FullAttention(), inherit="exact")], inputs)
    for x in (inputs["input"], torch.randn(3, 8, 16), torch.randn(1, 1, 16).clamp(max=0)):
        x[:, 0, 0] = 0  # one key is seen: of none at all the model makes NaN, the student zeros
        torch.testing.assert_close(student(x), model(x))


SCALED = {
    "queries": lambda q, k: (q * q.shape[-1] ** -0.5) @ k.mT,
    "keys": lambda q, k: q @ (k / k.shape[-1] ** 0.5).mT,
    "both": lambda q, k: (q * q.shape[-1] ** -0.25) @ (k * k.shape[-1] ** -0.25).mT,
    "scores": lambda q, k: q @ k.mT * q.shape[-1] ** -0.5,
}


class Scaled(nn.Module):
    """Attention of any number of heads of any width, written out, with padded keys hidden."""

    def __init__(self, heads: int, width: int, scaled: str, hide: str) -> None:
        super().__init__()
        self.heads, self.scaled, self.hide = heads, SCALED[scaled], HIDES[hide]
        self.qkv, self.out = nn.Linear(8, 3 * heads * width), nn.Linear(heads * width, 8)
        self.bias = nn.Parameter(torch.randn(32, 32))

    def forward(self, x: Tensor, hidden: Tensor) -> Tensor:
        q, k, v = (each.unflatten(2, (self.heads, -1)).transpose(1, 2) for each in self.qkv(x).chunk(3, 2))
        weights = self.hide(self.scaled(q, k), hidden[:, None, None], self).softmax(-1)
        return x + self.out((weights @ v).transpose(1, 2).flatten(2))


@examples(20)
@given(
    st.tuples(*[st.integers(1, 4)] * 2), st.sampled_from([2, 4, 8]), st.integers(1, 9), st.sampled_from(sorted(SCALED)),
    st.sampled_from(sorted(HIDES.keys() - {"after a bias", "before a bias"})),
)  # fmt: skip
def test_the_scale_is_seen_whatever_the_sizes_and_the_mask(sizes, width, tokens, scaled, hide):
    batch, heads = sizes
    model = Scaled(heads, width, scaled, hide).eval()
    inputs = {"x": torch.randn(batch, tokens, 8), "hidden": torch.arange(tokens).expand(batch, -1) > tokens // 2}
    student = surgery.rewrite(model, [replace_attention(FullAttention(), inherit="exact")], inputs)
    for length in (tokens, 7):
        others = {"x": torch.randn(batch, length, 8), "hidden": torch.arange(length).expand(batch, -1) > length // 2}
        torch.testing.assert_close(student(**others), model(**others), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("hide", HIDES_OTHERWISE)
def test_other_uses_of_it_are_no_mask(hide):
    with pytest.raises(MatchError, match="does not compute softmax"):
        surgery.plan(
            nn.Sequential(Written(HIDES_OTHERWISE[hide])).eval(),
            [replace_attention(FullAttention())],
            {"input": torch.randn(2, 5, 16)},
        )


@pytest.mark.parametrize("operator", [LinearAttention(), HyenaX(kernel=3), SlidingWindow(window=1)])
def test_what_is_hidden_reaches_nobody(operator):
    model, inputs = nn.Sequential(Written(HIDES["function"])).eval(), {"input": torch.randn(2, 5, 16)}
    rule = replace_attention(operator)
    check_rule(rule, model=model, inputs=inputs)
    student, (x,) = surgery.rewrite(model, [rule], inputs), inputs.values()
    x[0, :, 0], x[0, 3, 0] = 0, 1
    other = x.clone()
    other[0, 3, 1:] += 9
    torch.testing.assert_close(student(other)[0, :3], student(x)[0, :3])
    with pytest.raises(MatchError, match="differs between queries"):
        surgery.plan(nn.Sequential(Written(HIDES["function"], True)), [replace_attention(LinearAttention())], inputs)


class Folded(nn.Module):
    """Heads that are samples, under a mask of keys that is added for each of them, or of pairs."""

    def __init__(self, pairs: bool) -> None:
        super().__init__()
        self.pairs, self.qkv, self.out = pairs, nn.Linear(16, 48), nn.Linear(16, 16)

    def forward(self, x: Tensor, seen: Tensor) -> Tensor:
        q, k, v = (y.unflatten(2, (2, 8)).transpose(1, 2).flatten(0, 1) for y in self.qkv(x).chunk(3, 2))
        added = ((1 - seen.to(x.dtype)) * -1e4)[:, None].repeat_interleave(2, 0)
        added = added.expand(-1, x.shape[1], -1) if self.pairs else added
        weights = (torch.bmm(q, k.mT) * 8**-0.5 + added).softmax(-1)
        return x + self.out(torch.bmm(weights, v).unflatten(0, (-1, 2)).transpose(1, 2).flatten(2))


@pytest.mark.parametrize("pairs", [False, True])
@pytest.mark.parametrize("tokens", [8, 11, 16])
def test_heads_that_are_samples_have_their_masks(tokens: int, pairs: bool) -> None:
    model = Folded(pairs).eval()
    for operator in (FullAttention(), LinearAttention()):
        inputs = {"x": torch.randn(2, tokens, 16), "seen": torch.arange(tokens).expand(2, -1) < tokens - 3}
        student = surgery.rewrite(model, [replace_attention(operator)], inputs)
        other = {"x": torch.randn(3, 9, 16), "seen": torch.arange(9).expand(3, -1) < 6}
        if isinstance(operator, FullAttention):
            torch.testing.assert_close(student(**other), model(**other), atol=1e-5, rtol=1e-5)
        changed = {"x": other["x"].clone(), "seen": other["seen"]}
        changed["x"][:, 7] += 1
        torch.testing.assert_close(student(**changed)[:, :6], student(**other)[:, :6])


@pytest.mark.parametrize("fill", [-1e9, -1e4, -1000.0])
def test_a_sample_without_any_key_sees_all_alike_under_a_low_number(fill: float) -> None:
    model = Scaled(2, 8, "queries", "method")
    model.hide = lambda s, hidden, m: s.masked_fill(hidden, fill)
    inputs = {"x": torch.randn(2, 6, 8), "hidden": torch.tensor([[True] * 6, [False] * 4 + [True] * 2])}
    student = surgery.rewrite(model.eval(), [replace_attention(FullAttention(), inherit="exact")], inputs)
    torch.testing.assert_close(student(**inputs), model(**inputs), atol=1e-5, rtol=1e-5)


def test_a_number_that_hides_only_some_of_a_key_is_no_mask() -> None:
    model = Scaled(2, 8, "queries", "method").eval()
    model.hide = lambda s, hidden, m: s.masked_fill(hidden, -100.0)
    inputs = {"x": torch.randn(2, 6, 8), "hidden": torch.arange(6).expand(2, -1) > 3}
    with pytest.raises(MatchError, match="does not compute softmax"):
        surgery.plan(model, [replace_attention(FullAttention())], inputs)
