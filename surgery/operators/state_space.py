"""The scan of Mamba-2 in chunks: matrix products within chunks of tokens, and a small state from chunk to chunk.

Source: "Transformers are SSMs: Generalized Models and Efficient Algorithms Through Structured State Space Duality"
(arXiv 2405.21060), section 6.

Shape legend: B batch, N tokens, M chunks, Q and R tokens of a chunk, H heads, P features of a head, E = H P,
S features of the state.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from surgery.operators.chunks import in_chunks, states, tokens_at_once

# Per token, the weights within a chunk take H CHUNK numbers and the states E S / CHUNK: about equal in Mamba-2.
CHUNK = 32
# torch's exp takes 7 times as long where it underflows, as strong decays do; exp2 does not.
LOG2_E = math.log2(math.e)


@dataclass(frozen=True)
class Segment:
    """Consecutive tokens in chunks, with zeros behind the end: they add nothing and leave the state as it is.

    Attributes:
        tokens: how many there are, without zeros.
        x: (B, M, Q, H, P); it and the others are those of `state_space`.
        log: (B, M, Q, H), to the base 2.
        b, c: (B, M, Q, S).
    """

    tokens: int
    x: Tensor
    log: Tensor
    b: Tensor
    c: Tensor

    @classmethod
    def of(cls, x_BNHP: Tensor, log_BNH: Tensor, b_BNS: Tensor, c_BNS: Tensor) -> Segment:
        """See `state_space`."""
        return cls(x_BNHP.shape[1], *(in_chunks(x, CHUNK) for x in (x_BNHP, log_BNH * LOG2_E, b_BNS, c_BNS)))

    def whole(self, y_BMQHP: Tensor) -> Tensor:
        """A result of all chunks as (B, N, H, P)."""
        return y_BMQHP.flatten(1, 2)[:, : self.tokens]


State = Tensor | None
"""What has been carried from chunk to chunk, (B, S, H, P); None is zero."""


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
    size = tokens_at_once(x_BNHP, x_BNHP.shape[1], CHUNK)
    pieces = zip(*(torch.split(each, size, 1) for each in (x_BNHP, log_BNH, b_BNS, c_BNS)), strict=True)
    segments = [Segment.of(*piece) for piece in pieces]
    state: State = None
    results = []
    for segment in segments:
        y_BNHP, state = from_left(segment, state, causal=causal)
        results.append(y_BNHP)
    if not causal:
        state = None
        for number, segment in reversed(list(enumerate(segments))):
            y_BNHP, state = from_right(segment, state)
            results[number] = results[number] + y_BNHP
    return torch.cat(results, 1)


def from_left(segment: Segment, state_BSHP: State, *, causal: bool) -> tuple[Tensor, Tensor]:
    """What tokens before, and of the same chunk, contribute: (B, N, H, P); if not causal, later ones of it too.

    Args:
        segment: of the tokens.
        state_BSHP: what the segments before have left.
        causal: see `state_space`.

    Returns:
        That, and the state behind the segment.
    """
    upto_BMQH = segment.log.cumsum(2)
    total_BM1H = upto_BMQH[:, :, -1:]
    entering_BMQH, read_BMQH = (total_BM1H - upto_BMQH).exp2(), upto_BMQH.exp2()
    earlier_BMQHP, state_BSHP = _across(segment, entering_BMQH, read_BMQH, total_BM1H, state_BSHP)
    return segment.whole(_within(segment, upto_BMQH, causal) + earlier_BMQHP), state_BSHP


def from_right(segment: Segment, state_BSHP: State) -> tuple[Tensor, Tensor]:
    """What tokens of later chunks contribute, as `from_left`; the state is that before the segment."""
    upto_BMQH = segment.log.cumsum(2)
    before_BMQH, total_BM1H = _shifted(upto_BMQH), upto_BMQH[:, :, -1:]
    entering_BMQH, read_BMQH = before_BMQH.exp2(), (total_BM1H - before_BMQH).exp2()
    later_BMQHP, state_BSHP = _across(segment, entering_BMQH, read_BMQH, total_BM1H, state_BSHP, backwards=True)
    return segment.whole(later_BMQHP), state_BSHP


def _shifted(upto_BMQH: Tensor) -> Tensor:
    """Sums up to the token before; less the token's own, they would be rounded as that is, which may be huge."""
    return F.pad(upto_BMQH[:, :, :-1], (0, 0, 1, 0))


def _within(segment: Segment, upto_BMQH: Tensor, causal: bool) -> Tensor:
    """What the tokens of the same chunk contribute: (B, M, Q, H, P)."""
    upto_BMHQ = upto_BMQH.transpose(2, 3)
    decay_BMHQR = upto_BMHQ.unsqueeze(4) - upto_BMHQ.unsqueeze(3)
    later_QR = torch.ones(CHUNK, CHUNK, dtype=torch.bool, device=upto_BMQH.device).triu(1)
    # Replaced before, as the exponential may overflow where it is not wanted.
    if causal:
        decay_BMHQR = decay_BMHQR.masked_fill_(later_QR, -torch.inf)
    else:
        before_BMHQ = _shifted(upto_BMQH).transpose(2, 3)
        decay_BMHQR = torch.where(later_QR, before_BMHQ.unsqueeze(3) - before_BMHQ.unsqueeze(4), decay_BMHQR)
    scores_BM1QR = (segment.c @ segment.b.mT).unsqueeze(2)
    x_BMHQP = segment.x.transpose(2, 3)
    return (decay_BMHQR.exp2_().to(x_BMHQP.dtype) * scores_BM1QR @ x_BMHQP).transpose(2, 3)


def _across(
    segment: Segment, entering_BMQH: Tensor, read_BMQH: Tensor, total_BM1H: Tensor, state_BSHP: State,
    *, backwards: bool = False,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """What comes from the chunks before each, or after: (B, M, Q, H, P); and the state after all, or before.

    Args:
        segment: of the tokens.
        entering_BMQH: what the end of the chunk keeps of each token, or its beginning.
        read_BMQH: what each token keeps of what enters the chunk.
        total_BM1H: the logarithm of what a whole chunk keeps.
        state_BSHP: what enters the segment.
        backwards: from the last chunk to the first.
    """
    x_BMQHP = segment.x
    dtype = x_BMQHP.dtype
    entering_BMQHP = x_BMQHP * entering_BMQH.unsqueeze(4).to(dtype)
    added_BMSE = segment.b.mT @ entering_BMQHP.flatten(3)
    added_BMSHP = added_BMSE.view(*added_BMSE.shape[:3], *x_BMQHP.shape[3:])
    kept_BM1H1 = total_BM1H.exp2().unsqueeze(4)
    if state_BSHP is None:
        state_BSHP = kept_BM1H1.new_zeros(len(added_BMSHP), *added_BMSHP.shape[2:])
    entered_BMSHP, last_BSHP = states(kept_BM1H1, added_BMSHP, state_BSHP, torch.mul, backwards=backwards)
    read_BMQHP = (segment.c @ entered_BMSHP.flatten(3).to(dtype)).view(x_BMQHP.shape)
    return read_BMQHP * read_BMQH.unsqueeze(4).to(dtype), last_BSHP
