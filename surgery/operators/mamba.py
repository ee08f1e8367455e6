"""Mamba-2: a state space model whose state is small and whose decay depends on the token.

Source: "Transformers are SSMs: Generalized Models and Efficient Algorithms Through Structured State Space Duality"
(arXiv 2405.21060), as it stands for attention in "Exploring Diffusion Transformer Designs via Grafting"
(arXiv 2506.05340): state 64, expansion 2, heads of 16 features, kernel 4. In its core, c, b and x of the state space
model are q, k and v of an attention without softmax, under decays.

Shape legend: B batch, N tokens, D features of the stream, E = expand * D features inside the mixer, H = E / head_dim
heads, P features of a head, S features of the state. In the core: K features of a head, E = H K, X = B * H.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import PositiveInt
from torch import Tensor, nn
from typing_extensions import override

from surgery.errors import RewriteError
from surgery.operators.backends import kernel
from surgery.operators.chunks import tokens_at_once
from surgery.operators.convolution import FilterBackend, TokenConvolution
from surgery.operators.dims import MixerDims
from surgery.operators.mixer import MixerConfig, SequenceMixer
from surgery.operators.projections import projections_of
from surgery.operators.scan_core import DecayingCore, at_least_single, log_rates, step_bias
from surgery.operators.softmax import finite
from surgery.operators.state_space import CHUNK, Segment, State, from_left, from_right, state_space


class Mamba2(MixerConfig):
    """y = out_proj(norm(silu(z) * (scan(x, b, c, step) + skip * x))) with z, x, b, c, step = in_proj(input).

    x, b and c go through a depthwise convolution and SiLU before. Published: causal along the raster order. If not
    causal, a second scan runs from the last token to the first with the same weights, a token itself counts once, and
    the filter is centred (see TokenConvolution).

    Attributes:
        d_state: S, features of the state.
        expand: E / D.
        head_dim: P.
        kernel: taps of the filter.
        causal: whether a token sees none that come later.
        backend: the kernel of the scan; see `surgery.operators.backends`. That of the filter is chosen for itself, but
            "torch" holds for both.
    """

    kind: Literal["mamba2"] = "mamba2"
    d_state: PositiveInt = 64
    expand: PositiveInt = 2
    head_dim: PositiveInt = 16
    kernel: PositiveInt = 4
    causal: bool = False
    backend: Literal["auto", "torch", "mamba-ssm"] = "auto"

    def inner(self, dims: MixerDims) -> int:
        """E, the width of x and z."""
        return self.expand * dims.dim

    def heads(self, dims: MixerDims) -> int:
        """H; RewriteError if heads of `head_dim` features do not fill E."""
        if self.inner(dims) % self.head_dim:
            raise RewriteError(
                f"Mamba2: head_dim={self.head_dim} does not divide the inner width {self.inner(dims)}; "
                "choose a divisor of it"
            )
        return self.inner(dims) // self.head_dim

    @override
    def build(self, dims: MixerDims) -> Mamba2Mixer:
        """Return a new Mamba2Mixer with random weights; RewriteError if `head_dim` does not divide E."""
        return Mamba2Mixer(self, dims)

    @override
    def core(self, dims: MixerDims) -> Mamba2Core:
        """Return a new Mamba2Core, whose filters start as the identity."""
        return Mamba2Core(self, dims)

    @override
    def flops_mixing(self, dims: MixerDims, batch: int, tokens: int) -> int:
        """For each of the batch 2 N E S for a scan, and 7 N H for steps and decays; two scans if not causal.

        That is the published count, which takes one multiplication and one addition for each number of the state;
        to decay it, add to it and read it takes 5.
        """
        scans = 1 if self.causal else 2
        return batch * tokens * (2 * scans * self.inner(dims) * self.d_state + 7 * self.heads(dims))

    @override
    def flops_featuriser(self, dims: MixerDims, batch: int, tokens: int) -> int:
        """The filters on x, b and c: 2 N (E + 2 S) kernel for each of the batch."""
        return 2 * batch * tokens * (self.inner(dims) + 2 * self.d_state) * self.kernel

    @override
    def flops_projections(self, dims: MixerDims, batch: int, tokens: int) -> int:
        """2 N D (2 E + 2 S + H) into the mixer and 2 N D E out of it, for each of the batch."""
        inner = self.inner(dims)
        return 2 * batch * tokens * dims.dim * (3 * inner + 2 * self.d_state + self.heads(dims))


class Mamba2Mixer(SequenceMixer):
    """Mamba-2 with the parameter names of the published code; no biases in the projections."""

    def __init__(self, config: Mamba2, dims: MixerDims) -> None:
        super().__init__(config, dims)
        self.heads, inner, state = config.heads(dims), config.inner(dims), config.d_state
        self.causal = config.causal
        self.backend = config.backend
        self.head_dim = config.head_dim
        self.widths = [inner, inner + 2 * state, self.heads]
        self.in_proj = nn.Linear(dims.dim, sum(self.widths), bias=False)
        backend: FilterBackend = "torch" if config.backend == "torch" else "auto"
        self.conv1d = TokenConvolution(inner + 2 * state, config.kernel, causal=config.causal, backend=backend)
        self.A_log = nn.Parameter(log_rates(self.heads))
        self.D = nn.Parameter(torch.ones(self.heads))
        self.dt_bias = nn.Parameter(step_bias(self.heads))
        self.norm = nn.RMSNorm(inner, eps=1e-5)
        self.out_proj = nn.Linear(inner, dims.dim, bias=False)

    @override
    def mix(self, x_BND: Tensor, *, grid: tuple[int, ...] | None = None) -> Tensor:
        """Return the gated and normalised scan, projected: (B, N, D)."""
        run = kernel(self.backend, "scan", x_BND.new_empty(1).expand(*x_BND.shape[:2], self.heads, self.head_dim))
        if run is None and self.causal:
            # Within a chunk, what a token does not see has the weight 0, and 0 times NaN is NaN.
            finite_BN1 = finite(x_BND)
            y_BND = torch.cat(self._in_segments(x_BND.masked_fill(~finite_BN1, 0.0)), 1)
            return y_BND.masked_fill(finite_BN1.logical_not().cumsum(1) > 0, torch.nan)
        if run is None:
            return torch.cat(self._in_segments(x_BND), 1)
        gate_BNE, x_BNHP, b_BNS, c_BNS, step_BNH = self._enter(x_BND, 0, x_BND.shape[1])
        rate_H = -self.A_log.to(at_least_single(x_BND)).exp()
        y_BNHP = run(x_BNHP, step_BNH, rate_H, b_BNS, c_BNS, self.dt_bias, causal=self.causal)
        return self._leave(y_BNHP, x_BNHP, gate_BNE)

    def _in_segments(self, x_BND: Tensor) -> list[Tensor]:
        """The results for some tokens at a time, so that what is in between stays small, whatever their number."""
        results: list[Tensor] = []
        waiting: list[tuple[Segment, Tensor, Tensor, Tensor]] = []
        state: State = None
        size = tokens_at_once(x_BND, x_BND.shape[1], CHUNK)
        for start in range(0, x_BND.shape[1], size):
            gate_BNE, x_BNHP, b_BNS, c_BNS, step_BNH = self._enter(x_BND, start, start + size)
            step_BNH = F.softplus(step_BNH.to(at_least_single(x_BND)) + self.dt_bias)
            log_BNH = -step_BNH * self.A_log.to(step_BNH.dtype).exp()
            segment = Segment.of(x_BNHP * step_BNH.unsqueeze(3).to(x_BNHP.dtype), log_BNH, b_BNS, c_BNS)
            y_BNHP, state = from_left(segment, state, causal=self.causal)
            if self.causal:
                results.append(self._leave(y_BNHP, x_BNHP, gate_BNE))
            else:
                waiting.append((segment, y_BNHP, x_BNHP, gate_BNE))
        state = None
        while waiting:
            segment, left_BNHP, x_BNHP, gate_BNE = waiting.pop()
            y_BNHP, state = from_right(segment, state)
            results.insert(0, self._leave(left_BNHP + y_BNHP, x_BNHP, gate_BNE))
        return results

    def _enter(self, x_BND: Tensor, start: int, stop: int) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """The gate, x (B, N, H, P), b, c and the steps of the tokens from `start` to `stop`."""
        first = max(0, start - self.conv1d.left)
        z_BNE, xbc_BNC, step_BNH = torch.split(
            self.in_proj(x_BND[:, first : stop + self.conv1d.right]), self.widths, dim=2
        )
        own = slice(start - first, stop - first)
        inner, state = self.widths[0], (self.widths[1] - self.widths[0]) // 2
        x_BNE, b_BNS, c_BNS = torch.split(F.silu(self.conv1d(xbc_BNC)[:, own]), [inner, state, state], dim=2)
        x_BNHP = x_BNE.reshape(*x_BNE.shape[:2], self.heads, self.head_dim)
        return F.silu(z_BNE[:, own]), x_BNHP, b_BNS, c_BNS, step_BNH[:, own]

    def _leave(self, y_BNHP: Tensor, x_BNHP: Tensor, gate_BNE: Tensor) -> Tensor:
        """The scan, with what skips it, gated, normalised and projected: (B, N, D)."""
        y_BNE = torch.addcmul(y_BNHP, self.D.unsqueeze(1), x_BNHP).flatten(2)
        y_BND: Tensor = self.out_proj(self.norm(y_BNE * gate_BNE))
        return y_BND

    @override
    def take_projections(self, attention: nn.Module) -> None:
        """Take over what has a counterpart, as "The Mamba in the Llama" (arXiv 2408.15237) does.

        v becomes the first channels of x and the output projection reads these alone. b and c are shared by all heads:
        they take the average of the heads' k and q, as many features as both have. The filter starts as the identity;
        biases are left behind, and z, the steps and the decays keep their fresh weights.

        Raises:
            RewriteError: the attention has no projections that fit, or is wider than E.
        """
        found = projections_of(attention)
        inner, state, width = self.widths[0], (self.widths[1] - self.widths[0]) // 2, found.value.weight.shape[0]
        if width > inner or found.value.weight.shape[1] != self.dims.dim:
            raise RewriteError(
                f"Mamba2 cannot inherit from an attention of {tuple(found.value.weight.shape)}: it has "
                f"{inner} channels over {self.dims.dim} features; build it with dims_of(attention), or raise expand"
            )
        with torch.no_grad():
            _, x_ED, b_SD, c_SD, _ = torch.split(self.in_proj.weight, [inner, inner, state, state, self.heads])
            x_ED[:width] = found.value.weight
            for taken_SD, old in ((b_SD, found.key), (c_SD, found.query)):
                average_KD = old.weight.view(self.dims.heads, -1, self.dims.dim).mean(0)
                taken_SD[: len(average_KD)] = average_KD[:state]
            self.out_proj.weight.zero_()
            self.out_proj.weight[:, :width] = found.out.weight
        self.conv1d.start_as_identity()


class Mamba2Core(DecayingCore):
    """y = norm(scan(step * v, k, q) + skip * v): each head has a state of K x K and decays of its own.

    A step follows from the token's key. `d_state`, `expand` and `head_dim` of the config are those of the attention here.
    """

    def __init__(self, config: Mamba2, dims: MixerDims) -> None:
        super().__init__(config, dims, kernel=config.kernel, causal=config.causal)
        self.D = nn.Parameter(torch.ones(dims.heads))

    @override
    def scan(self, q_BHNK: Tensor, k_BHNK: Tensor, v_BHNK: Tensor, weight_BHN1: Tensor | None = None) -> Tensor:
        """The scan, with what skips it: (B, H, N, K)."""
        step_BHN, log_BHN = self.steps(k_BHNK, weight_BHN1)
        q_XNK, k_XNK, v_XNK = (x.flatten(0, 1) for x in (q_BHNK, k_BHNK, v_BHNK))
        entering_XNK = v_XNK * step_BHN.flatten(0, 1).unsqueeze(2).to(v_XNK.dtype)
        scale = q_XNK.shape[2] ** -0.5
        y_XN1K = state_space(
            entering_XNK.unsqueeze(2), log_BHN.flatten(0, 1).unsqueeze(2), k_XNK, q_XNK * scale, causal=self.causal
        )
        y_BHNK: Tensor = torch.addcmul(y_XN1K.view(v_BHNK.shape), self.D.view(-1, 1, 1), v_BHNK)
        return y_BHNK

    @override
    def flops(self, batch: int, tokens: int) -> int:
        """6 N E kernel for the filters, 2 N E for the steps, and those of mixing, for each of the batch."""
        return batch * tokens * self.dims.inner * (6 * self.kernel + 2) + self.flops_mixing(batch, tokens)

    @override
    def flops_mixing(self, batch: int, tokens: int) -> int:
        """For each of the batch 2 N E K for a scan, two if not causal, and 7 N H for steps and decays, as of Mamba2."""
        scans = 1 if self.causal else 2
        return batch * tokens * (2 * scans * self.dims.inner * self.dims.head_dim + 7 * self.dims.heads)
