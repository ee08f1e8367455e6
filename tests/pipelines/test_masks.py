"""Attention under the masks that pipelines give their transformers: replaced, and padding stays without effect."""

from __future__ import annotations

import inspect
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import surgery
from surgery.operators import Blend, GatedDelta, HyenaX, LinearAttention, SlidingWindow
from surgery.pipelines.tree import prediction
from surgery.rules import replace_attention
from tests.pipelines.latest import LATEST
from tests.pipelines.tiny import PIPELINES

SITES = {
    "ChromaPipeline": 4, "HunyuanVideoPipeline": 6, "MotifVideoPipeline": 6, "LongCatImagePipeline": 4,
    "MochiPipeline": 3,
}  # fmt: skip
PADDED = {"HunyuanVideoPipeline": 6, "MotifVideoPipeline": 6}
"""Where a prompt is the same however long its padding is: of Chroma's the mask adds 1 to scores, and hides nothing."""


ALL = Blend(parts=(SlidingWindow(window=2), HyenaX(kernel=3), LinearAttention(), GatedDelta()))


class Given(Exception):
    """The transformer was called."""


@cache
def called(name: str) -> tuple[nn.Module, dict[str, Any]]:
    """The transformer of a tiny pipeline, and what it is first called with."""
    tiny = next(each for each in (*PIPELINES, *LATEST) if each.pipeline == name)
    pipeline, given = tiny.build(), {}

    def see(module: nn.Module, args: Any, kwargs: Any) -> None:
        given.update(inspect.signature(type(module).forward).bind(module, *args, **kwargs).arguments)
        raise Given

    hook = pipeline.transformer.register_forward_pre_hook(see, with_kwargs=True)
    with pytest.raises(Given):
        pipeline(**tiny.call)
    hook.remove()
    given.pop("self")
    return pipeline.transformer, given


def output(model: nn.Module, inputs: dict[str, Any]) -> Tensor:
    with torch.no_grad():
        return prediction(model(**inputs))


@pytest.mark.parametrize("name", SITES)
def test_all_attention_is_replaced(name: str) -> None:
    teacher, inputs = called(name)
    graph = surgery.trace(teacher, inputs)
    # Under the pipeline's mask a window over all tokens computes what the teacher does; a mask that is lost would show.
    same = surgery.rewrite(graph, [replace_attention(SlidingWindow(window=1000))])
    torch.testing.assert_close(output(same, inputs), output(teacher, inputs), rtol=1e-4, atol=1e-4)
    assert len(surgery.plan(graph, [replace_attention(ALL)]).edits) == SITES[name]
    student = surgery.rewrite(graph, [replace_attention(ALL)])
    found = output(student, inputs)
    assert torch.isfinite(found).all()
    assert not torch.allclose(found, output(teacher, inputs))
    if name in PADDED:
        long, short = (prompt(inputs, kept=PADDED[name], length=length) for length in (None, PADDED[name]))
        for model in (teacher, student):
            torch.testing.assert_close(output(model, long), output(model, short), rtol=1e-4, atol=1e-4)


def test_attention_of_one_sample_after_the_other_is_replaced_for_any_number_of_them() -> None:
    """Mochi's: both prompts are of other lengths, and each is attended to alone."""
    teacher, two = called("MochiPipeline")
    one, three = (
        {name: value[rows] if isinstance(value, Tensor) and len(value) == 2 else value for name, value in two.items()}
        for rows in ([1], [0, 1, 0])
    )
    student = surgery.rewrite(teacher, [replace_attention(SlidingWindow(window=1000))], one)
    for inputs in (one, two, three):
        torch.testing.assert_close(output(student, inputs), output(teacher, inputs), rtol=1e-4, atol=1e-4)


def prompt(inputs: dict[str, Any], kept: int, length: int | None) -> dict[str, Any]:
    """The same inputs with so many tokens of text, of which the first are kept."""
    text, mask = inputs["encoder_hidden_states"][:, :length], inputs["encoder_attention_mask"][:, :length].clone()
    mask[:, :kept], mask[:, kept:] = 1, 0
    return {**inputs, "encoder_hidden_states": text, "encoder_attention_mask": mask}
