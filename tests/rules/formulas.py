"""Attention and MLPs as people write them, plain and not: random formulas, composed of what is seen in the field.

Each ingredient has its plain way first; a formula is plain, if all of its ingredients are.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from hypothesis import strategies as st
from torch import Tensor, nn

Way = Callable[..., Any]
DIM, HEADS, WIDTH, NEURONS = 16, 2, 8, 32
TOKENS = 8


def _seen(s: Tensor, of: Callable[[Tensor], Tensor]) -> Tensor:
    """The scores `s` where a mask made from ones (N, M) is true, else minus infinity."""
    return s.masked_fill(~of(torch.ones(s.shape[-2:], dtype=torch.bool, device=s.device)), -torch.inf)


def _top(s: Tensor) -> Tensor:
    return s.masked_fill(s < s.topk(2, -1).values[..., -1:], -torch.inf).softmax(-1)


def _sink(s: Tensor) -> Tensor:
    return torch.cat([s, torch.zeros_like(s[..., :1])], -1).softmax(-1)[..., :-1]


def _baddbmm(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    b, h, n, w = q.shape
    q, k, v = (x.reshape(b * h, -1, w) for x in (q, k, v))
    empty = torch.zeros(b * h, n, k.shape[1], dtype=q.dtype, device=q.device)
    return torch.bmm(torch.baddbmm(empty, q, k.mT, beta=0, alpha=w**-0.5).softmax(-1), v).view(b, h, n, w)


def _tokens_first(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    q, k, v = (x.transpose(1, 2) + 0 for x in (q, k, v))
    weights = (torch.einsum("bqhd,bkhd->bhqk", q, k) * WIDTH**-0.5).softmax(-1)
    return torch.einsum("bhqk,bkhd->bqhd", weights, v).transpose(1, 2)


def _windows(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    q, k, v = (x.unflatten(2, (-1, 4)) for x in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v).flatten(2, 3)


def _by_kernel(**more: Any) -> Way:
    return lambda q, k, v, m: F.scaled_dot_product_attention(q, k, v, **more)


def _written(scores: Way = lambda s, m: s, weights: Way = lambda s: s.softmax(-1)) -> Way:
    return lambda q, k, v, m: weights(scores(q @ k.mT * WIDTH**-0.5, m)) @ v


HEAD_LAYOUT: dict[str, tuple[Way, Way]] = {
    "unflatten": (lambda x: x.unflatten(2, (HEADS, WIDTH)).transpose(1, 2), lambda y: y.transpose(1, 2).flatten(2)),
    "view": (
        lambda x: x.view(*x.shape[:2], HEADS, WIDTH).permute(0, 2, 1, 3),
        lambda y: y.transpose(1, 2).reshape(y.shape[0], y.shape[2], DIM),
    ),
    "widths first": (
        lambda x: x.unflatten(2, (WIDTH, HEADS)).permute(0, 3, 1, 2),
        lambda y: y.permute(0, 2, 3, 1).flatten(2),
    ),
    "one head": (lambda x: x, lambda y: y),
    "over heads": (lambda x: x.unflatten(2, (HEADS, WIDTH)), lambda y: y.flatten(2)),
}
BEFORE: dict[str, Way] = {
    "nothing": lambda q, k, v, m: (q, k, v),
    "norm": lambda q, k, v, m: (F.layer_norm(q, q.shape[-1:]), F.layer_norm(k, k.shape[-1:]), v),
    "scaled queries": lambda q, k, v, m: (q * 1.5, k, v),
    "learned temperature": lambda q, k, v, m: (q * m.number, k, v),
    "flipped": lambda q, k, v, m: (q, k + k.flip(-1), v),
}
KEYS: dict[str, Way] = {
    "all": lambda k: k,
    "every second": lambda k: k[..., ::2, :],
    "first half": lambda k: k[..., : k.shape[-2] // 2, :],
    "shared": lambda k: k.mean(1, keepdim=True),
    "shared, expanded": lambda k: k[:, :1].expand_as(k),
    "rolled": lambda k: k.roll(1, -2),
    "pooled": lambda k: k.mean(-2, keepdim=True),
}
MIX: dict[str, Way] = {
    "kernel": _by_kernel(),
    "kernel, usual scale": _by_kernel(scale=WIDTH**-0.5),
    "kernel, other scale": _by_kernel(scale=0.5),
    "kernel, scale by size": lambda q, k, v, m: F.scaled_dot_product_attention(q, k, v, scale=q.shape[-2] ** -0.5),
    "kernel, causal": _by_kernel(is_causal=True),
    "kernel, mask": lambda q, k, v, m: F.scaled_dot_product_attention(
        q, k, v, attn_mask=torch.ones(q.shape[-2], k.shape[-2], dtype=torch.bool, device=q.device).tril()
    ),
    "written": _written(),
    "written, no scale": lambda q, k, v, m: (q @ k.mT).softmax(-1) @ v,
    "bias of heads": _written(lambda s, m: s + m.bias),
    "bias of pairs": _written(lambda s, m: m.pairs + s),
    "causal": _written(lambda s, m: _seen(s, lambda ones: ones.tril())),
    "causal, where": _written(
        lambda s, m: torch.where(torch.ones(s.shape[-2:], dtype=torch.bool, device=s.device).tril(), s, -torch.inf)
    ),
    "band": _written(lambda s, m: _seen(s, lambda ones: ones.tril(2).triu(-2))),
    "softcap": _written(lambda s, m: 5 * torch.tanh(s / 5)),
    "temperature": _written(lambda s, m: s / 1.3),
    "distance": _written(lambda s, m: s - 0.3 * torch.arange(s.shape[-1], device=s.device).to(s.dtype)),
    "top": _written(weights=_top),
    "sink": _written(weights=_sink),
    "sigmoid": _written(weights=torch.sigmoid),
    "relu": _written(weights=lambda s: s.relu() / s.shape[-1]),
    "over queries": _written(weights=lambda s: s.softmax(-2)),
    "renormalised": _written(weights=lambda s: F.normalize(s.softmax(-1), p=2.0, dim=-1)),
    "difference": lambda q, k, v, m: _written()(q, k, v, m) - 0.5 * _written()(q, -k, v, m),
    "batched": lambda q, k, v, m: _baddbmm(q, k, v),
    "tokens first": lambda q, k, v, m: _tokens_first(q, k, v),
    "windows": lambda q, k, v, m: _windows(q, k, v),
    "no mixing": lambda q, k, v, m: (q * k).sigmoid() * v,
}
AFTER: dict[str, Way] = {
    "nothing": lambda y, q, v, x, m: y,
    "gated by queries": lambda y, q, v, x, m: y * q.sigmoid(),
    "gate that learns": lambda y, q, v, x, m: y * m.number,
    "with values": lambda y, q, v, x, m: y + v,
    "doubled": lambda y, q, v, x, m: y * 2,
    "without mean": lambda y, q, v, x, m: y - y.mean(-2, keepdim=True),
}
OUT: dict[str, Way] = {
    "nothing": lambda y, x: y,
    "scaled": lambda y, x: 0.5 * y,
    "with input": lambda y, x: y + x,
    "activated": lambda y, x: y.tanh(),
}


class AttentionFormula(NamedTuple):
    """One attention, by the names of its ingredients; `named` as diffusers names projections."""

    layout: str
    before: str
    keys: str
    mix: str
    after: str
    out: str
    named: bool


class Attention(nn.Module):
    """An attention by its formula."""

    def __init__(self, formula: AttentionFormula) -> None:
        super().__init__()
        self.formula, self.heads = formula, 1 if formula.layout == "one head" else HEADS
        names = ("to_q", "to_k", "to_v", "to_out") if formula.named else ("wq", "wk", "wv", "wo")
        for name in names:
            self.add_module(name, nn.Linear(DIM, DIM))
        self.names = names
        self.number, self.bias = nn.Parameter(torch.ones(1)), nn.Parameter(torch.randn(HEADS, 1, TOKENS))
        self.pairs = nn.Parameter(torch.randn(TOKENS, TOKENS))

    def forward(self, hidden_states: Tensor) -> Tensor:
        x, each = hidden_states, self.formula
        split, join = HEAD_LAYOUT[each.layout]
        q, k, v = (split(getattr(self, name)(x)) for name in self.names[:3])
        q, k, v = BEFORE[each.before](q, k, v, self)
        y = MIX[each.mix](q, KEYS[each.keys](k), KEYS[each.keys](v), self)
        y = join(AFTER[each.after](y, q, v, x, self))
        return OUT[each.out](getattr(self, self.names[3])(y), x)


UPS: dict[str, Way] = {
    "one": lambda h, g: h,
    "chunk": lambda h, g: torch.mul(*h.chunk(2, -1)),
    "split in halves": lambda h, g: torch.mul(*h.split(h.shape[-1] // 2, -1)),
    "split at a number": lambda h, g: torch.mul(*h.split(NEURONS, -1)),
    "pairs": lambda h, g: torch.mul(*h.unflatten(-1, (-1, 2)).unbind(-1)),
    "strides": lambda h, g: h[..., ::2] * h[..., 1::2],
    "two": lambda h, g: h * g,
}
ACTIVATIONS: dict[str, Way] = {
    "gelu": F.gelu,
    "tanh": lambda h: F.gelu(h, approximate="tanh"),
    "silu": F.silu,
    "relu": F.relu,
    "squared": lambda h: h.relu() ** 2,
}
NEURON_WISE: dict[str, Way] = {
    "nothing": lambda h, x, m: h,
    "doubled": lambda h, x, m: h * 2,
    "in place": lambda h, x, m: h.mul_(1.5),
    "minus one": lambda h, x, m: h - 1,
    "squared": lambda h, x, m: h**2,
    "with input": lambda h, x, m: h + torch.cat([x, x], -1),
    "by width": lambda h, x, m: h / h.shape[-1] ** 0.5,
    "by rows": lambda h, x, m: h / m.up.out_features**0.5,
    "by columns": lambda h, x, m: h * m.down.weight.shape[1] ** -0.5,
    "by attribute": lambda h, x, m: h / m.neurons**0.5,
    "by tokens": lambda h, x, m: h / h.shape[1],
    "learned": lambda h, x, m: h * m.number,
    "one each": lambda h, x, m: h * m.each,
    "mean": lambda h, x, m: h - h.mean(-1, keepdim=True),
    "norm": lambda h, x, m: F.normalize(h, dim=-1),
    "largest": lambda h, x, m: h / (1 + h.amax(-1, keepdim=True).abs()),
    "viewed": lambda h, x, m: h.view(*h.shape[:2], m.neurons),
    "rolled": lambda h, x, m: h.roll(1, -1),
    "added to": lambda h, x, m: h + h.flip(-1),
}


class MLPFormula(NamedTuple):
    """One MLP, by the names of its ingredients."""

    ups: str
    activation: str
    neurons: str
    out: str


class FeedForward(nn.Module):
    """An MLP by its formula."""

    def __init__(self, formula: MLPFormula) -> None:
        super().__init__()
        self.formula, self.neurons = formula, NEURONS
        self.up = nn.Linear(DIM, NEURONS * (1 if formula.ups in ("one", "two") else 2))
        self.gate = nn.Linear(DIM, NEURONS) if formula.ups == "two" else None
        self.down = nn.Linear(NEURONS, DIM)
        self.number, self.each = nn.Parameter(torch.ones(1)), nn.Parameter(torch.ones(NEURONS))

    def forward(self, hidden_states: Tensor) -> Tensor:
        x, each = hidden_states, self.formula
        h = UPS[each.ups](self.up(x), None if self.gate is None else self.gate(x))
        h = NEURON_WISE[each.neurons](ACTIVATIONS[each.activation](h), x, self)
        return OUT[each.out](self.down(h), x)


class Blocks(nn.Module):
    """Sublayers with norms before them and a residual stream around them."""

    def __init__(self, make: Callable[[Any], nn.Module], formulas: list[Any], seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.blocks = nn.ModuleList(map(make, formulas))
        for parameter in self.blocks.parameters():
            if parameter.dim() == 2:
                nn.init.normal_(parameter, std=1.5 * parameter.shape[1] ** -0.5)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = x + block(F.layer_norm(x, x.shape[-1:]))
        return x


def _mostly_plain(ways: dict[str, Any]) -> st.SearchStrategy[str]:
    """The first way half of the time, so that formulas have few odd ingredients, and many none."""
    first, *_ = ways
    return st.one_of(st.just(first), st.sampled_from(list(ways)))


def _runs(formula: AttentionFormula) -> bool:
    """Whether the ingredients go together: others have no heads, another number of keys than they need, or see none."""
    try:
        return bool(Attention(formula)(torch.randn(2, TOKENS, DIM)).isfinite().all())
    except (RuntimeError, ValueError):
        return False


attentions = st.builds(
    AttentionFormula,
    *map(_mostly_plain, (HEAD_LAYOUT, BEFORE, KEYS)),
    st.one_of(st.just("kernel"), st.sampled_from(list(MIX))),
    *map(_mostly_plain, (AFTER, OUT)),
    st.booleans(),
).filter(_runs)
mlps = st.builds(MLPFormula, *map(_mostly_plain, (UPS, ACTIVATIONS, NEURON_WISE, OUT)))
