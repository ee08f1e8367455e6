"""What is plain, shown by running it: a random twin of the module beside the operator of the library that it should be.

Shape legend: B batch, N tokens, D features of the stream.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from surgery.analysis.random_twin import random_tokens, random_twin
from surgery.operators import MLP, FullAttention, MLPDims, dims_of, linears_of
from surgery.rewriting.site import Site
from surgery.tracing.fingerprint import call_key

TOLERANCE = 1e-5
"""The twin may compute a softmax in single precision."""
LONGEST = 64
"""More tokens than these are not run; what may happen to them is told from the graph."""


def unlike_attention(site: Site) -> str | None:
    """Why full attention with the projections of the module at `site` computes something else; None if it does not."""

    def reference(twin: nn.Module) -> nn.Module:
        mixer = FullAttention().build(dims_of(twin)).double()
        mixer.take_projections(twin)
        return mixer

    return _proven(site, "plain attention", reference)


def unlike_mlp(site: Site, dims: MLPDims) -> str | None:
    """Why down(activation(up(x))) with the linear maps of the module at `site` is something else; None if it is not."""

    def reference(twin: nn.Module) -> nn.Module:
        up, down = linears_of(twin)
        mixer = MLP(ratio=up.out_features / up.in_features).build(dims).double()
        mixer.take_neurons(up, down)
        return mixer

    return _proven(site, "plain MLP", reference)


def _proven(site: Site, what: str, reference: Callable[[nn.Module], nn.Module]) -> str | None:
    """The first difference between the twin and what `reference` makes of it; found once for alike modules."""
    leaves, spec = pytree.tree_flatten(site.arguments)
    key = what, call_key(site.module, leaves, spec, {}) or id(site.module)
    if key not in site.graph.proofs:
        with torch.no_grad():
            twin = random_twin(site.module)
            site.graph.proofs[key] = _difference(twin, reference(twin), site, what)
    return site.graph.proofs[key]


def _difference(twin: nn.Module, plain: nn.Module, site: Site, what: str) -> str | None:
    for sizes in _sizes(site.operator.in_shape):
        x, words = random_tokens(*sizes), " x ".join(map(str, sizes))
        try:
            result = _result(twin, site, x)
        except Exception as error:  # whatever it does to other tokens, it is not what is looked for
            return f"is no {what}: on tokens {words} it fails: {str(error).splitlines()[0]}"
        expected = plain(x)
        if not isinstance(result, Tensor) or result.shape != expected.shape:
            return f"is no {what}: on tokens {words} it gives another shape"
        difference = float((result - expected).abs().max())
        if not difference < TOLERANCE:
            return f"is no {what}: on tokens {words} and with random weights it differs from one by {difference:.2g}"
    return None


def _sizes(shape: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
    """(B, N, D) at the traced number of tokens, if it is small, and at others."""
    *inner, features = shape[1:]
    if len(inner) == 1:
        yield 2, min(inner[0], LONGEST), features
        yield 1, 16, features
        yield 3, 4, features
    else:
        yield 2, *(min(n, 5) for n in inner), features
        yield 1, *(3 for _ in inner), features


def _result(twin: nn.Module, site: Site, x: Tensor) -> Any:
    """What the call at `site` gives on the tokens `x`: of several results, as of `nn.MultiheadAttention`, the first."""
    args, kwargs = pytree.tree_map(lambda value: x if isinstance(value, Tensor) else value, site.arguments)
    result = twin(*args, **kwargs)
    return result[0] if isinstance(result, tuple | list) else result
