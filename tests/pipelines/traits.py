"""What diffusers' pipelines do between their latents and their transformer, to draw pipelines from."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from hypothesis import strategies as st

BAD = {
    "square": "hidden_states",
    "scaled by time": "hidden_states",
    "sum": "hidden_states",
    "mixed": "timestep",
    "noise": "extra",
    "clamped": "latents",
    "curved": "model output",
    "latents in the output": "model output",
}
"""What is no wiring, and a word of the error that refuses it."""


@dataclass(frozen=True)
class Traits:
    """How a pipeline feeds its transformer.

    Attributes:
        size: channels, height and width of the latents.
        packed: the scheduler's latents are tokens.
        layout: of `hidden_states`: "same" as the latents, "last" (channels), "tokens" or "list" (one item a sample).
        constant: what stands beside the latents: "channels", "tokens" or "".
        time: how t is passed.
        guidance: by "rows" of one forward, by "calls", or "".
        guided: what becomes of the branches: their "sum" by weights, which may follow the time ("in time"), or one that
            is given the "norm" or the "spread" of the conditional branch, or adds up ("momentum") over the steps.
        scaled: the scheduler scales the latents by the time before the transformer sees them.
        doubled: the scheduler is given the latents twice, as DiT's is.
        single: it makes one sample at a time.
        masked, embedded, numbered: it gives a mask of the text, a strength of guidance, ids that all samples share.
        cached: it gives an object that is made anew in each run.
        bad: a key of `BAD`.
    """

    size: tuple[int, int, int] = (2, 2, 2)
    packed: bool = False
    layout: str = "same"
    sign: int = 1
    variance: bool = False
    constant: str = ""
    time: str = "t"
    guidance: str = ""
    conditional_first: bool = False
    guided: str = "sum"
    scaled: str = ""
    doubled: bool = False
    single: bool = False
    masked: bool = False
    embedded: bool = False
    numbered: bool = False
    cached: bool = False
    dtype: torch.dtype = torch.float32
    wide_latents: bool = False
    bad: str | None = None


@st.composite
def traits(draw: st.DrawFn, bad: st.SearchStrategy[str | None] | None = None) -> Traits:
    """Pipelines as diffusers has them; with `bad`, with something that is no wiring."""
    size = draw(st.tuples(st.integers(1, 3), st.integers(1, 4), st.integers(2, 40)))
    packed = draw(st.booleans())
    layout = draw(st.sampled_from(["same", "list"] if packed else ["same", "last", "tokens", "list"]))
    has_tokens = layout == "tokens" or (packed and layout == "same")
    constants = ["", *(["channels"] * (not packed)), *(["tokens"] * has_tokens)]
    times = ["t", "t / 1000", "1 - t / 1000", "rounded", "half", "number", "shared", *(["per token"] * has_tokens)]
    guidance = draw(st.sampled_from(["", "rows", "calls"]))
    return Traits(
        size, packed, layout,
        sign=draw(st.sampled_from([1, -1])),
        variance=draw(st.booleans()) and layout == "same" and not packed,
        constant=draw(st.sampled_from(constants)),
        time=draw(st.sampled_from(times)),
        guidance=guidance,
        conditional_first=draw(st.booleans()),
        guided=draw(st.sampled_from(["sum", "norm", "spread", "in time", "momentum"])) if guidance else "sum",
        scaled=draw(st.sampled_from(["", "", "divided", "multiplied"])),
        doubled=guidance == "rows" and draw(st.booleans()),
        single=draw(st.integers(0, 4)) == 0,
        masked=draw(st.booleans()),
        embedded=draw(st.booleans()),
        numbered=draw(st.booleans()),
        dtype=draw(st.sampled_from([torch.float32, torch.bfloat16, torch.float16])),
        wide_latents=draw(st.booleans()),
        bad=None if bad is None else draw(bad),
    )  # fmt: skip
