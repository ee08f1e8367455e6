"""The one list of mixers that tests of what all of them keep go through, grouped by what they look at."""

from __future__ import annotations

from surgery.operators import (
    TTT,
    Blend,
    FullAttention,
    GatedDelta,
    GroupedQueryAttention,
    HyenaSE,
    HyenaX,
    HyenaY,
    LinearAttention,
    Mamba2,
    MixerConfig,
    MixerDims,
    NeighbourhoodAttention,
    SlidingWindow,
    SparseLinear,
)

DIMS = MixerDims(dim=12, heads=3, head_dim=4, qkv_bias=True, out_bias=False)
ANY_KEYS: list[MixerConfig] = [
    FullAttention(),
    GroupedQueryAttention(groups=1),
    LinearAttention(),
    LinearAttention(features="learned", centre=True),
]
"""Those that serve cross-attention; the others know one stream of tokens."""
ANYWHERE: list[MixerConfig] = [
    *ANY_KEYS,
    GatedDelta(kernel=1),
    Mamba2(kernel=1, causal=True, d_state=3, head_dim=4),
    TTT(kernel=1, causal=True, chunk=1),
    HyenaX(kernel=1),
]
"""Where padding may stand between tokens, as none of them looks at places."""
AT_THE_END: list[MixerConfig] = [
    *ANYWHERE,
    SlidingWindow(window=2),
    LinearAttention(depthwise=3),
    HyenaSE(kernel=3),
    HyenaX(kernel=3, causal=True),
    HyenaY(kernel=3),
    Mamba2(d_state=3, head_dim=4),
    GatedDelta(causal=True),
    TTT(causal=True, chunk=4),
    SparseLinear(block=2, top=2),
    Blend(parts=(SlidingWindow(window=1), LinearAttention(centre=True))),
]
"""Where padding may stand behind the tokens."""
EVERY: list[MixerConfig] = [
    *AT_THE_END,
    SlidingWindow(causal=True),
    NeighbourhoodAttention(window=3),
    HyenaSE(kernel=3, axes=2),
    HyenaX(kernel=3, axes=2),
    HyenaY(kernel=3, axes=2),
    LinearAttention(features="learned", depthwise=3, axes=2),
    GatedDelta(kernel=2),
    TTT(inner="gated", chunk=4, kernel=2),
    Blend(parts=(NeighbourhoodAttention(window=3, dilation=2), LinearAttention(centre=True))),
]
"""With those whose places, borders or chunks are others once tokens are removed."""
ONE_STREAM = EVERY[len(ANY_KEYS) :]
PROJECTED = [config for config in EVERY if not isinstance(config, Mamba2)]
"""Those between projections like an attention's; Mamba-2 has others."""
