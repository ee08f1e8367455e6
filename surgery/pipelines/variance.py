"""The learned variance of a denoiser: the part of its prediction that its pipeline leaves out, and how it is trained.

Nichol & Dhariwal, "Improved Denoising Diffusion Probabilistic Models", arXiv 2102.09672: the variance of a step lies
between the smallest and the largest that it can have, beta~ and beta (equation 15), and is trained by the variational
bound, which the mean has no part in (section 3.1).

Shapes: B samples, ... the latents of one.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from surgery.pipelines.process import Process
from surgery.pipelines.wiring import Wiring

HYBRID = 0.001
"""The weight of the variational bound, the sum over all steps, beside the mean squared error of the paper's L_hybrid."""


def variance_elements(wiring: Wiring, process: Process) -> Tensor | None:
    """Which elements of a prediction tell the variance of each element of the latents, flat; None if none does.

    A pipeline that samples with another variance leaves these out. They are as many as those that it reads, and each lies
    at the same distance from its twin, so that either kind could be read by one shift.
    """
    if process.kind != "variance preserving" or wiring.schedule.config.get("variance_type") == "learned":
        return None
    kept = wiring.read.index.long()
    left_out = torch.ones(2 * kept.numel(), dtype=torch.bool, device=kept.device)
    if int(kept.max()) >= left_out.numel():
        return None
    left_out[kept] = False
    others = left_out.nonzero().flatten()
    shifted = kept + (others.min() - kept.min())
    return shifted if torch.equal(shifted.sort().values, others) else None


def hybrid_term(
    process: Process, shares: Tensor, output: Tensor, noised: Tensor, latents: Tensor, positions: Tensor
) -> Tensor:
    """What L_hybrid adds to the mean squared error of each sample, (B,), in float32, or float64 for such latents.

    As in the authors' code, the bound is in bits for each dimension. The last step has the density of the latents, which
    are not on a grid as bytes of an image are.

    Args:
        process: a variance preserving one; of its positions, each is a step.
        shares: what the model says of the variance, -1 for beta~ to 1 for beta, (B, ...).
        output: the model output, (B, ...); no gradient goes into it.
        noised: z_t.
        latents: z.
        positions: of the samples, (B,).
    """
    kept = process.alphas**2
    after = torch.cat([kept[1:], kept.new_ones(1)])
    beta = 1 - kept / after
    smallest = (1 - after) / (1 - kept) * beta
    clipped = torch.cat([smallest[:-1], smallest[-2:-1]])  # the last step has none of its own: it ends without noise
    is_last = torch.arange(len(kept)) == len(kept) - 1
    constant = torch.where(is_last, math.log(2 * math.pi), -clipped.log() - 1)
    pull = beta * after.sqrt() / (1 - kept)  # of the clean latents on the mean of a step

    def at(table: Tensor) -> Tensor:
        return table[positions.to(table.device)].to(latents).reshape(-1, *[1] * (latents.ndim - 1))

    upper = (shares + 1) / 2
    log_variance = upper * at(beta.log()) + (1 - upper) * at(clipped.log())
    error = at(pull) * (latents - process.clean(noised, output.detach(), positions))
    own = at(torch.where(is_last, 0.0, smallest))
    divergence = 0.5 * (log_variance + at(constant) + (own + error.square()) * (-log_variance).exp())
    return HYBRID * len(kept) / math.log(2) * divergence.flatten(1).mean(1)
