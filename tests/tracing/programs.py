"""Random modules: a forward put together from everything that Python and PyTorch let a model do."""

from __future__ import annotations

from typing import Any

import torch
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

DIM = 6


class Nested(nn.Module):
    """Takes and returns nested containers; its second argument is keyword-only."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(DIM, DIM)

    def forward(self, given: dict[str, Any], *, scale: float = 2.0) -> tuple[dict[str, Any], list[Any]]:
        x, (mask, gain) = given["x"], given["rest"]
        out = self.linear(x) * scale
        return {"out": out, "mask": mask}, [out[:, :1], None if mask is None else mask + 0, gain]


class Program(nn.Module):
    """Runs `steps`, names of its methods, one after the other on tokens (B, N, DIM)."""

    def __init__(self, steps: tuple[str, ...]) -> None:
        super().__init__()
        self.steps = steps
        first = nn.Linear(DIM, DIM)
        self.linears = nn.ModuleList([first, nn.Linear(DIM, DIM), first])
        self.nested = Nested()
        self.dropout = nn.Dropout(0.3)
        self.register_buffer("offset", torch.linspace(0, 1, DIM))
        self.register_buffer("seen", torch.zeros(DIM))
        self.table = [torch.ones(DIM), torch.full((DIM,), 0.5)]

    def forward(
        self, x: torch.Tensor, *, mask: torch.Tensor | None = None, gain: float = 1.5, tag: str = "a"
    ) -> dict[str, Any]:
        for step in self.steps:
            x = getattr(self, step)(x, mask, gain)
        return {"x": x, "parts": (x.mean(dim=1), [x[:, :1], None, tag]), "count": x.shape[1]}

    def shared(self, x, mask, gain):
        return self.linears[2](torch.tanh(self.linears[1](self.linears[0](x))))

    def branch_on_size(self, x, mask, gain):
        return x * 2 if x.shape[1] > 4 else x + 1

    def branch_on_equal_sizes(self, x, mask, gain):
        return x + 0.5 if x.shape[0] == x.shape[1] else x - 0.5

    def branch_on_none(self, x, mask, gain):
        return x - 1 if mask is None else x * mask.unsqueeze(-1)

    def branch_on_mode(self, x, mask, gain):
        return x + 3 if self.training else x

    def in_place(self, x, mask, gain):
        x = x.clone()
        x += gain
        x[:, 0] = 0
        x.view(-1, DIM)[:, 1].mul_(3)
        return x

    def read_buffer(self, x, mask, gain):
        return x + self.offset * self.table[x.shape[1] % 2]

    def write_buffer(self, x, mask, gain):
        self.seen.mul_(0.9).add_(x.detach().mean(dim=(0, 1)))
        return x + self.seen

    def count_in_buffer(self, x, mask, gain):
        if self.training:
            self.seen += 1
        return x

    def nest(self, x, mask, gain):
        out, (first, other, same) = self.nested({"x": x, "rest": (mask, gain)}, scale=gain + 1)
        x = out["out"] + first
        return x * same if other is None else x + other.unsqueeze(-1)

    def views(self, x, mask, gain):
        b, n, d = x.shape
        heads = x.view(b, n, 2, d // 2).transpose(1, 2)
        return heads.flip(1).transpose(1, 2).reshape(b, n, -1) + self.half_of(x).sum(-1, keepdim=True)

    @staticmethod
    def half_of(x):
        return x[..., : x.shape[-1] // 2]

    def pieces(self, x, mask, gain):
        first, second = x.chunk(2, dim=-1)
        tokens = x.unbind(1)
        return torch.cat([second, first], -1) + sum(tokens[1:], tokens[0]).unsqueeze(1)

    def loop_over_size(self, x, mask, gain):
        for i in range(x.shape[1] % 3):
            x = x + i + 1
        return x

    def positions(self, x, mask, gain):
        n = x.shape[1]
        angles = torch.arange(n, device=x.device, dtype=x.dtype) / max(n - 1, 1)
        return x + angles[:, None] * n**0.5

    def pad(self, x, mask, gain):
        short = -x.shape[1] % 4
        return F.pad(x, (0, 0, 0, short))[:, : x.shape[1]] + short

    def attend(self, x, mask, gain):
        bias = None if mask is None else mask[:, None, None, :].log()
        q = x.unsqueeze(1)
        return x + F.scaled_dot_product_attention(q, q, q, attn_mask=bias).squeeze(1)

    def drop(self, x, mask, gain):
        return self.dropout(x)

    def read_values(self, x, mask, gain):
        return x if mask is None else x[:, : int((mask > 0).sum(dim=1).max())].sum(1, keepdim=True) + x

    def without_grad(self, x, mask, gain):
        with torch.no_grad():
            scale = x.abs().mean()
        return x / (scale + 1)


STEPS = [name for name in vars(Program) if not name.startswith("_") and name not in ("forward", "half_of")]
programs = st.lists(st.sampled_from(STEPS), min_size=1, max_size=7).map(tuple)
sizes = st.tuples(st.integers(1, 4), st.integers(1, 7), st.booleans())


def build(steps: tuple[str, ...]) -> Program:
    torch.manual_seed(0)
    return Program(steps).eval()


def inputs(size: tuple[int, int, bool], seed: int) -> dict[str, Any]:
    """Tokens, and if asked for a mask of ones and small numbers, for a batch and a number of tokens."""
    batch, tokens, masked = size
    generator = torch.Generator().manual_seed(seed)
    mask = torch.where(torch.rand(batch, tokens, generator=generator) > 0.3, 1.0, 0.1)
    return {"x": torch.randn(batch, tokens, DIM, generator=generator)} | ({"mask": mask} if masked else {})
