"""The sizes that operators are built at, read off what they replace."""

from __future__ import annotations

from typing import Literal

from pydantic import PositiveInt

from surgery.kinds import Kinded

Policy = Literal["random", "projections", "fitted", "exact"]
"""Which weights a new operator takes over: none; those that fit; these, and a run then solves for some on activations of
the old one (see `surgery.training.fit`); or all, so that it computes what the old one did."""


class Dims(Kinded):
    """Base of sizes: plain data. An operator of your own may take one of the library's or bring a class of its own."""


class MixerDims(Dims):
    """Sizes found at the replaced attention; see `surgery.operators.projections.dims_of`.

    Attributes:
        dim: D, the width of the stream.
        heads: of queries.
        head_dim: features of a head.
        qkv_bias: whether q, k and v have biases.
        out_bias: whether the output projection has one.
        across: whether queries are of other tokens than keys.
    """

    kind: Literal["mixer"] = "mixer"
    dim: PositiveInt
    heads: PositiveInt
    head_dim: PositiveInt
    qkv_bias: bool
    out_bias: bool
    across: bool = False

    @property
    def inner(self) -> int:
        """E, the width of q, k and v."""
        return self.heads * self.head_dim
