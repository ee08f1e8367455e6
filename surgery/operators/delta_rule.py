"""The gated delta rule in chunks of tokens: a triangular system within each, a small state from chunk to chunk.

Sources: "Gated Delta Networks: Improving Mamba2 with Delta Rule" (arXiv 2412.06464); "Parallelizing Linear Transformers
with the Delta Rule over Sequence Length" (arXiv 2406.06484), section 3, for the form in chunks.

Shape legend: X sequences, N tokens, M chunks, C tokens of a chunk, K features of queries, keys and values.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from surgery.operators.chunks import in_chunks

CHUNK = 64
"""Tokens of a chunk: a matrix of C x C for each, and as many steps one after the other as there are chunks."""
LOG2_E = math.log2(math.e)


def gated_delta_rule(q_XNK: Tensor, k_XNK: Tensor, v_XNK: Tensor, beta_XN: Tensor, log_XN: Tensor) -> Tensor:
    """y_i = S_i^T q_i with S_i = e_i S_i-1 + k_i u_i^T, u_i = beta_i (v_i - e_i S_i-1^T k_i): (X, N, K).

    What the state held under a key is replaced by beta towards its value, and the state fades by e = exp(log). Time and
    memory are linear in N; for keys of length 1 and beta at most 1, no state grows without bounds.

    Behind the end of the sequence, tokens of zeros store nothing and leave the state as it is.

    Args:
        q_XNK: how the state is read.
        k_XNK: under what a value is stored.
        v_XNK: what is stored.
        beta_XN: how much of it, 0 to 1.
        log_XN: the logarithms, at most 0, of what each token leaves of the state.
    """
    tokens = q_XNK.shape[1]
    q, k, v, beta, log = (in_chunks(x, CHUNK) for x in (q_XNK, k_XNK, v_XNK, beta_XN.unsqueeze(2), log_XN.unsqueeze(2)))
    upto_XMC1 = (log * LOG2_E).cumsum(2)
    total_XM11 = upto_XMC1[:, :, -1:]
    decay_XMCC = _decays(upto_XMC1)
    written_XMCK, erased_XMCK = _solved(k, v, beta, upto_XMC1, decay_XMCC)
    seen_XMCC = q @ k.mT * decay_XMCC
    read_XMCK, kept_XMCK = q * upto_XMC1.exp2(), k * (total_XM11 - upto_XMC1).exp2()
    state_XKK = q.new_zeros(len(q), q.shape[3], q.shape[3])
    results = []
    for written, erased, seen, read, kept, total in zip(
        *(x.unbind(1) for x in (written_XMCK, erased_XMCK, seen_XMCC, read_XMCK, kept_XMCK, total_XM11.exp2())),
        strict=True,
    ):
        new_XCK = torch.baddbmm(written, erased, state_XKK, alpha=-1)
        results.append(torch.baddbmm(read @ state_XKK, seen, new_XCK))
        state_XKK = torch.baddbmm(total * state_XKK, kept.mT, new_XCK)
    return torch.cat(results, 1)[:, :tokens]


def _decays(upto_XMC1: Tensor) -> Tensor:
    """What is left at token i of what token j has stored, for j <= i of a chunk; 0 for later ones: (X, M, C, C)."""
    later_CC = torch.ones(CHUNK, CHUNK, dtype=torch.bool, device=upto_XMC1.device).triu(1)
    # Replaced before, as the exponential may overflow where it is not wanted.
    return (upto_XMC1 - upto_XMC1.mT).masked_fill(later_CC, -torch.inf).exp2()


def _solved(k: Tensor, v: Tensor, beta: Tensor, upto: Tensor, decay: Tensor) -> tuple[Tensor, Tensor]:
    """u = written - erased S, for the state S that enters a chunk: (X, M, C, K) each.

    Within a chunk (1 + L) u = beta (v - exp(upto) k S), with L_ij = beta_i decay_ij k_i . k_j for j < i.
    """
    system = (beta * decay * (k @ k.mT)).tril(-1)
    right = torch.cat([beta * v, beta * upto.exp2() * k], 3)
    written, erased = torch.linalg.solve_triangular(system, right, upper=False, unitriangular=True).chunk(2, 3)
    return written, erased
