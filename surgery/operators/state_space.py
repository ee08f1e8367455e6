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
# Tokens at a time, so that what is in between stays small: 2 to 3 times faster than all 16,384 tokens at once.
SEGMENT = 1024


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
    tokens = (x_BNHP, log_BNH, b_BNS, c_BNS)
    forth_BNHP = _scan(*tokens, latest=0)
    if causal:
        return forth_BNHP
    return forth_BNHP + _scan(*(each.flip(1) for each in tokens), latest=-1).flip(1)


def _scan(x_BNHP: Tensor, log_BNH: Tensor, b_BNS: Tensor, c_BNS: Tensor, *, latest: int) -> Tensor:
    """The sum of `state_space` over j <= i + latest: (B, N, H, P)."""
    state_BSHP = log_BNH.new_zeros(len(x_BNHP), b_BNS.shape[2], *x_BNHP.shape[2:])
    segments = []
    for segment in zip(*(torch.split(each, SEGMENT, 1) for each in (x_BNHP, log_BNH, b_BNS, c_BNS)), strict=True):
        x, log, b, c = (_in_chunks(each) for each in segment)
        earlier_BMQHP, state_BSHP = _across(x, log, b, c, state_BSHP)
        y_BMQHP = _within(x, log, b, c, latest=latest) + earlier_BMQHP
        segments.append(y_BMQHP.flatten(1, 2)[:, : segment[0].shape[1]])
    return torch.cat(segments, 1)


def _in_chunks(x: Tensor) -> Tensor:
    """(B, N, …) to (B, M, Q, …), zeros behind the end: they add nothing and leave the state as it is."""
    chunks = (x.shape[1] + CHUNK - 1) // CHUNK
    padding = (0, 0) * (x.ndim - 2) + (0, chunks * CHUNK - x.shape[1])
    return F.pad(x, padding).reshape(len(x), chunks, CHUNK, *x.shape[2:])


def _within(x_BMQHP: Tensor, log_BMQH: Tensor, b_BMQS: Tensor, c_BMQS: Tensor, *, latest: int) -> Tensor:
    """What the tokens of the same chunk contribute: (B, M, Q, H, P)."""
    upto_BMHQ = log_BMQH.cumsum(2).transpose(2, 3)
    unseen_QR = torch.ones(CHUNK, CHUNK, dtype=torch.bool, device=x_BMQHP.device).triu(latest + 1)
    # Masked before, as the exponential may overflow where it is not wanted.
    decay_BMHQR = (upto_BMHQ.unsqueeze(4) - upto_BMHQ.unsqueeze(3)).masked_fill(unseen_QR, -torch.inf).exp()
    scores_BM1QR = (c_BMQS @ b_BMQS.mT).unsqueeze(2)
    return (decay_BMHQR.to(x_BMQHP.dtype) * scores_BM1QR @ x_BMQHP.transpose(2, 3)).transpose(2, 3)


def _across(
    x_BMQHP: Tensor, log_BMQH: Tensor, b_BMQS: Tensor, c_BMQS: Tensor, state_BSHP: Tensor
) -> tuple[Tensor, Tensor]:
    """What comes from before each chunk, given the state before the first: (B, M, Q, H, P); and the state after all."""
    dtype = x_BMQHP.dtype
    upto_BMQH = log_BMQH.cumsum(2)
    total_BM1H = upto_BMQH[:, :, -1:]
    entering_BMQHP = x_BMQHP * (total_BM1H - upto_BMQH).exp().unsqueeze(4).to(dtype)
    added_BMSE = b_BMQS.mT @ entering_BMQHP.flatten(3)
    states = [state_BSHP]
    for added_BSE, kept_B1H in zip(added_BMSE.unbind(1), total_BM1H.exp().unbind(1), strict=True):
        states.append(torch.addcmul(added_BSE.view(state_BSHP.shape), kept_B1H.unsqueeze(3), states[-1]))
    before_BMSE = torch.stack(states[:-1], 1).flatten(3).to(dtype)
    read_BMQHP = (c_BMQS @ before_BMSE).view(x_BMQHP.shape)
    return read_BMQHP * upto_BMQH.exp().unsqueeze(4).to(dtype), states[-1]
