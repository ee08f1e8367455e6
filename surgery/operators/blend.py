"""Several mixers over the same queries, keys and values, summed by learned gates.

Source: a layer that is half neighbourhood and half linear attention keeps a diffusion transformer's quality with all of
its attention replaced (arXiv 2605.02772).

Shape legend: B batch, H heads, N queries, M keys, K features of a head, P parts.
"""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from pydantic import AfterValidator
from torch import Tensor, nn
from typing_extensions import override

from surgery.operators.core_mixer import CoreMixer
from surgery.operators.dims import MixerDims
from surgery.operators.kinds import AnyOperator
from surgery.operators.mixer import MixerConfig, MixerCore


def _have_cores(parts: tuple[AnyOperator, ...]) -> tuple[AnyOperator, ...]:
    if len(parts) < 2:
        raise ValueError("must be two mixers or more")
    for part in parts:
        if not isinstance(part, MixerConfig) or type(part).core is MixerConfig.core:
            raise ValueError(f"{type(part).__name__} has no core that mixes queries, keys and values")
    return parts


class Blend(MixerConfig):
    """y = sum_p g_p y_p, where y_p is what part p makes of the same q, k and v, and g_p has one number for each head.

    Attributes:
        parts: what is blended, e.g. `(NeighbourhoodAttention(window=5), LinearAttention(centre=True))`.
        start: the gates at first: "equal", 1 / P each, or "first", which is the first part alone.
    """

    kind: Literal["blend"] = "blend"
    parts: Annotated[tuple[AnyOperator, ...], AfterValidator(_have_cores)]
    start: Literal["equal", "first"] = "equal"

    @property
    def mixers(self) -> tuple[MixerConfig, ...]:
        """The parts, as the validator knows them."""
        return tuple(part for part in self.parts if isinstance(part, MixerConfig))

    @property
    @override
    def takes_any_length(self) -> bool:
        """Whether all parts do."""
        return all(part.takes_any_length for part in self.parts)

    @property
    @override
    def is_causal(self) -> bool:
        """Whether all parts are."""
        return all(part.is_causal for part in self.mixers)

    @property
    @override
    def causal_advice(self) -> str:
        """That of the parts that are not causal."""
        return ", ".join(dict.fromkeys(part.causal_advice for part in self.mixers if not part.is_causal))

    @override
    def build(self, dims: MixerDims) -> BlendMixer:
        """Return a new BlendMixer with random projections."""
        return BlendMixer(self, dims)

    @override
    def core(self, dims: MixerDims) -> BlendCore:
        """Return a new BlendCore.

        Raises:
            RewriteError: a part has no core of these sizes, or needs keys and values of other sizes.
        """
        return BlendCore(self, dims)

    @override
    def flops_mixing(self, dims: MixerDims, batch: int, tokens: int) -> int:
        """Those of the parts' cores, and N E (2 P - 1) for the gates, for each of the batch."""
        return self._counted(dims).flops_mixing(batch, tokens)

    @override
    def flops_featuriser(self, dims: MixerDims, batch: int, tokens: int) -> int:
        """What the parts' cores cost besides."""
        core = self._counted(dims)
        return core.flops(batch, tokens) - core.flops_mixing(batch, tokens)

    def _counted(self, dims: MixerDims) -> BlendCore:
        """A core without weights: that of a part need not cost what its config says of the whole, as of Mamba2."""
        with torch.device("meta"):
            return self.core(dims)


class BlendCore(MixerCore):
    """The parts' cores and their gates."""

    mixes_any_dtype = True  # each part casts for itself, and one without weights keeps its precision

    def __init__(self, config: Blend, dims: MixerDims) -> None:
        super().__init__(config, dims)
        parts = [part.core(dims) for part in config.mixers]
        self.mixes_one_stream = any(part.mixes_one_stream for part in parts)  # type: ignore[misc]
        self.takes_mask = all(part.takes_mask for part in parts)  # type: ignore[misc]
        self.parts = nn.ModuleList(parts)
        gates_PH = torch.full((len(parts), dims.heads), 1 / len(parts))
        if config.start == "first":
            gates_PH = torch.zeros_like(gates_PH)
            gates_PH[0] = 1
        self.gates = nn.Parameter(gates_PH)

    @override
    def mix(
        self,
        q_BHNK: Tensor,
        k_BHMK: Tensor,
        v_BHMK: Tensor,
        mask: Tensor | None = None,
        *,
        grid: tuple[int, ...] | None = None,
    ) -> Tensor:
        """The gated sum of what the parts make of it: (B, H, N, K)."""
        first, *others = (part(q_BHNK, k_BHMK, v_BHMK, mask, grid=grid) for part in self.parts)
        gate, *gates = self.gates[..., None, None]
        y_BHNK: Tensor = gate * first
        for gate, part_BHNK in zip(gates, others, strict=True):
            y_BHNK = torch.addcmul(y_BHNK, gate, part_BHNK)
        return y_BHNK

    @override
    def why_inexact(self) -> str | None:
        """What its first part says, if it starts as that alone."""
        assert isinstance(self.config, Blend)
        if self.config.start == "equal":
            return "a blend starts as the mean of its parts; use start='first'"
        return self._cores[0].why_inexact()

    @override
    def flops(self, batch: int, tokens: int) -> int:
        """Those of the parts' cores, and of the gates."""
        return self._gating(batch, tokens) + sum(part.flops(batch, tokens) for part in self._cores)

    @override
    def flops_mixing(self, batch: int, tokens: int) -> int:
        """Those of mixing alone, and of the gates."""
        return self._gating(batch, tokens) + sum(part.flops_mixing(batch, tokens) for part in self._cores)

    @property
    def _cores(self) -> list[MixerCore]:
        return [part for part in self.parts if isinstance(part, MixerCore)]

    def _gating(self, batch: int, tokens: int) -> int:
        return batch * tokens * self.dims.inner * (2 * len(self.parts) - 1)


class BlendMixer(CoreMixer):
    """A blend between projections, which all parts share."""

    @override
    def why_inexact(self, attention: nn.Module) -> str | None:
        """As of its core; what a part starts as is known without the attention."""
        del attention
        return self.core.why_inexact()
