"""The scan of Mamba-2 in chunks: matrix products within chunks of tokens, and a small state from chunk to chunk.

Source: "Transformers are SSMs: Generalized Models and Efficient Algorithms Through Structured State Space Duality"
(arXiv 2405.21060), section 6.

Shape legend: B batch, N tokens, M chunks, Q and R tokens of a chunk, H heads, P features of a head, E = H P,
S features of the state.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

# Per token, the weights within a chunk take H CHUNK numbers and the states E S / CHUNK: about equal in Mamba-2.
CHUNK = 32


def state_space(x_BNHP: Tensor, log_BNH: Tensor, b_BNS: Tensor, c_BNS: Tensor, *, causal: bool) -> Tensor:
    """y_i = sum over j of decay(i, j) (c_i . b_j) x_j: (B, N, H, P), in time and memory linear in N.

    decay(i, j) is exp(log_j+1 + … + log_i) for j <= i. For j > i it is 0 if causal, else exp(log_i + … + log_j-1), that
    of a second scan from the last token to the first; token i itself counts once.

    Args:
        x_BNHP: what enters the state.
        log_BNH: the logarithms, at most 0, of what each token leaves of the state; float32 at least.
        b_BNS: where in the state it enters, the same for all heads.
        c_BNS: where it is read.
        causal: see above.
    """
    tokens = x_BNHP.shape[1]
    x, log, b, c = (_in_chunks(each) for each in (x_BNHP, log_BNH, b_BNS, c_BNS))
    y_BMQHP = _within(x, log, b, c, causal=causal) + _across(x, log, b, c)
    if not causal:
        y_BMQHP = y_BMQHP + _across(*(each.flip(1, 2) for each in (x, log, b, c))).flip(1, 2)
    return y_BMQHP.flatten(1, 2)[:, :tokens]


def _in_chunks(x: Tensor) -> Tensor:
    """(B, N, …) to (B, M, Q, …), zeros behind the end: they add nothing and leave the state as it is."""
    padding = (0, 0) * (x.ndim - 2) + (0, -x.shape[1] % CHUNK)
    return F.pad(x, padding).reshape(len(x), -1, CHUNK, *x.shape[2:])


def _within(x_BMQHP: Tensor, log_BMQH: Tensor, b_BMQS: Tensor, c_BMQS: Tensor, *, causal: bool) -> Tensor:
    """What the tokens of the same chunk contribute: (B, M, Q, H, P)."""
    scores_BMQR = c_BMQS @ b_BMQS.mT
    weights_BMHQR = _decay(log_BMQH.transpose(2, 3), causal=causal).to(x_BMQHP.dtype) * scores_BMQR.unsqueeze(2)
    return (weights_BMHQR @ x_BMQHP.transpose(2, 3)).transpose(2, 3)


def _decay(log_BMHQ: Tensor, *, causal: bool) -> Tensor:
    """decay(i, j) of `state_space` within a chunk: (B, M, H, Q, R)."""
    upto_BMHQ = log_BMHQ.cumsum(3)
    between_BMHQR = upto_BMHQ.unsqueeze(4) - upto_BMHQ.unsqueeze(3)
    past_QR = torch.ones(CHUNK, CHUNK, dtype=torch.bool, device=log_BMHQ.device).tril()
    if causal:
        return between_BMHQR.masked_fill(~past_QR, -torch.inf).exp()
    before_BMHQ = upto_BMHQ - log_BMHQ
    return torch.where(past_QR, between_BMHQR, before_BMHQ.unsqueeze(3) - before_BMHQ.unsqueeze(4)).exp()


def _across(x_BMQHP: Tensor, log_BMQH: Tensor, b_BMQS: Tensor, c_BMQS: Tensor) -> Tensor:
    """What the tokens of earlier chunks contribute: (B, M, Q, H, P)."""
    upto_BMQH = log_BMQH.cumsum(2)
    total_BM1H = upto_BMQH[:, :, -1:]
    entering_BMQHP = x_BMQHP * (total_BM1H - upto_BMQH).exp().unsqueeze(4).to(x_BMQHP.dtype)
    added_BMSE = b_BMQS.mT @ entering_BMQHP.flatten(3)
    states_BMSE = _states(added_BMSE.view(*added_BMSE.shape[:3], *x_BMQHP.shape[3:]), total_BM1H.exp())
    read_BMQHP = (c_BMQS @ states_BMSE).view(x_BMQHP.shape)
    return read_BMQHP * upto_BMQH.exp().unsqueeze(4).to(x_BMQHP.dtype)


def _states(added_BMSHP: Tensor, kept_BM1H: Tensor) -> Tensor:
    """The state before each chunk, h <- kept h + added from zero on: (B, M, S, E)."""
    state_BSHP = torch.zeros_like(added_BMSHP[:, 0], dtype=kept_BM1H.dtype)
    states = [state_BSHP]
    for added, kept in zip(added_BMSHP[:, :-1].unbind(1), kept_BM1H[:, :-1].unbind(1), strict=True):
        state_BSHP = torch.addcmul(added, kept.unsqueeze(3), state_BSHP)
        states.append(state_BSHP)
    return torch.stack(states, 1).flatten(3).to(added_BMSHP.dtype)
