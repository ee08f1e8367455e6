"""The gated delta rule in chunks of tokens: a triangular system within each, a small state from chunk to chunk.

Sources: "Gated Delta Networks: Improving Mamba2 with Delta Rule" (arXiv 2412.06464); "Parallelizing Linear Transformers
with the Delta Rule over Sequence Length" (arXiv 2406.06484), section 3, for the form in chunks.

Shape legend: X sequences, N tokens, M chunks, C tokens of a chunk, K features of queries, keys and values.
"""

from __future__ import annotations

import math
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from surgery.operators.chunks import in_chunks, in_segments, states

CHUNK = 64
"""Tokens of a chunk, a power of 2: a matrix of C x C for each of H heads, and one of K x K from chunk to chunk."""
LOG2_E = math.log2(math.e)


def gated_delta_rule(
    q_XNK: Tensor, k_XNK: Tensor, v_XNK: Tensor, beta_XN: Tensor, log_XN: Tensor, *, backwards: bool = False
) -> Tensor:
    """y_i = S_i^T q_i with S_i = e_i S_i-1 + k_i u_i^T, u_i = beta_i (v_i - e_i S_i-1^T k_i): (X, N, K).

    What the state held under a key is replaced by beta towards its value, and the state fades by e = exp(log). Time and
    memory are linear in N; for keys of length 1 and beta at most 1, no state grows without bounds.

    Args:
        q_XNK: how the state is read.
        k_XNK: under what a value is stored.
        v_XNK: what is stored.
        beta_XN: how much of it, 0 to 1.
        log_XN: the logarithms, at most 0, of what each token leaves of the state.
        backwards: from the last token to the first.
    """
    sequences = (q_XNK, k_XNK, v_XNK, beta_XN.unsqueeze(2), log_XN.unsqueeze(2) * LOG2_E)
    first_XKK = k_XNK.new_zeros(len(k_XNK), k_XNK.shape[2], k_XNK.shape[2])
    return in_segments(partial(_scan, backwards=backwards), sequences, first_XKK, CHUNK, backwards=backwards)


def _scan(
    q: Tensor, k: Tensor, v: Tensor, beta: Tensor, log: Tensor, state_XKK: Tensor, *, backwards: bool
) -> tuple[Tensor, Tensor]:
    """The results of some tokens, and the state that they leave. Tokens of zeros behind the end change no state.

    Within a chunk (1 + L) u = beta (v - exp(upto) k S), with L_ij = beta_i decay_ij k_i . k_j for j before i; so
    u = written - erased S, and the next state is linear in S.
    """
    tokens = q.shape[1]
    q, k, v, beta, log = (in_chunks(x, CHUNK) for x in (q, k, v, beta, log))
    upto_XMC1 = log.flip(2).cumsum(2).flip(2) if backwards else log.cumsum(2)
    total_XM11 = upto_XMC1[:, :, :1] if backwards else upto_XMC1[:, :, -1:]
    decay_XMCC, read_XMC1 = _decays(upto_XMC1, backwards), upto_XMC1.exp2()
    stored_XMCK = beta * k
    system_XMCC = stored_XMCK @ k.mT * decay_XMCC
    solved_XMCC = inverse(system_XMCC.mT).mT if backwards else inverse(system_XMCC)
    written_XMCK, erased_XMCK = solved_XMCC @ (beta * v), solved_XMCC @ (read_XMC1 * stored_XMCK)
    kept_XMKC = (k * (total_XM11 - upto_XMC1).exp2()).mT
    fading_XMKK = total_XM11.exp2() * torch.eye(k.shape[3], dtype=k.dtype, device=k.device)
    entered_XMKK, last_XKK = states(
        fading_XMKK - kept_XMKC @ erased_XMCK, kept_XMKC @ written_XMCK, state_XKK, torch.matmul, backwards=backwards
    )
    new_XMCK = written_XMCK - erased_XMCK @ entered_XMKK
    y_XMCK = (read_XMC1 * q) @ entered_XMKK + (q @ k.mT * decay_XMCC) @ new_XMCK
    return y_XMCK.flatten(1, 2)[:, :tokens], last_XKK


def _decays(upto_XMC1: Tensor, backwards: bool) -> Tensor:
    """What is left at token i of what token j has stored before, or at i itself; 0 for others: (X, M, C, C)."""
    all_CC = torch.ones(CHUNK, CHUNK, dtype=torch.bool, device=upto_XMC1.device)
    unseen_CC = all_CC.tril(-1) if backwards else all_CC.triu(1)
    # Replaced before, as the exponential may overflow where it is not wanted.
    return (upto_XMC1 - upto_XMC1.mT).masked_fill_(unseen_CC, -torch.inf).exp2_()


def inverse(below: Tensor) -> Tensor:
    """(1 + L)^-1, where L is what is below the diagonals of matrices (..., C, C); C is a power of 2.

    By halves: matrix products of all matrices at once, where solving would go row by row. The inverse of
    [[a, 0], [l, d]] is [[a^-1, 0], [-d^-1 l a^-1, d^-1]].
    """
    size = below.shape[-1]
    if size == 1:
        return torch.ones_like(below)
    half = size // 2
    corners = torch.stack([below[..., :half, :half], below[..., half:, half:]], -3)
    first, second = inverse(corners).unbind(-3)
    across = -second @ below[..., half:, :half] @ first
    return torch.cat([F.pad(first, (0, half)), torch.cat([across, second], -1)], -2)
