"""Reads the q, k, v and output projections of an attention of diffusers or torch.

Shape legend: D features of the stream, E = heads * head_dim features inside the attention.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from surgery.errors import RewriteError
from surgery.operators.dims import MixerDims
from surgery.recording.stock import is_stock


@dataclass(frozen=True)
class Linear:
    """One affine map: weight (out, in), bias (out,) or None. Not copies: they belong to the module."""

    weight: Tensor
    bias: Tensor | None

    def copy_to(self, target: nn.Linear, what: str) -> None:
        """Write this map into `target`; RewriteError naming `what` if the sizes or the biases differ."""
        if target.weight.shape != self.weight.shape or (target.bias is None) != (self.bias is None):
            raise RewriteError(
                f"cannot inherit {what}: it is {_describe(self.weight, self.bias)} and the new operator has "
                f"{_describe(target.weight, target.bias)}; build the operator with dims_of(attention)"
            )
        with torch.no_grad():
            target.weight.copy_(self.weight)
            if self.bias is not None:
                target.bias.copy_(self.bias)


@dataclass(frozen=True)
class Projections:
    """Query, key and value have (E, D) weights, out has a (D, E) weight."""

    query: Linear
    key: Linear
    value: Linear
    out: Linear

    @property
    def qkv(self) -> Linear:
        """Query, key and value stacked: weight (3E, D). A copy."""
        maps = (self.query, self.key, self.value)
        biases = [each.bias for each in maps if each.bias is not None]
        return Linear(torch.cat([each.weight for each in maps]), torch.cat(biases) if biases else None)


def projections_of(attention: nn.Module) -> Projections:
    """Find the projections of a diffusers-style attention: to_q, to_k, to_v or a fused to_qkv, and to_out[0].

    Those of `nn.MultiheadAttention` are found, too.

    Raises:
        RewriteError: one is missing or not a plain nn.Linear, or query, key and value differ in width
            (grouped queries) or bias.
    """
    if isinstance(attention, nn.MultiheadAttention):
        return _of_multihead(attention)
    out = _linear(attention, _output_of(attention), "to_out")
    q, k, v = _fused(attention) if _is_fused(attention) else _separate(attention)
    inner, dim = q.weight.shape
    same = all(x.weight.shape == q.weight.shape and (x.bias is None) == (q.bias is None) for x in (k, v))
    if not same or out.weight.shape != (dim, inner):
        raise RewriteError(
            f"{type(attention).__name__}: projections q {tuple(q.weight.shape)}, k {tuple(k.weight.shape)}, "
            f"v {tuple(v.weight.shape)}, out {tuple(out.weight.shape)} are not those of self-attention with "
            "as many key heads as query heads; exclude this attention from the rule"
        )
    return Projections(q, k, v, out)


def dims_of(attention: nn.Module) -> MixerDims:
    """Sizes of an attention as in `projections_of`.

    Raises:
        RewriteError: as in `projections_of`, or `attention.heads` does not divide the width.
    """
    found = projections_of(attention)
    inner, dim = found.query.weight.shape
    heads = getattr(attention, "num_heads" if isinstance(attention, nn.MultiheadAttention) else "heads", None)
    if not isinstance(heads, int) or heads < 1 or inner % heads:
        raise RewriteError(
            f"{type(attention).__name__}: has heads={heads!r}, needs a divisor of the width {inner}; "
            "exclude this attention from the rule"
        )
    return MixerDims(
        dim=dim,
        heads=heads,
        head_dim=inner // heads,
        qkv_bias=found.query.bias is not None,
        out_bias=found.out.bias is not None,
    )


def extra_features(attention: nn.Module) -> list[str]:
    """Names of what an attention has besides projections and softmax(q k^T / sqrt(head_dim)) v."""
    parts = ("norm_q", "norm_k", "group_norm", "spatial_norm", "add_k_proj", "bias_k", "bias_v")
    extras = [name for name in parts if getattr(attention, name, None) is not None]
    plain_values = {
        "residual_connection": False,
        "rescale_output_factor": 1,
        "scale_qk": True,
        "is_causal": False,
        "add_zero_attn": False,
    }
    return extras + [name for name, plain in plain_values.items() if getattr(attention, name, plain) != plain]


def _of_multihead(attention: nn.MultiheadAttention) -> Projections:
    if attention.in_proj_weight is None:
        raise RewriteError(
            f"{type(attention).__name__}: keys are {attention.kdim} wide, values {attention.vdim} and queries "
            f"{attention.embed_dim}, which is no self-attention; exclude this module"
        )
    bias = attention.in_proj_bias
    biases = (None, None, None) if bias is None else bias.chunk(3)
    q, k, v = (Linear(*pair) for pair in zip(attention.in_proj_weight.chunk(3), biases, strict=True))
    return Projections(q, k, v, Linear(attention.out_proj.weight, attention.out_proj.bias))


def _is_fused(attention: nn.Module) -> bool:
    has_fused = getattr(attention, "to_qkv", None) is not None
    return has_fused and (bool(getattr(attention, "fused_projections", False)) or not hasattr(attention, "to_q"))


def _separate(attention: nn.Module) -> tuple[Linear, Linear, Linear]:
    q, k, v = (_linear(attention, getattr(attention, name, None), name) for name in ("to_q", "to_k", "to_v"))
    return q, k, v


def _fused(attention: nn.Module) -> tuple[Linear, Linear, Linear]:
    fused = _linear(attention, attention.to_qkv, "to_qkv")
    if fused.weight.shape[0] % 3:
        raise RewriteError(
            f"{type(attention).__name__}: to_qkv has {fused.weight.shape[0]} rows, not three equal parts; "
            "unfuse the projections first"
        )
    weights = fused.weight.chunk(3)
    biases = fused.bias.chunk(3) if fused.bias is not None else (None, None, None)
    q, k, v = (Linear(weight, bias) for weight, bias in zip(weights, biases, strict=True))
    return q, k, v


def _output_of(attention: nn.Module) -> object:
    out = getattr(attention, "to_out", None)
    return out[0] if isinstance(out, nn.ModuleList | nn.Sequential) and len(out) else out


def _linear(attention: nn.Module, module: object, name: str) -> Linear:
    if module is None:
        raise RewriteError(
            f"{type(attention).__name__}: has no {name}, so its projections cannot be read; "
            "use a rule that does not need them, or exclude this module"
        )
    # An adapter (LoRA) or a quantised layer computes something else than its weight says.
    if not isinstance(module, nn.Linear) or not is_stock(module, nn.Linear) or not module.weight.is_floating_point():
        raise RewriteError(
            f"{type(attention).__name__}.{name} is a {type(module).__name__}, needs a plain nn.Linear; "
            "merge adapters or dequantise first"
        )
    return Linear(module.weight, module.bias)


def _describe(weight: Tensor, bias: Tensor | None) -> str:
    rows, columns = weight.shape
    return f"Linear({columns} -> {rows}, {'with' if bias is not None else 'no'} bias)"
