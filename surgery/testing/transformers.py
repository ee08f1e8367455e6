"""Small transformers that vary in everything a tracer and a rewriter must cope with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from einops import rearrange
from torch import nn
from torch.nn import functional as F


@dataclass(frozen=True)
class BlockSpec:
    """One block: which sublayers it has and how it is written."""

    attention: str  # "separate", "fused", "cross" or "none"
    mlp: str  # "module", "inline", "gated" or "none"
    norm: str  # "layer", "rms" or "none"
    modulated: bool
    in_place: bool


@dataclass(frozen=True)
class ModelSpec:
    """A transformer of `blocks` on tokens of width `heads * head_dim`."""

    heads: int
    head_dim: int
    bias: bool
    blocks: tuple[BlockSpec, ...]
    shared: bool  # whether the last block is the first one again
    branch: int  # token count above which the root takes another way

    @property
    def dim(self) -> int:
        """The width of the tokens."""
        return self.heads * self.head_dim


class TinyAttention(nn.Module):
    """Multi-head self- or cross-attention, with separate or fused projections."""

    def __init__(self, dim: int, heads: int, bias: bool, fused: bool = False) -> None:
        super().__init__()
        self.heads = heads
        self.fused = fused
        if fused:
            self.to_qkv = nn.Linear(dim, 3 * dim, bias=bias)
        else:
            self.to_q, self.to_k, self.to_v = (nn.Linear(dim, dim, bias=bias) for _ in range(3))
        self.to_out = nn.ModuleList([nn.Linear(dim, dim, bias=bias), nn.Dropout(0.0)])

    def forward(self, hidden_states: torch.Tensor, encoder_hidden_states: torch.Tensor | None = None) -> torch.Tensor:
        """The forward."""
        if self.fused:
            q, k, v = self.to_qkv(hidden_states).chunk(3, dim=-1)
        else:
            source = hidden_states if encoder_hidden_states is None else encoder_hidden_states
            q, k, v = self.to_q(hidden_states), self.to_k(source), self.to_v(source)
        q, k, v = (rearrange(x, "b n (h d) -> b h n d", h=self.heads) for x in (q, k, v))
        mixed = F.scaled_dot_product_attention(q, k, v)
        mixed = mixed.transpose(1, 2).reshape(hidden_states.shape[0], -1, hidden_states.shape[-1])
        result: torch.Tensor = self.to_out[1](self.to_out[0](mixed))
        return result


class RMSNorm(nn.Module):
    """Root mean square norm, in float32."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(dim))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The forward."""
        variance = x.to(torch.float32).pow(2).mean(-1, keepdim=True)
        return (x * torch.rsqrt(variance + 1e-6)).to(x.dtype) * self.weight


class MLP(nn.Module):
    """Linear, activation, linear; gated or not."""

    def __init__(self, dim: int, gated: bool) -> None:
        super().__init__()
        self.gated = gated
        self.up = nn.Linear(dim, 4 * dim if gated else 2 * dim)
        self.act = nn.GELU()
        self.down = nn.Linear(2 * dim, dim)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The forward."""
        if self.gated:
            value, gate = self.up(x).chunk(2, dim=-1)
            hidden = value * F.silu(gate)
        else:
            hidden = self.act(self.up(x))
        result: torch.Tensor = self.down(hidden)
        return result


class Block(nn.Module):
    """The block that `spec` describes."""

    def __init__(self, spec: BlockSpec, model: ModelSpec) -> None:
        super().__init__()
        self.spec = spec
        dim = model.dim
        if spec.norm != "none":
            self.norm = nn.LayerNorm(dim) if spec.norm == "layer" else RMSNorm(dim)
        if spec.modulated:
            self.modulation = nn.Linear(dim, 2 * dim)
        if spec.attention != "none":
            self.attn = TinyAttention(dim, model.heads, model.bias, spec.attention == "fused")
        if spec.mlp in ("module", "gated"):
            self.mlp = MLP(dim, spec.mlp == "gated")
        elif spec.mlp == "inline":
            self.up, self.down = nn.Linear(dim, 2 * dim), nn.Linear(2 * dim, dim)

    def forward(self, x: torch.Tensor, text: torch.Tensor, cond: torch.Tensor, *, scale: float = 1.0) -> torch.Tensor:
        """The forward."""
        h = self.norm(x) if self.spec.norm != "none" else x
        if self.spec.modulated:
            shift, gain = self.modulation(F.silu(cond)).chunk(2, dim=-1)
            h = h * (1 + gain[:, None]) + shift[:, None]
        if self.spec.attention == "cross":
            x = x + scale * self.attn(h, encoder_hidden_states=text)
        elif self.spec.attention != "none":
            x = x + self.attn(h)
        if self.spec.mlp == "inline":
            x = x + self.down(F.gelu(self.up(x)))
        elif self.spec.mlp != "none":
            x = x + self.mlp(x)
        if self.spec.in_place:
            x = x.clone()
            x[:, :1] = 0
            x += 1
        return x


class TinyTransformer(nn.Module):
    """The model that `spec` describes, with random weights."""

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        self.spec = spec
        self.proj_in = nn.Linear(3, spec.dim)
        self.blocks = nn.ModuleList([Block(b, spec) for b in spec.blocks])
        if spec.shared and len(spec.blocks) > 1:
            self.blocks[-1] = self.blocks[0]
        self.proj_out = nn.Linear(spec.dim, 3)
        self.register_buffer("offset", torch.randn(1, 1, 3))

    def forward(
        self,
        hidden_states: torch.Tensor,
        text: torch.Tensor,
        cond: torch.Tensor,
        extras: dict[str, Any] | None = None,
        return_dict: bool = True,
    ) -> Any:
        """The forward."""
        batch, tokens = hidden_states.shape[:2]
        x = self.proj_in(hidden_states)
        if tokens > self.spec.branch:
            x = x * 0.5
        side = int(tokens**0.5)
        x = x + torch.arange(tokens, device=x.device).to(x.dtype).view(1, -1, 1) / (side + 1)
        for block in self.blocks:
            x = block(x, text, cond, scale=0.5)
        if extras is not None and extras.get("bias") is not None:
            x = x + extras["bias"]
        out = self.proj_out(x) + self.offset
        out = out.reshape(batch, tokens, 3)
        return {"sample": out, "tokens": tokens} if return_dict else (out,)


def build(spec: ModelSpec) -> TinyTransformer:
    """The model that `spec` describes, in eval mode; equal specs give equal weights."""
    torch.manual_seed(0)
    return TinyTransformer(spec).eval()


def inputs(spec: ModelSpec, size: tuple[int, int, int], seed: int = 0, bias: bool = False) -> dict[str, Any]:
    """Random inputs of (batch, tokens, text tokens)."""
    batch, tokens, text = size
    g = torch.Generator().manual_seed(seed)
    return {
        "hidden_states": torch.randn(batch, tokens, 3, generator=g),
        "text": torch.randn(batch, text, spec.dim, generator=g),
        "cond": torch.randn(batch, spec.dim, generator=g),
        "extras": {"bias": torch.randn(spec.dim, generator=g)} if bias else None,
    }
