"""What is plain, shown by running it: a random twin of the module beside the formula that it should be.

Shape legend: B batch, H heads, N tokens, K features of a head, D features of the stream.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from surgery.analysis.random_twin import SparseMaps, random_tokens, random_twin
from surgery.errors import first_line
from surgery.operators import Activation, dims_of, linears_of, projections_of
from surgery.operators.mlp import ACTIVATIONS
from surgery.rewriting.site import Site
from surgery.tracing.fingerprint import call_key

TOLERANCE = 1e-5
"""The twin may compute a softmax in single precision."""
LONGEST = 32
"""More tokens than these are not run; what may happen to them is told from the graph."""


def unlike_attention(site: Site) -> str | None:
    """Why full attention with the projections of the module at `site` computes something else; None if it does not."""
    _, tokens = _in_order(site.module, site.operator.in_shape[:2])
    sizes = ((1, min(tokens, LONGEST)), (2, 9))
    return _proven(site, "plain attention", _attention, tuple(_in_order(site.module, each) for each in sizes))


def batch_axis(attention: nn.Module) -> int:
    """The axis of the batch in its tokens: 1 in an `nn.MultiheadAttention` that is told nothing else, else 0."""
    return 1 if isinstance(attention, nn.MultiheadAttention) and not attention.batch_first else 0


def _in_order(attention: nn.Module, sizes: tuple[int, ...]) -> tuple[int, int]:
    """Batch and tokens, from their order in its tokens, or the other way round."""
    first, second = sizes
    return (second, first) if batch_axis(attention) else (first, second)


def unlike_mlp(site: Site, activation: Activation) -> str | None:
    """Why down(activation(up(x))) with the linear maps of the module at `site` is something else; None if it is not."""
    inner = range(len(site.operator.in_shape) - 2)

    def reference(twin: nn.Module, x: Tensor) -> Tensor:
        up, down = linears_of(twin)
        result: Tensor = down(ACTIVATIONS[activation](up(x)))
        return result

    return _proven(
        site, f"plain MLP with {activation}", reference, ((2, *(3 for _ in inner)), (1, *(5 for _ in inner)))
    )


def _attention(twin: nn.Module, x_BND: Tensor) -> Tensor:
    """Full attention with the projections of `twin`: (B, N, D), or (N, B, D) if it takes that."""
    if batch_axis(twin):
        x_BND = x_BND.transpose(0, 1)
    found, heads = projections_of(twin), dims_of(twin).heads
    q, k, v = (
        rearrange(F.linear(x_BND, each.weight, each.bias), "b n (h k) -> b h n k", h=heads)
        for each in (found.query, found.key, found.value)
    )
    mixed_BHNK = F.scaled_dot_product_attention(q, k, v)
    y_BND = F.linear(rearrange(mixed_BHNK, "b h n k -> b n (h k)"), found.out.weight, found.out.bias)
    return y_BND.transpose(0, batch_axis(twin))


def _proven(
    site: Site, what: str, reference: Callable[[nn.Module, Tensor], Tensor], sizes: tuple[tuple[int, ...], ...]
) -> str | None:
    """How the module at `site` differs from `reference` on tokens of these sizes; found once for alike modules."""
    features = site.operator.in_shape[-1]
    example = torch.empty(*sizes[0], features, device="meta")
    leaves, spec = pytree.tree_flatten(_with_tokens(site, example))
    key = what, call_key(site.module, leaves, spec, {}) or id(site.module)
    if key not in site.graph.proofs:
        tokens = [random_tokens(*each, features) for each in sizes]
        with torch.no_grad(), SparseMaps() as maps:
            difference = _first_difference(random_twin(site.module, maps), reference, site, tokens)
        if difference:  # or what it does with its weights is more than a linear map
            with torch.no_grad():
                difference = _first_difference(random_twin(site.module), reference, site, tokens)
        site.graph.proofs[key] = difference and f"is no {what}: {difference}"
    return site.graph.proofs[key]


def _first_difference(
    twin: nn.Module, reference: Callable[[nn.Module, Tensor], Tensor], site: Site, tokens: Sequence[Tensor]
) -> str | None:
    """How the module at `site`, run as its `twin`, differs from `reference` on any of these `tokens`."""
    return next(filter(None, (_difference(twin, reference, site, each) for each in tokens)), None)


def _difference(twin: nn.Module, reference: Callable[[nn.Module, Tensor], Tensor], site: Site, x: Tensor) -> str | None:
    """How what the call at `site` gives on the tokens `x` differs from what `reference` does."""
    words = " x ".join(map(str, x.shape))
    args, kwargs = _with_tokens(site, x)
    try:
        result = twin(*args, **kwargs)
    except Exception as error:  # whatever it does to other tokens, it is not what is looked for
        return f"on tokens {words} it fails: {first_line(error)}"
    result = result[0] if isinstance(result, tuple | list) else result  # `nn.MultiheadAttention` gives its weights too
    expected = reference(twin, x)
    if not isinstance(result, Tensor) or result.shape != expected.shape:
        return f"on tokens {words} it gives another shape"
    difference = float((result - expected).abs().max())
    if difference < TOLERANCE:
        return None
    return f"on tokens {words} and with random weights it differs from one by {difference:.2g}"


def _with_tokens(site: Site, x: Tensor) -> Any:
    """The arguments of the call at `site`, positional and by keyword, with the tokens `x`."""
    return pytree.tree_map(lambda value: x if isinstance(value, Tensor) else value, site.arguments)
